"""The task list: each test has a database of its own, and calls functions as clients do."""

import pytest

from kontract import InvalidRequestError, NotFoundError


async def test_a_task_is_created_and_found(api):
    task = await api.create_task("Buy milk")

    assert task["title"] == "Buy milk"
    assert task["done"] is False
    assert await api.get_task(task["id"]) == task
    assert await api.list_tasks() == [task]


async def test_nothing_is_left_from_the_test_before(api):
    assert await api.list_tasks() == []


async def test_who_created_it_is_written_down(api, app):
    ann = api.as_user("ann")

    task = await ann.create_task("Buy milk")

    assert task["created_by"] == "ann"
    assert await app.rows("tasks") == [task]


async def test_a_task_can_be_done_and_undone(api):
    task = await api.create_task("Buy milk")

    assert (await api.toggle_task(task["id"]))["done"] is True
    assert await api.list_tasks(False) == []
    assert (await api.toggle_task(task["id"]))["done"] is False


async def test_tasks_come_in_pages_oldest_first(api):
    made = [await api.create_task(f"Task {number}") for number in range(5)]

    first = await api.list_tasks(None, 3)
    rest = await api.list_tasks(None, 3, first[-1]["id"])

    assert first + rest == made


async def test_a_deleted_task_is_gone(api, app):
    task = await api.create_task("Buy milk")

    assert await api.delete_task(task["id"]) is True
    assert await api.delete_task(task["id"]) is False
    with pytest.raises(NotFoundError, match="there is no task"):
        await api.get_task(task["id"])
    assert await app.rows("tasks") == []


async def test_a_title_is_needed(api, app):
    with pytest.raises(InvalidRequestError, match="title"):
        await api.create_task("")

    assert await app.rows("tasks") == []


async def test_two_changes_at_once_are_both_kept(api, app):
    """The toggle has read the old title when somebody else renames the task: it runs again, with the new one."""
    task = await api.create_task("Buy milk")
    bob = api.as_user("bob")

    with app.before_commit("toggle_task", lambda: bob.rename_task(task["id"], "Buy oat milk")):
        toggled = await api.toggle_task(task["id"])

    assert (toggled["title"], toggled["done"]) == ("Buy oat milk", True)
    assert await app.rows("tasks") == [toggled]


async def test_changes_are_told_as_they_happen(api):
    async with api.changes("tasks") as changes:
        task = await api.create_task("Buy milk")
        event = await anext(changes)

    assert (event.type, event.id) == ("insert", task["id"])
    assert event.data["title"] == "Buy milk"
