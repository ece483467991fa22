"""Accounts: money is moved, never made, however many callers there are at once."""

import asyncio

import pytest

from kontract import ConflictError, InvalidRequestError


async def test_a_transfer_moves_money(api):
    await api.open_account("alice", 100)
    await api.open_account("bob")

    assert await api.transfer("alice", "bob", 30) == {"alice": 70, "bob": 30}
    assert await api.balance("bob") == 30


async def test_a_transfer_that_fails_moves_nothing(api):
    await api.open_account("alice", 100)
    await api.open_account("bob")

    with pytest.raises(InvalidRequestError, match="holds 100"):
        await api.transfer("alice", "bob", 1000)

    assert [await api.balance("alice"), await api.balance("bob")] == [100, 0]


async def test_transfers_at_once_keep_the_total(api):
    names = ["alice", "bob", "carol"]
    for name in names:
        await api.open_account(name, 100)
    pairs = [(src, dst) for src in names for dst in names if src != dst]

    await asyncio.gather(*(api.transfer(src, dst, amount) for src, dst in pairs for amount in (1, 2, 3)))

    assert await api.total() == 300
    assert [account["balance"] for account in await api.list_accounts()] == [100, 100, 100]


async def test_a_caller_who_always_loses_is_told_so(api, app):
    await api.open_account("alice", 100)
    await api.open_account("bob")

    with app.conflict("transfer", times=8), pytest.raises(ConflictError, match="lost 8 attempts"):
        await api.transfer("alice", "bob", 30)

    assert await api.balance("alice") == 100


async def test_a_transfer_that_is_repeated_happens_once(api):
    """A client that got no answer sends the call again, with the same key."""
    await api.open_account("alice", 100)
    await api.open_account("bob")
    key = {"Idempotency-Key": "order-17"}

    first = await api.response("transfer", "alice", "bob", 5, headers=key)
    again = await api.response("transfer", "alice", "bob", 5, headers=key)

    assert first.status_code == again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await api.balance("bob") == 5
