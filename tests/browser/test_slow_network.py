"""The page while answers are on their way: they are held back here, so that the stream is faster, and so are people.

That is what a slow telephone sees, and a busy machine.
"""

from __future__ import annotations

import pytest

from support.demo_page import add_task, answered, balance_is, has_task, item, open_account

pytestmark = pytest.mark.usefixtures("no_tasks")


def focus(tab):
    return tab.run("document.activeElement.getAttribute('aria-label') || document.activeElement.id")


def test_an_answer_does_not_call_back_who_has_gone_on(site, visitor):
    """A task is renamed, and somebody types elsewhere before the answer: the focus stays there, as does the text."""
    tab = visitor.demo(site.url)
    add_task(tab, "Old title")
    with tab.holding("*/rpc/rename_task") as one_is_held:
        tab.click(f"{item('Old title')} .rename")
        tab.type("New title")
        tab.press("Enter")
        one_is_held()
        tab.click("#open-id")
        tab.type("half a na")
    tab.wait(has_task("New title"))
    assert focus(tab) == "open-id"
    tab.type("me")
    assert tab.run("document.querySelector('#open-id').value") == "half a name"


def test_a_deletion_takes_the_focus_on_once(site, visitor):
    """The next task has it as soon as the stream tells; who leaves for another field keeps it when the answer comes."""
    tab = visitor.demo(site.url)
    for title in ("Third", "Second", "First"):
        add_task(tab, title)
    with tab.holding("*/rpc/delete_task") as one_is_held:
        tab.click(f"{item('First')} .delete")
        one_is_held()
        tab.wait(f"!{has_task('First')}")
        assert focus(tab) == "Delete Second"
        tab.click("#task-title")
    tab.wait("document.querySelector('#announcer').textContent === 'Deleted: First'")
    assert focus(tab) == "task-title"


def test_a_task_that_another_tab_deletes_does_not_put_the_next_one_under_the_finger(site, visitor):
    """Whoever is about to delete one task must not delete another because the first has just gone."""
    one, two = visitor.demo(site.url), visitor.demo(site.url)
    for title in ("Stays", "Goes"):
        add_task(one, title)
    one.run(f"document.querySelector({item('Goes')!r} + ' .delete').focus()")
    two.wait(has_task("Goes"))
    two.click(f"{item('Goes')} .delete")
    one.wait(f"!{has_task('Goes')}")
    assert focus(one) == "task-title"


def test_what_is_sent_meanwhile_is_done_afterwards_and_a_second_click_is_none(site, visitor):
    """The account stands there before its answer: an empty form is a double click, a filled one the next wish."""
    tab = visitor.demo(site.url)
    open_account(tab, "slow-0", 1)
    with tab.holding("*/rpc/open_account") as one_is_held:
        for field, value in {"open-id": "slow-1", "open-balance": "7"}.items():
            tab.run(f"document.querySelector('#{field}').value = '{value}'")
        tab.click("#open-form button")
        one_is_held()
        tab.wait(balance_is("slow-1", 7))
        assert tab.run("document.querySelector('#open-form').ariaBusy") == "true"
        tab.click("#open-form button")
        for name in ("slow-1", "slow-2"):
            tab.click("#open-id")
            tab.type(name)
            tab.press("Enter")
        assert not tab.run(balance_is("slow-2", 100))
        visitor.network_may_fail = True  # there is a slow-1 already
    tab.wait(balance_is("slow-2", 100))
    answered(tab, "#open-form")
    # The error of the first is still to be seen, though the second went well.
    assert tab.text("#open-error") == "An account with that name already exists."
