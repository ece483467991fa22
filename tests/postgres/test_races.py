"""Races against the apply statement itself, in the real database: the fence decides, for everybody alike."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest
from msgspec import Raw

from kontract.core.messages import Write
from kontract.core.statements import ApplyPlan
from kontract.core.transaction import fences
from kontract.core.transaction.store import SqlStore
from kontract.core.types import TableKind, TablePointer
from kontract.ports import ApplyOutcome
from kontract.server.database import AsyncpgDatabase
from support.postgres import apply

OWNER = "racer"
ROUNDS = 1_000

PLAIN = """
CREATE TABLE tbl_race_plain (
  id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL)
"""


def plan(pointer: TablePointer, epoch: int, txid: int, sid: str) -> ApplyPlan:
    write = Write("counter", pointer.ptr, "hot", None, Raw(b'{"n":%d}' % txid))
    return ApplyPlan(sid, OWNER, "tester", txid, epoch, [(pointer, [write])])


@pytest.fixture(params=[TableKind.VERSIONED, TableKind.PLAIN], ids=lambda kind: kind.value)
async def arena(request, postgres):
    """Three connections, the table, and the epoch."""
    url = postgres.create_database()
    admin = await asyncpg.connect(url)
    await admin.execute(PLAIN)
    ptr = "tbl_race_plain" if request.param is TableKind.PLAIN else "tbl_accounts_9b27e4"
    stores = [SqlStore(AsyncpgDatabase(url)) for _ in range(3)]
    epoch, _ = await stores[0].take_over(OWNER, 1)
    yield admin, stores, TablePointer("counter", ptr, request.param, 7), epoch
    for store in stores:
        await store.aclose()
    await admin.close()


async def test_two_applies_and_a_resolver_on_one_sid(arena):
    """At most one of two applies succeeds; the resolver's verdict is what the rows say, every time."""
    admin, stores, pointer, epoch = arena
    dice = random.Random(3)
    verdicts = {"committed": 0, "aborted": 0}
    for txid in range(1, ROUNDS + 1):
        sid = f"call-{txid}/1"
        steps = [
            apply(stores[0], plan(pointer, epoch, txid, sid)),
            apply(stores[1], plan(pointer, epoch, txid, sid)),
            stores[2].resolve(sid, OWNER, txid),
        ]
        places = list(range(3))
        dice.shuffle(places)
        answers = dict(zip(places, await asyncio.gather(*(steps[place] for place in places)), strict=True))
        applied = [answers[0], answers[1]].count(ApplyOutcome.APPLIED)
        assert applied <= 1
        fence = await stores[2].resolve(sid, OWNER, txid)
        assert answers[2] == fence
        assert (fence == txid) == (applied == 1)
        rows = await admin.fetch(f"SELECT 1 FROM {pointer.ptr} WHERE id = 'hot' AND _txid = $1", txid)
        assert len(rows) == applied
        live = await admin.fetchval(f"SELECT count(*) FROM {pointer.ptr} WHERE id = 'hot' AND _deleted_txid IS NULL")
        assert live <= 1
        verdicts["committed" if applied else "aborted"] += 1
    assert min(verdicts.values()) > 0, f"the race was not one: {verdicts}"


async def test_a_new_epoch_against_applies_in_flight(arena):
    """Whoever raised the epoch has seen every txid of the epoch before, and nothing of it applies afterwards."""
    admin, stores, pointer, epoch = arena
    for round_number in range(200):
        txid = 10 * round_number + 1
        sid = f"late-{round_number}/1"
        outcome, (raised, highest) = await asyncio.gather(
            apply(stores[0], plan(pointer, epoch, txid, sid)), stores[1].take_over(OWNER, 1)
        )
        assert raised == epoch + 1
        assert (highest >= txid) == (outcome is ApplyOutcome.APPLIED)
        assert outcome in (ApplyOutcome.APPLIED, ApplyOutcome.FENCED)
        late = await apply(stores[0], plan(pointer, epoch, txid + 1, f"late-{round_number}/2"))
        assert late is ApplyOutcome.FENCED
        epoch = raised
    assert await admin.fetchval(fences.READ_EPOCH, OWNER) == epoch
