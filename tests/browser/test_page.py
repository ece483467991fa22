"""The demo page in a real browser: what one tab does the other shows, by mouse and by keyboard, and what it says."""

from __future__ import annotations

import json
import re

import pytest

from kontract.cli.toolchain.checkout import Checkout
from support.demo_page import add_task, balance_is, has_task, item, open_account
from support.line import line_to

PUBLIC = Checkout.find().root / "public"
SOURCE = Checkout.find().root / "src" / "app"


pytestmark = pytest.mark.usefixtures("no_tasks")


def test_tabs_see_each_others_changes(site, visitor):
    """Every kind of change arrives in the other tab by itself, in both directions."""
    one, two = visitor.demo(site.url), visitor.demo(site.url)

    add_task(one, "Buy milk")
    two.wait(has_task("Buy milk", done=False))

    two.click(f"{item('Buy milk')} input")
    one.wait(has_task("Buy milk", done=True))

    one.click(f"{item('Buy milk')} .rename")
    one.type("Buy oat milk")
    one.press("Enter")
    two.wait(has_task("Buy oat milk", done=True))
    assert not two.run(has_task("Buy milk"))

    two.click(f"{item('Buy oat milk')} .delete")
    one.wait(f"!{has_task('Buy oat milk')}")

    open_account(one, "tab-a", 70)
    open_account(two, "tab-b", 0)
    one.wait(balance_is("tab-b", 0))
    for field, value in {"src": "tab-a", "dst": "tab-b", "amount": "30"}.items():
        one.run(f"document.querySelector('#transfer-{field}').value = '{value}'")
    one.click("#transfer-form button")
    two.wait(balance_is("tab-a", 40))
    two.wait(balance_is("tab-b", 30))


@pytest.mark.long
def test_as_many_tabs_as_one_likes(site, visitor):
    """Streams do not use up the six connections that a browser has for the server: the seventh tab works as well."""
    tabs = [visitor.demo(site.url) for _ in range(7)]
    add_task(tabs[-1], "From the seventh")
    for tab in tabs:
        tab.wait(has_task("From the seventh"))
        assert not [url for url in tab.requests if "/stream?" in url and not url.startswith("ws:")]
    tabs[0].click(f"{item('From the seventh')} input")
    tabs[-1].wait(has_task("From the seventh", done=True))


def test_the_panels_tell_what_a_call_cost_and_whose_commit_it_was(site, visitor):
    """Commit, runs and round trips stand in the table; the stream shows the same commit, here and there."""
    one, two = visitor.demo(site.url), visitor.demo(site.url)
    add_task(one, "Counted")

    one.wait("document.querySelector('#calls tr th').innerText === 'create_task'")
    commit, runs, trips, milliseconds = one.texts("#calls tr:first-child td")
    assert re.fullmatch(r"#[0-9]+", commit)
    assert runs == "1"
    coordinator, database = trips.split(" + ")
    assert 2 <= int(coordinator) <= 3
    assert int(database) >= 1
    assert int(milliseconds) > 0

    first = "document.querySelector('#commits > li:first-child')"
    for tab, whose in ((one, "this tab"), (two, "another tab")):
        tab.wait(f"{first}?.querySelector('.whose').textContent === '{whose}'")
        assert tab.run(f"{first}.querySelector('.txid').textContent") == commit
        assert "Counted" in tab.run(f"{first}.innerText")


@pytest.mark.long
def test_fifty_transfers_at_once_keep_the_total(site, visitor, call):
    """The button opens accounts where there is no money, and says what became of the transfers and of the total."""
    visitor.network_may_fail = True  # a transfer of more than there is will be refused, and the browser notes that
    tab = visitor.demo(site.url)
    tab.click("#storm")
    tab.wait("document.querySelector('#storm-result').textContent", seconds=150)

    total = call("total")
    said = tab.text("#storm-result")
    found = re.match(r"([0-9]+) of 50 transfers committed in [0-9.]+ s, in ([0-9]+) attempts\.", said)
    assert found, said
    assert int(found[1]) > 0, said
    assert int(found[2]) >= int(found[1])
    assert f"The total was {total:,} and is {total:,}: it held." in said
    assert tab.run("document.querySelector('#storm-result').dataset.held") == "yes"
    tab.wait(f"document.querySelector('#accounts-total').textContent === '{total:,}'")


def test_everything_works_by_keyboard_alone(site, visitor):
    """Tab, Enter, Space and Escape reach and do everything, and the focus never falls off the page."""
    tab = visitor.demo(site.url)
    add_task(tab, "Second")
    tab.run("document.activeElement.blur()")

    def focused():
        return tab.run("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText")

    def tab_to(name):
        for _ in range(80):
            tab.press("Tab")
            if focused() == name or tab.run("document.activeElement.labels?.[0]?.innerText.trim()") == name:
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    tab_to("Skip to the demo")
    assert tab.run("document.activeElement.getBoundingClientRect().top >= 0"), (
        "a skip link is seen when it has the focus"
    )
    tab.press("Enter")
    assert tab.run("document.activeElement.id") == "main"
    tab_to("New task")
    tab.type("By keyboard")
    tab.press("Enter")
    tab.wait(has_task("By keyboard"))
    assert tab.run("document.activeElement.id") == "task-title", "the next task can be typed at once"

    tab_to("By keyboard")
    tab.press("Space")
    tab.wait(has_task("By keyboard", done=True))
    tab_to("Rename By keyboard")
    tab.press("Enter")
    assert focused() == "New title of By keyboard"
    tab.type("Never")
    tab.press("Escape")
    assert focused() == "Rename By keyboard", "Escape leaves everything as it was"
    tab.press("Space")
    tab.type("By hand")
    tab.press("Enter")
    tab.wait(has_task("By hand", done=True))
    tab.wait("document.activeElement.getAttribute('aria-label') === 'Rename By hand'")
    tab.press("Tab")
    assert focused() == "Delete By hand"
    tab.press("Enter")
    tab.wait(f"!{has_task('By hand')}")
    tab.wait("document.activeElement.getAttribute('aria-label') === 'Delete Second'")

    for name, text in (("Open an account for", "keys"), ("with", None)):
        tab_to(name)
        if text:
            tab.type(text)
    tab.press("Enter")
    tab.wait(balance_is("keys", 100))
    tab_to("What a transfer does")
    tab.press("Enter")
    assert tab.run("document.querySelector('details').open")


