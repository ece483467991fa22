"""Idempotency keys of callers without a token, who all look alike: none of them gets another one's answer."""

from __future__ import annotations

import json

import pytest

from kontract import Context, backend, perms
from kontract.core import limits
from support.api import apis, check_error
from support.sessions import token

RANDOM = "5b1f0c6f3a9e4d27b8c0a1d2e3f40516"  # as a client makes one


@backend(public=True, perm=perms.RW_)
async def sign_up(ctx: Context, name: str) -> str:
    """Write a row and return what is this caller's alone."""
    await ctx.storage.tasks.push({"title": name})
    return f"the ticket of {name}"


@pytest.fixture
async def api(postgres):
    async with apis(postgres, [sign_up]) as make:
        yield make()


async def call(api, name: str, key: str | None, authorization: str | None = None):
    return await api.rpc("sign_up", name, idempotency_key=key, authorization=authorization)


def answer(response) -> tuple[str, bool]:
    assert response.status == 200, response.body
    return json.loads(response.body)["result"], "Idempotency-Replayed" in response.headers


@pytest.mark.parametrize("key", ["1", "order-17", "x" * (limits.PUBLIC_KEY_LEAST - 1)])
async def test_a_key_that_can_be_guessed_is_refused(api, key):
    """With a sentence that says what to do, and nothing is done."""
    body = check_error(await call(api, "ann", key), 400, "INVALID_REQUEST")
    assert "without a token" in body["message"]
    assert "POST /auth/anonymous" in body["message"]
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_tasks_5f0c1d") == 0


async def test_a_random_key_makes_repetition_safe_without_a_token(api):
    """A lost answer is the caller's only way to learn what became of it: applied once, answered the same."""
    assert answer(await call(api, "ann", RANDOM)) == ("the ticket of ann", False)
    assert answer(await call(api, "ann", RANDOM)) == ("the ticket of ann", True)
    assert answer(await call(api, "ann", None)) == ("the ticket of ann", False)
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_tasks_5f0c1d") == 2


async def test_who_has_a_token_is_never_taken_for_who_has_none(api):
    """Not even a user whose name is that of callers without one; and with a token any key will do."""
    bearer = f"Bearer {token(user='public')}"
    assert answer(await call(api, "ann", RANDOM)) == ("the ticket of ann", False)
    assert answer(await call(api, "bob", RANDOM, bearer)) == ("the ticket of bob", False)
    assert answer(await call(api, "bob", "1", bearer)) == ("the ticket of bob", False)
    assert answer(await call(api, "bob", "1", bearer)) == ("the ticket of bob", True)
