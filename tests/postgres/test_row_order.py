"""Rows stand in the order of the commits that inserted them, whatever order their statements run in."""

from __future__ import annotations

import asyncio
import sqlite3
from types import SimpleNamespace

import asyncpg
import pytest
from msgspec import Raw

from kontract.cli.doctor.database import grants
from kontract.cloudflare.journal import SqliteJournal
from kontract.coordination import recovery
from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits
from kontract.core.errors import UnavailableError
from kontract.core.messages import ABSENT, Prepare, Prepared, Write
from kontract.core.transaction.attempts import Attempts
from kontract.core.transaction.store import SqlStore
from kontract.core.transaction.transaction import Call
from kontract.server.database import AsyncpgDatabase
from kontract.server.journal import MemoryJournal
from kontract.server.runtime import SingleProcess
from postgres.conftest import OWNER, PLAIN_DDL

PTR = {"queue": "tbl_x_1", "tasks": "tbl_tasks_5f0c1d"}


class Gate(SqlStore):
    """A store whose apply statements wait until they are let through, one by one."""

    def __init__(self, database):
        super().__init__(database)
        self.prepared, self.go, self.applied = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def apply(self, plan):
        self.prepared.set()
        await self.go.wait()
        outcome = await super().apply(plan)
        self.applied.set()
        return outcome


class Bench:
    """Calls over a real database; the coordinator's journal is the test's."""

    def __init__(self, url: str, sql: asyncpg.Connection, table: str, journal=None) -> None:
        self.url, self.sql, self.table, self.ptr = url, sql, table, PTR[table]
        self.journal = journal or MemoryJournal()
        self.calls = 0
        self.shell = None
        self.restart()

    def rest(self) -> None:
        if self.shell is not None:
            self.shell.rest()

    def restart(self) -> None:
        self.rest()
        self.platform = SingleProcess(lambda: AsyncpgDatabase(self.url), {}, lambda *_args, **_fields: None)
        self.shell = CoordinatorShell(
            OWNER, self.journal, lambda: AsyncpgDatabase(self.url), self.platform.clock, lambda *_args, **_fields: None
        )

    def lose_journal(self) -> None:
        self.journal = MemoryJournal()
        self.restart()

    async def run(self, work, store: SqlStore | None = None):
        self.calls += 1
        call = Call(id=f"call{self.calls}", owner=OWNER, user="u")
        store = store or SqlStore(AsyncpgDatabase(self.url))
        pointer = await store.lookup(OWNER, self.table)
        found = None

        async def handler(transaction) -> str:
            nonlocal found
            found = await work(transaction, pointer)
            return "null"

        try:
            await Attempts(call, self.platform, self.shell, store, 8).run(handler, "call")
        finally:
            await store.aclose()
        return found

    async def push(self, *ids: str, store: SqlStore | None = None) -> None:
        async def work(transaction, pointer):
            for row_id in ids:
                assert await transaction.add(pointer, row_id, "{}", fresh=True)

        await self.run(work, store)

    async def shift(self, *, last: bool = False) -> str | None:
        async def work(transaction, pointer):
            row = await transaction.take_end(pointer, last=last)
            return row and row.id

        return await self.run(work)

    def write(self, row_id: str) -> Write:
        return Write(self.table, self.ptr, row_id, ABSENT, Raw(b"{}"))

    def gate(self) -> Gate:
        return Gate(AsyncpgDatabase(self.url))

    async def order(self) -> list[str]:
        """The ids, first inserted first."""
        rows = await self.sql.fetch(
            f"SELECT id, _order FROM {self.ptr} WHERE _deleted_txid IS NULL ORDER BY _order, id"
        )
        assert len({row["_order"] for row in rows}) == len(rows), "two rows have one place"
        return [row["id"] for row in rows]

    async def sequence(self) -> int:
        return await self.sql.fetchval(f"SELECT pg_sequence_last_value(pg_get_serial_sequence('{self.ptr}', '_order'))")

    async def by_hand(self, *ids: str) -> None:
        for row_id in ids:
            await self.sql.execute(
                f"INSERT INTO {self.ptr} (id, data, _txid, _owner) VALUES ($1, '{{}}', 1, 'u')", row_id
            )


