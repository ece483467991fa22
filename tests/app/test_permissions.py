"""Who may do what: callers with other tokens, and a table that operators have made read-only."""

import pytest

from kontract import PermissionDeniedError, UnauthorizedError, perms


async def test_callers_need_a_token(app):
    with pytest.raises(UnauthorizedError):
        await app.without_token().list_tasks()


async def test_everybody_may_sign_up(app):
    visitor = await app.anonymous()

    task = await visitor.create_task("Buy milk")

    assert task["created_by"] == (await visitor.me()).user


async def test_a_token_expires(api, app):
    app.clock.advance(seconds=3600 + 120)

    with pytest.raises(UnauthorizedError):
        await api.list_tasks()


async def test_a_token_that_may_only_read_cannot_write(api, app):
    reader = app.as_user("ann", perm=perms.R__)

    assert await reader.list_tasks() == []
    with pytest.raises(PermissionDeniedError):
        await reader.create_task("Buy milk")


async def test_a_table_can_be_made_read_only(api, app):
    task = await api.create_task("Buy milk")
    await app.sql("UPDATE storage SET permissions = $1 WHERE id = 'tasks'", int(perms.R__))
    app.clock.advance(seconds=10)  # gateways look that often

    assert await api.get_task(task["id"]) == task
    with pytest.raises(PermissionDeniedError):
        await api.toggle_task(task["id"])


async def test_an_answer_can_be_looked_at_as_it_is(app):
    refused = await app.without_token().response("list_tasks")

    assert refused.status_code == 401
    assert refused.json()["error"] == "UNAUTHORIZED"
    assert "WWW-Authenticate" in refused.headers
