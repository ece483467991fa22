"""Steps of a visitor on the demo page."""

from __future__ import annotations

import json

from support.browser import Tab


def ready(tab: Tab) -> None:
    """Wait until the page is live and has read both tables."""
    tab.wait("document.querySelector('#state').dataset.state === 'open'")
    tab.wait("!document.body.innerText.includes('Loading …')")


def has_task(title, done=None):
    """An expression: there is such a task in the list."""
    state = "" if done is None else f" && one.querySelector('input').checked === {json.dumps(done)}"
    text = json.dumps(title)
    return (
        "Array.from(document.querySelectorAll('#tasks li'))"
        f".some((one) => one.querySelector('.task span')?.textContent === {text}{state})"
    )


def item(title):
    """A selector of the task's entry: its buttons are named after it."""
    return f"#tasks li:has([aria-label={json.dumps('Delete ' + title)}])"


def add_task(tab, title):
    tab.click("#task-title")
    tab.type(title)
    tab.press("Enter")
    tab.wait(has_task(title))
    answered(tab, "#task-form")


def open_account(tab, name, balance):
    tab.click("#open-id")
    tab.type(name)
    tab.run(f"document.querySelector('#open-balance').value = '{balance}'")
    tab.click("#open-form button")
    tab.wait(balance_is(name, balance))
    answered(tab, "#open-form")


def answered(tab, form):
    """Wait until the calls of a form were answered: the stream may have told of their commits before that."""
    tab.wait(f"!document.querySelector({json.dumps(form)}).hasAttribute('aria-busy')")


def balance_is(name, balance):
    return (
        "Array.from(document.querySelectorAll('#accounts tr'), (one) => one.innerText.replace(/\\s+/g, ' ').trim())"
        f".includes({json.dumps(f'{name} {balance}')})"
    )