@pytest.fixture(params=list(PTR))
async def bench(fresh: str, request: pytest.FixtureRequest):
    """A plain table as in the document, and a versioned one."""
    sql = await asyncpg.connect(fresh)
    await sql.execute(PLAIN_DDL)
    await sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('queue', 'tbl_x_1', $1)", OWNER)
    bench = Bench(fresh, sql, request.param)
    yield bench
    bench.rest()
    await sql.close()


async def test_commits_applied_in_the_reverse_order_of_their_txids_stand_in_that_of_their_txids(bench):
    gates = [bench.gate() for _ in range(3)]
    ids = [[f"{letter}{n}" for n in range(9, -1, -1)] for letter in "zyx"]  # ids sort the other way round
    tasks = []
    for gate, several in zip(gates, ids, strict=True):
        tasks.append(asyncio.ensure_future(bench.push(*several, store=gate)))
        await gate.prepared.wait()
    for gate in reversed(gates):
        gate.go.set()
        await gate.applied.wait()
    await asyncio.gather(*tasks)
    assert bench.shell._coordinator._next_txid == 4, "one of them ran again: this machine is too busy"
    assert await bench.order() == [row_id for several in ids for row_id in several]
    assert [await bench.shift() for _ in range(3)] == ["z9", "z8", "z7"]
    assert [await bench.shift(last=True) for _ in range(3)] == ["x0", "x1", "x2"]


async def test_many_at_once_stand_together_in_the_order_of_their_txids(bench):
    """What was seen: four calls at once, each pushing 20 rows, lay among each other in almost half of all rounds."""
    for each in range(8):
        await asyncio.gather(*(bench.push(*(f"{each}-{call}-{n:02}" for n in range(20))) for call in range(4)))
    rows = await bench.sql.fetch(f"SELECT id, _txid FROM {bench.ptr} ORDER BY _order")
    assert [row["_txid"] for row in rows] == sorted(row["_txid"] for row in rows)
    for start in range(0, len(rows), 20):
        several = [row["id"] for row in rows[start : start + 20]]
        assert several == [f"{several[0][:-2]}{n:02}" for n in range(20)]


@pytest.mark.parametrize("how", ["restart", "lost journal"])
async def test_it_goes_on_behind_what_is_there_after_a_restart(bench, how):
    await bench.push("z", "y")
    gate = bench.gate()
    late = asyncio.ensure_future(bench.push("x", store=gate))
    await gate.prepared.wait()
    gate.go.set()
    await late
    for row_id in ("w", "v"):
        bench.restart() if how == "restart" else bench.lose_journal()
        await bench.push(row_id)
    assert await bench.order() == ["z", "y", "x", "w", "v"]


async def test_what_an_earlier_life_prepared_is_counted(bench):
    """Its statement may run after the coordinator has read the numbers, if it takes them from the sequence."""
    await bench.push("z")
    asked = Prepare("old", [bench.write(row_id) for row_id in ("y", "x")])
    prepared = await bench.shell.ask(asked)
    assert isinstance(prepared, Prepared)
    # The journal of a release that did not number rows: the record is there, the numbers are not.
    bench.journal._order_known = False
    bench.restart()
    await bench.push("w")
    store = SqlStore(AsyncpgDatabase(bench.url))
    pointer = await store.lookup(OWNER, bench.table)
    first = await bench.sql.fetchval(f"SELECT _order FROM {bench.ptr} WHERE id = 'w'")
    await store.aclose()
    assert pointer is not None
    assert first == 4, "the two rows of the earlier life may have 2 and 3"


