"""Dead versions and old fences go, and nothing else: the real statements, a clock that the test holds."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from types import SimpleNamespace

import asyncpg
import pytest

from kontract.cloudflare.journal import SqliteJournal
from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits
from kontract.core.protocol.collection import Collection, CollectionStage, Job, Mark
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.records import Drop, PutRecord, Record
from kontract.core.transaction.store import SqlStore
from kontract.core.transaction.transaction import Call, Transaction
from kontract.core.types import Isolation, TableKind, TablePointer
from kontract.server.database import AsyncpgDatabase
from kontract.server.journal import MemoryJournal

OWNER = "tenant-1"
PLAIN = """
CREATE TABLE tbl_collected_1 (
  id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL);
INSERT INTO storage (id, ptr, owner) VALUES ('collected', 'tbl_collected_1', 'tenant-1');
"""
MINUTE = 60_000
HOUR = 60 * MINUTE


class HeldClock:
    """Time passes when the test says so; whoever sleeps sleeps on."""

    def __init__(self) -> None:
        self.time = 1_800_000_000_000

    def now(self) -> int:
        return self.time

    def elapsed(self) -> float:
        return float(self.time)

    async def sleep(self, milliseconds: float) -> None:
        await asyncio.Event().wait()


class Bench:
    """One owner: its coordinator, its table, and a connection to look behind both."""

    def __init__(self, url: str, sql: asyncpg.Connection, table: TablePointer) -> None:
        self.url = url
        self.sql = sql
        self.table = table
        self.clock = HeldClock()
        self.journal = MemoryJournal()
        self.events: list[dict] = []
        self.calls = 0
        self.start()

    def start(self, journal: MemoryJournal | None = None) -> None:
        """Start the coordinator, with the journal there is or with another one."""
        self.shell = CoordinatorShell(
            OWNER,
            journal or self.journal,
            lambda: AsyncpgDatabase(self.url),
            self.clock,
            lambda level, event, **fields: self.events.append({"event": event, **fields}),
            alarm=True,
        )

    def transaction(self) -> Transaction:
        self.calls += 1
        call = Call(
            id=f"call{self.calls}",
            owner=OWNER,
            user="ann",
            read_only=False,
            isolation=Isolation.SERIALIZABLE,
            idempotent=False,
        )
        store = SqlStore(AsyncpgDatabase(self.url))
        return Transaction(call, 1, self.shell, store, self.clock, asyncio.Lock)

    async def write(self, **rows) -> int:
        """Commit; None deletes."""
        txn = self.transaction()
        for row_id, value in rows.items():
            if value is None:
                assert await txn.remove(self.table, row_id)
            else:
                await txn.put(self.table, row_id, json.dumps(value))
        txid = await txn.commit()
        await txn._store.aclose()
        assert txid is not None
        return txid

    async def pass_time(self, milliseconds: int) -> None:
        self.clock.time += milliseconds
        await self.shell.wake()

    async def versions(self) -> list[tuple]:
        rows = await self.sql.fetch(
            f"SELECT id, data::text, _deleted_txid IS NOT NULL FROM {self.table.ptr} ORDER BY id, _txid"
        )
        return [(r[0], json.loads(r[1]), r[2]) for r in rows]

    async def fences(self) -> list[int]:
        rows = await self.sql.fetch(
            "SELECT create_txid FROM trxs WHERE owner = 'tenant-1' AND sid NOT LIKE 'epoch/%' ORDER BY create_txid"
        )
        return [row[0] for row in rows]

    def collected(self) -> int:
        return sum(event["rows"] for event in self.events if event["event"] == "collected")


@pytest.fixture(params=list(TableKind), ids=lambda kind: kind.value)
async def bench(request, urls):
    direct, url = urls
    sql = await asyncpg.connect(direct)
    await sql.execute(PLAIN)
    ptr = "tbl_collected_1" if request.param is TableKind.PLAIN else "tbl_tasks_5f0c1d"
    yield Bench(url, sql, TablePointer("t", ptr, request.param, 7))
    await sql.close()


def dead(versions):
    return [(row_id, value) for row_id, value, ended in versions if ended]


def live(versions):
    return [(row_id, value) for row_id, value, ended in versions if not ended]


async def test_what_is_dead_for_ten_minutes_goes_and_what_is_live_stays(bench):
    await bench.write(a=1, b=1, c=1)
    await bench.write(a=2, b=None)
    await bench.pass_time(limits.RETENTION_MS - 1)
    assert dead(await bench.versions()) != []
    await bench.pass_time(limits.RETENTION_MS + 2)  # the mark after both is made, and becomes old enough
    await bench.pass_time(limits.RETENTION_MS)
    assert await bench.versions() == [("a", 2, False), ("c", 1, False)]


async def test_nothing_goes_before_its_time(bench):
    await bench.write(a=1)
    await bench.write(a=None)
    for _ in range(9):
        await bench.pass_time(limits.RETENTION_MS // 10)
        assert dead(await bench.versions()) == [("a", 1)]
    await bench.pass_time(3 * limits.RETENTION_MS)
    await bench.pass_time(3 * limits.RETENTION_MS)
    assert await bench.versions() == []


async def test_a_slow_reader_keeps_its_versions(bench):
    """Its snapshot is in use for as long as it was handed out less than a lease ago, whatever the marks say."""
    await bench.write(a=1, b=1)
    txn = bench.transaction()
    await txn.begin()
    await bench.write(a=None)
    # The marks look old enough (as if the clock had jumped), but the snapshot is leased.
    coordinator = bench.shell._coordinator
    bench.shell._collection = Collection([Mark(coordinator.watermark, bench.clock.time - 2 * limits.RETENTION_MS)])
    await bench.pass_time(limits.LEASE_MS - 1)
    rows = [await txn.get(bench.table, row_id) for row_id in "ab"]
    assert [row and row.data for row in rows] == ["1", "1"]
    await txn._store.aclose()
    await bench.pass_time(limits.LEASE_MS + 1)
    await bench.pass_time(limits.LEASE_MS)
    assert await bench.versions() == [("b", 1, False)]


async def test_batches_are_bounded_and_all_of_them_run(bench, monkeypatch):
    await bench.write(**{f"r{n}": n for n in range(25)})
    await bench.write(**{f"r{n}": None for n in range(25)})
    monkeypatch.setattr(limits, "COLLECT_ROWS", 10)
    store = SqlStore(AsyncpgDatabase(bench.url))
    up_to = bench.shell._coordinator.watermark
    batches = [await store.collect_versions(OWNER, 1, bench.table.ptr, up_to) for _ in range(4)]
    await store.aclose()
    assert batches == [10, 10, 5, 0]


async def test_a_long_collection_rests_and_goes_on(bench, monkeypatch):
    await bench.write(**{f"r{n}": n for n in range(25)})
    for n in range(25):
        await bench.write(**{f"r{n}": None})
    monkeypatch.setattr(limits, "COLLECT_ROWS", 2)
    monkeypatch.setattr(limits, "COLLECT_STATEMENTS", 5)
    await bench.pass_time(limits.RETENTION_MS)
    await bench.pass_time(limits.RETENTION_MS)
    assert 0 < bench.collected() <= 10
    assert bench.shell.next_wake == bench.clock.time + limits.COLLECT_PAUSE_MS
    for _ in range(10):
        await bench.pass_time(limits.COLLECT_PAUSE_MS)
    assert await bench.versions() == []


async def test_fences_go_after_a_day_except_the_highest(bench):
    first = await bench.write(a=1)
    second = await bench.write(a=2)
    await bench.sql.execute("INSERT INTO trxs VALUES ('other/1', 'tenant-2', 1)")
    await bench.pass_time(limits.RETENTION_MS)
    await bench.pass_time(limits.FENCE_RETENTION_MS - limits.RETENTION_MS - 1)
    assert await bench.fences() == [first, second]
    await bench.pass_time(1)
    assert await bench.fences() == [second]
    await bench.pass_time(limits.FENCE_RETENTION_MS)
    assert await bench.fences() == [second]
    assert await bench.sql.fetchval("SELECT count(*) FROM trxs WHERE owner = 'tenant-2'") == 1
    assert await bench.sql.fetchval("SELECT create_txid FROM trxs WHERE sid = 'epoch/tenant-1'") == 1


async def test_an_unfinished_transaction_keeps_its_fence_however_old(bench):
    """Its txid is above every watermark, so no mark covers it."""
    await bench.write(a=1)
    txn = bench.transaction()
    await txn.put(bench.table, "b", "1")
    changes = txn._writes.changes(None)
    prepared = await txn._prepare(changes, None)
    await txn._store.apply(txn._plan(prepared, changes, None))
    await txn._store.aclose()
    coordinator = bench.shell._coordinator
    bench.shell._collection = Collection([Mark(coordinator.watermark, bench.clock.time - limits.FENCE_RETENTION_MS)])
    coordinator._live[prepared.txid].record.deadline = bench.clock.time + limits.FENCE_RETENTION_MS
    await bench.pass_time(1)
    assert prepared.txid in await bench.fences()
    assert coordinator.unfinished == 1


async def test_a_superseded_coordinator_removes_nothing(bench):
    await bench.write(a=1)
    await bench.write(a=None)
    await bench.pass_time(limits.RETENTION_MS)
    await bench.sql.execute("UPDATE trxs SET create_txid = 2 WHERE sid = 'epoch/tenant-1'")
    await bench.pass_time(limits.RETENTION_MS)
    assert bench.collected() == 0
    assert len(await bench.versions()) > 0
    assert len(await bench.fences()) == 2
    assert "fenced" in [event["event"] for event in bench.events]
    assert bench.shell.next_wake is None


async def test_marks_survive_a_restart(bench):
    await bench.write(a=1)
    await bench.write(a=None)
    await bench.pass_time(limits.RETENTION_MS)
    bench.start()
    await bench.pass_time(limits.RETENTION_MS)
    assert await bench.versions() == []


async def test_an_idle_owner_is_not_woken_for_ever(bench):
    await bench.write(a=1)
    await bench.write(a=2)
    wakes = 0
    while (due := bench.shell.next_wake) is not None:
        assert (wakes := wakes + 1) < 10
        await bench.pass_time(max(1, due - bench.clock.time))
    assert bench.clock.time > limits.FENCE_RETENTION_MS
    assert len(bench.journal.marks()) == 1
    # Neither does a restart find something to do.
    before = bench.collected()
    bench.start(bench.journal)
    await bench.pass_time(HOUR)
    txn = bench.transaction()
    await txn.begin()
    assert bench.collected() == before


async def test_a_database_that_does_not_answer_is_asked_again_later(bench):
    await bench.write(a=1)
    await bench.write(a=None)
    await bench.pass_time(limits.RETENTION_MS)
    url, bench.url = bench.url, "postgresql://nobody@127.0.0.1:1/none"
    await bench.pass_time(limits.RETENTION_MS)
    assert "collection" in [event["event"] for event in bench.events]
    bench.url = url
    assert bench.shell.next_wake == bench.clock.time + limits.COLLECT_PAUSE_MS
    await bench.pass_time(limits.COLLECT_PAUSE_MS)
    assert await bench.versions() == []


async def test_a_table_that_is_not_as_it_should_be_does_not_stop_the_others(bench):
    await bench.write(a=1)
    await bench.sql.execute("CREATE TABLE tbl_a_foreign (id int)")
    await bench.sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('f', 'tbl_a_foreign', 'tenant-1')")
    await bench.write(a=None)
    await bench.pass_time(limits.RETENTION_MS)
    await bench.pass_time(limits.RETENTION_MS)
    assert await bench.versions() == []


async def test_collection_skips_what_is_locked_and_keeps_what_comes_alive(bench):
    """A tombstone that an apply is taking over is neither waited for nor removed."""
    await bench.write(a=1, b=1)
    await bench.write(a=None, b=None)
    up_to = bench.shell._coordinator.watermark
    other = await asyncpg.connect(bench.url)
    async with other.transaction():
        await other.execute(f"UPDATE {bench.table.ptr} SET _deleted_txid = NULL WHERE id = 'a'")
        store = SqlStore(AsyncpgDatabase(bench.url))
        assert await store.collect_versions(OWNER, 1, bench.table.ptr, up_to) == 1
    assert await store.collect_versions(OWNER, 1, bench.table.ptr, up_to) == 0
    await store.aclose()
    await other.close()
    assert await bench.versions() == [("a", 1, False)]


# --- the state machine alone -----------------------------------------------------------------------------------------


def test_marks_are_made_while_there_is_work_only():
    collection = Collection()
    assert collection.due(0) is None
    assert collection.observe(5, 1_000) == Mark(5, 1_000)
    assert collection.observe(6, 1_001) is None
    assert collection.due(6) == 1_000 + limits.RETENTION_MS
    assert collection.observe(6, 1_000 + limits.RETENTION_MS) == Mark(6, 1_000 + limits.RETENTION_MS)
    assert collection.observe(6, 10**9) is None


def test_a_job_covers_every_mark_that_is_old_enough_and_no_other():
    collection = Collection([Mark(5, 0), Mark(9, 1_000)])
    assert collection.job(100, limits.RETENTION_MS - 1) is None
    assert collection.job(100, limits.RETENTION_MS) == Job(CollectionStage.VERSIONS, 5)
    assert collection.job(100, limits.RETENTION_MS + 1_000) == Job(CollectionStage.VERSIONS, 9)
    assert collection.job(7, limits.RETENTION_MS + 1_000) == Job(CollectionStage.VERSIONS, 5)
    assert collection.done(Job(CollectionStage.VERSIONS, 9)) == [
        Mark(5, 0, CollectionStage.VERSIONS),
        Mark(9, 1_000, CollectionStage.VERSIONS),
    ]
    assert collection.job(100, limits.FENCE_RETENTION_MS) == Job(CollectionStage.FENCES, 5)
    collection.done(Job(CollectionStage.FENCES, 9))
    assert collection.marks == [Mark(9, 1_000, CollectionStage.FENCES)]
    assert collection.due(9) is None


class Rows(list):
    """What a Durable Object's ``sql.exec`` returns."""

    def raw(self):
        return self

    def toArray(self):  # noqa: N802 - the platform's name
        return self