def test_mistakes_are_answered_with_a_sentence_where_they_were_made(site, visitor):
    """Nothing of codes or stacks; the field is marked, has the focus, and is described by the sentence."""
    visitor.network_may_fail = True  # a refused call is noted by the browser, too
    tab = visitor.demo(site.url)
    if not tab.texts("#accounts tr"):
        open_account(tab, "first", 100)
    open_account(tab, "taken", 5)
    open_account(tab, "other", 5)

    def said(error, sentence, field):
        tab.wait(f"document.querySelector('#{error}').textContent === {json.dumps(sentence)}")
        if field:
            assert tab.run("document.activeElement.id") == field
            assert tab.run("document.activeElement.hasAttribute('aria-invalid')")
            assert tab.run("document.activeElement.getAttribute('aria-describedby')") == error

    tab.click("#task-form button")
    said("task-error", "A task needs a title.", "task-title")
    tab.click("#open-form button")
    said("open-error", "An account needs a name.", "open-id")
    tab.type("taken")
    tab.press("Enter")
    said("open-error", "An account with that name already exists.", None)
    for field, value in {"src": "taken", "dst": "taken", "amount": "1.5"}.items():
        tab.run(f"document.querySelector('#transfer-{field}').value = '{value}'")
    tab.click("#transfer-form button")
    said("transfer-error", "Choose two different accounts.", "transfer-dst")
    tab.run("document.querySelector('#transfer-dst').value = 'other'")
    tab.click("#transfer-form button")
    said("transfer-error", "The amount must be a whole number of at least 1.", "transfer-amount")
    tab.run("document.querySelector('#transfer-amount').value = '6'")
    tab.click("#transfer-form button")
    said("transfer-error", "Account 'taken' holds 5, which is less than 6.", None)
    tab.run("document.querySelector('#transfer-amount').value = '5'")
    tab.click("#transfer-form button")
    tab.wait(balance_is("taken", 0))
    assert tab.text("#transfer-error") == "", "what is mended is not held against anybody"


def test_a_task_that_is_gone_is_said_to_be(site, visitor, call):
    """Two people act on one task: the slower one is told so in a sentence, and the list is right again."""
    visitor.network_may_fail = True
    with line_to(site.port) as line:
        tab = visitor.demo(line.url)
        add_task(tab, "Short-lived")
        tab.block("*/stream*")
        line.cut()
        tab.wait("document.querySelector('#state').dataset.state === 'waiting'")
        (task,) = [one for one in call("list_tasks", None, 1000) if one["title"] == "Short-lived"]
        call("delete_task", task["id"])
        assert tab.run(has_task("Short-lived"))

        tab.click(f"{item('Short-lived')} input")
        tab.wait(f"!{has_task('Short-lived')}")
        assert tab.text("#task-error") == "That task has just been deleted elsewhere."
        assert tab.run("document.activeElement.id") == "task-title"


def test_calls_can_be_sealed(site, visitor):
    """With raystream on, calls go through another path, are marked, and their contents are not on the wire."""
    tab = visitor.demo(site.url)
    tab.click("#seal")
    tab.wait("document.querySelector('#calls .tag')?.textContent === 'sealed'")
    before = len(tab.requests)
    add_task(tab, "Between us")
    paths = {url.removeprefix(site.url) for url in tab.requests[before:]}
    assert paths == {"/raystream/rpc"}
    tab.click("#seal")
    add_task(tab, "Between all")
    assert f"{site.url}/rpc/create_task" in tab.requests[before:]


def test_the_source_that_the_page_shows_is_the_source(site, visitor):
    """What a newcomer reads is what runs."""
    tab = visitor.demo(site.url)
    shown = tab.run("Array.from(document.querySelectorAll('pre'), (one) => [one.dataset.source, one.textContent])")
    assert len(shown) == 2
    for name, text in shown:
        lines = [line.strip() for line in (SOURCE / name).read_text().splitlines()]
        start = lines.index(text.splitlines()[0].strip())
        if text.startswith("@"):
            start = lines.index(text.splitlines()[1].strip()) - 1
        assert [line.strip() for line in text.splitlines()] == lines[start : start + len(text.splitlines())]


def test_the_page_is_small(site, visitor):
    """A budget: what a first visit transfers and asks for, without any other host (see Visitor.check)."""
    tab = visitor.demo(site.url)
    files = [url for url in tab.requests if "/rpc/" not in url and "/auth/" not in url and "/stream" not in url]
    assert len(set(files)) <= 20, files
    served = [path for path in PUBLIC.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg")]
    weight = sum(path.stat().st_size for path in served if not path.relative_to(PUBLIC).as_posix().startswith("docs"))
    assert weight < 110_000