async def test_rows_of_the_release_before_stay_in_front(bench):
    """It took numbers from the sequence alone, also for commits that were undone."""
    await bench.sql.execute(f"SELECT setval(pg_get_serial_sequence('{bench.ptr}', '_order'), 5000)")
    await bench.by_hand("z", "y")
    await bench.push("x", "w")
    assert await bench.order() == ["z", "y", "x", "w"]


async def test_rows_inserted_by_hand_come_behind_those_that_are_there_and_before_later_ones(bench):
    await bench.push("z", "y")
    await bench.by_hand("x", "w")
    await bench.push("v")
    await bench.by_hand("u")
    assert await bench.order() == ["z", "y", "x", "w", "v", "u"]


async def test_the_sequence_is_never_left_behind(bench):
    """Also by numbers that were given and not used: by aborted commits, and by blind writes of rows that are there."""

    async def set_again(transaction, pointer):
        await transaction.put(pointer, "z", "{}")

    await bench.push("z", "y")
    for _ in range(3):
        await bench.run(set_again)
    with pytest.raises(UnavailableError):  # the id is there, though it was said to be new
        await bench.push("y")
    await bench.push("x")
    highest = await bench.sql.fetchval(f"SELECT max(_order) FROM {bench.ptr}")
    assert await bench.sequence() >= highest > 3
    await bench.by_hand("a")
    assert await bench.order() == ["z", "y", "x", "a"]


async def test_a_worker_of_the_release_before_puts_its_rows_at_the_end(bench):
    """It passes over the numbers in the answer and takes them from the sequence."""
    await bench.push("z", "y")

    class Old(SqlStore):
        async def apply(self, plan):
            return await super().apply(type(plan)(plan.sid, plan.owner, plan.user, plan.txid, plan.epoch, plan.writes))

    await bench.push("x", "w", store=Old(AsyncpgDatabase(bench.url)))
    await bench.push("v")
    await bench.push("u", store=Old(AsyncpgDatabase(bench.url)))
    assert await bench.order() == ["z", "y", "x", "w", "v", "u"]


async def test_a_table_that_is_registered_later_keeps_its_rows_in_front(bench):
    await bench.push("z")  # the coordinator has started, and knows the tables of that moment
    await bench.sql.execute(PLAIN_DDL.replace("tbl_x_1", "tbl_late_1"))
    await bench.sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('late', 'tbl_late_1', $1)", OWNER)
    late = Bench(bench.url, bench.sql, bench.table, bench.journal)
    late.table, late.ptr, late.shell, late.calls = "late", "tbl_late_1", bench.shell, 1000
    await late.by_hand(*(f"z{n}" for n in range(9, 0, -1)))
    await late.push("y")
    assert await late.order() == [*(f"z{n}" for n in range(9, 0, -1)), "y"]


async def test_updates_keep_a_rows_place_and_a_row_that_comes_again_goes_to_the_end(bench):
    await bench.push("z", "y", "x")

    async def change(transaction, pointer):
        await transaction.put(pointer, "z", '{"v":1}')

    async def again(transaction, pointer):
        assert await transaction.remove(pointer, "y")

    async def insert(transaction, pointer):
        assert await transaction.add(pointer, "y", "{}", fresh=False)

    for work in (change, again, insert):
        await bench.run(work)
    assert await bench.order() == ["z", "x", "y"]


async def test_a_serial_column_that_is_used_up_still_takes_rows(bench):
    """All further rows share the last place; ALTER COLUMN .. TYPE bigint gives them places of their own again."""
    await bench.sql.execute(f"SELECT setval(pg_get_serial_sequence('{bench.ptr}', '_order'), 2147483646)")
    for row_id in ("a", "b", "c"):
        await bench.push(row_id)
    rows = await bench.sql.fetch(f"SELECT id, _order FROM {bench.ptr} ORDER BY _order, id")
    assert [tuple(row) for row in rows] == [("a", 2147483647), ("b", 2147483647), ("c", 2147483647)]
    await bench.sql.execute(f"ALTER TABLE {bench.ptr} ALTER COLUMN _order TYPE bigint")
    await bench.push("d")
    assert await bench.sql.fetchval(f"SELECT _order FROM {bench.ptr} WHERE id = 'd'") > 2147483647