def test_the_journal_of_a_durable_object_keeps_marks_until_they_are_done():
    database = sqlite3.connect(":memory:", isolation_level=None)
    journal = SqliteJournal(SimpleNamespace(exec=lambda text, *params: Rows(database.execute(text, params))))
    journal.write_marks([Mark(5, 1_000), Mark(9, 2_000)])
    journal.write_marks([Mark(5, 1_000, CollectionStage.FENCES)])
    assert journal.marks() == [Mark(9, 2_000)]
    journal.write_marks([Mark(9, 2_000, CollectionStage.FENCES)])
    assert journal.marks() == [Mark(9, 2_000, CollectionStage.FENCES)]
    journal.start(2, 100, "g1", {})
    assert journal.marks() == []
    database.close()


def record(txid: int, call: str, *, idempotent: bool) -> PutRecord:
    return PutRecord(Record(txid, f"{call}/1", call, "u", "committed", 1, 2, [], 1, idempotent, None, 10))


@pytest.fixture(params=["memory", "durable object"])
def journal(request):
    if request.param == "memory":
        yield MemoryJournal()
        return
    database = sqlite3.connect(":memory:", isolation_level=None)
    yield SqliteJournal(SimpleNamespace(exec=lambda text, *params: Rows(database.execute(text, params))))
    database.close()


def test_a_journal_keeps_a_day_what_may_be_repeated_for_a_day_and_no_more(journal):
    """Calls with a key for a day; sealed requests, whose copies come within seconds, like all others."""
    journal.start(1, 0, "g1", {})
    journal.write([record(1, "idem-a", idempotent=True), record(2, "ray-b", idempotent=True)])
    journal.write([record(3, "c", idempotent=False)])
    assert journal.newest("ray-b").txid == 2
    assert [one.txid for one in journal.committed(0, 9)] == [1, 2, 3]
    journal.write([Drop(below_txid=0, settled_before=11, idempotent_before=0, now=20)])
    assert (journal.newest("idem-a").txid, journal.newest("ray-b")) == (1, None)
    assert journal.log_head() == LogHead("g1", 3), "what is kept for its key is no event any more"
    journal.write([Drop(below_txid=0, settled_before=11, idempotent_before=11, now=20)])
    assert journal.newest("idem-a") is None