async def test_a_role_with_no_more_rights_than_doctor_names_is_enough(bench):
    role = f"gateway_{bench.table}"
    await bench.sql.execute(f"DROP ROLE IF EXISTS {role}")
    await bench.sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    for statement in (f"GRANT USAGE ON SCHEMA public TO {role}", *grants(role, [*PTR.values(), "tbl_accounts_9b27e4"])):
        await bench.sql.execute(statement)
    owner = bench.url
    try:
        bench.url = f"postgresql://{role}:secret@{owner.rpartition('@')[2]}"
        await bench.push("z", "y")
        bench.lose_journal()
        await bench.push("x")
        assert await bench.order() == ["z", "y", "x"]
    finally:
        await bench.sql.execute(f"DROP OWNED BY {role}")
        await bench.sql.execute(f"DROP ROLE {role}")


class Rows(list):
    def raw(self):
        return self

    def toArray(self):  # noqa: N802 - JavaScript's name
        return self


def sqlite() -> tuple[sqlite3.Connection, SqliteJournal]:
    disk = sqlite3.connect(":memory:", isolation_level=None)
    return disk, SqliteJournal(SimpleNamespace(exec=lambda text, *params: Rows(disk.execute(text, params))))


async def test_a_journal_that_the_release_before_has_written_to_is_not_believed(bench):
    """A deployment that is rolled back and forth: the numbers of the first time are too low."""
    disk, journal = sqlite()
    bench.journal = journal
    bench.restart()
    await bench.push("z")
    assert journal.load().order[bench.ptr] == limits.ORDER_BLOCK
    disk.execute("UPDATE head SET last_txid = last_txid + 1024")  # what the release before does with its first commit
    assert journal.load().order is None
    await bench.sql.execute(f"SELECT setval(pg_get_serial_sequence('{bench.ptr}', '_order'), 100)")
    await bench.by_hand("y")
    bench.restart()
    await bench.push("x")
    assert await bench.order() == ["z", "y", "x"]
    assert journal.load().order[bench.ptr] == 101 + limits.ORDER_BLOCK


async def test_a_journal_of_the_release_before_is_gone_on_with(bench):
    disk, journal = sqlite()
    bench.journal = journal
    bench.restart()
    await bench.push("z")
    disk.execute("DROP TABLE row_order")
    bench.journal = SqliteJournal(journal._sql)
    await bench.by_hand("y")
    bench.restart()
    epoch = bench.journal.load().epoch
    await bench.push("x")
    assert await bench.order() == ["z", "y", "x"]
    assert bench.journal.load().epoch == epoch, "it need not take the owner over"


async def test_two_that_take_over_at_once_do_not_count_each_others_commits(bench, monkeypatch):
    """What a coordinator reads after another one has raised the epoch is not the past."""
    store, other = (SqlStore(AsyncpgDatabase(bench.url)) for _ in range(2))
    read = SqlStore.row_order

    async def late(self, owner):
        monkeypatch.setattr(SqlStore, "row_order", read)
        await store.take_over(OWNER, 1)
        return await read(self, owner)

    monkeypatch.setattr(SqlStore, "row_order", late)
    with pytest.raises(Exception, match="took over 'tenant-1' while"):
        await recovery.start(OWNER, None, other)
    await store.aclose()
    await other.aclose()


async def test_a_commit_that_is_applied_after_a_restart_keeps_its_place(bench):
    """The worker goes on; only the coordinator was started again."""
    gate = bench.gate()
    late = asyncio.ensure_future(bench.push("z", store=gate))
    await gate.prepared.wait()
    bench.restart()
    follower = asyncio.ensure_future(bench.push("y"))
    gate.go.set()
    await asyncio.wait([late, follower], timeout=5)
    assert await bench.order() == ["z", "y"]
