"""What PostgreSQL reads for a statement: as much at every size of the table, even by a plan made when it was empty.

Blocks and scans are counted, never time. Statements are prepared and their plans generic, as they are after the first
five uses: what was planned for a table then is what runs when it has grown.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import asyncpg
import pytest
from msgspec import Raw

from kontract.core.messages import ABSENT, NOTHING, Write
from kontract.core.statements import ApplyPlan, Pending, Statement, Window
from kontract.core.transaction import sql
from kontract.core.types import EVERY_ROW, Filter, TableKind, TablePointer

SIZES = (0, 500, 10_000, 100_000)
TASKS = TablePointer("tasks", "tbl_tasks_5f0c1d", TableKind.VERSIONED, 7)
LAST_NUMBER = 10_000_000


class Read(NamedTuple):
    """What a statement touched: blocks of tables and indexes, and how tables were scanned."""

    blocks: int
    scans: set[str]


class Laboratory:
    """One table that grows, and statements that were prepared some time before."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.sql = connection
        self.rows = 0
        self._numbers = itertools.count(10)

    async def grow(self, rows: int) -> None:
        """Have so many live rows, without telling the planner."""
        await self.sql.execute(
            f"INSERT INTO {TASKS.ptr} (id, data, _txid, _owner, _order) "
            "SELECT 'row-' || n, jsonb_build_object('title', 't' || n), 1, 'ann', n "
            "FROM generate_series($1::int + 1, $2::int) AS n",
            self.rows,
            rows,
        )
        self.rows = max(rows, self.rows)

    async def prepare(self, name: str, statement: Statement) -> None:
        """Prepare it, and have it planned now."""
        await self.sql.execute(f"PREPARE {name} AS {statement.text}")
        await self.sql.fetch(f"EXPLAIN EXECUTE {name}({_literals(statement)})")

    async def read(self, name: str, statement: Statement) -> Read:
        """Run what was prepared, and undo it."""
        undone = self.sql.transaction()
        await undone.start()
        try:
            text = await self.sql.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE {name}({_literals(statement)})"
            )
        finally:
            await undone.rollback()
        [found] = json.loads(text)
        plan = found["Plan"]
        return Read(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], set(_scans(plan)))

    def commit(self, *writes: Write) -> Statement:
        number = next(self._numbers)
        order = {TASKS.ptr: LAST_NUMBER + 1} if any(write.may_insert for write in writes) else {}
        return sql.apply(ApplyPlan(f"s/{number}", "tenant-1", "ann", number, 1, [(TASKS, writes)], order=order))


def _literals(statement: Statement) -> str:
    return ", ".join("NULL" if p is None else "'" + str(p).replace("'", "''") + "'" for p in statement.params)


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"].endswith("Scan") and not plan.get("Relation Name", "pg_").startswith("pg_"):
        yield f"{plan['Node Type']} of {plan['Relation Name']}"
    for below in plan.get("Plans", ()):
        yield from _scans(below)


def _rows_of(plan: dict[str, Any], name: str) -> Iterator[int]:
    """How many rows the planner expects of a part of the statement."""
    if plan.get("Subplan Name") == name:
        yield plan["Plan Rows"]
    for below in plan.get("Plans", ()):
        yield from _rows_of(below, name)


def fresh_rows(number: int) -> list[Write]:
    return [Write("tasks", TASKS.ptr, f"new-{n}", ABSENT, Raw(b'{"title":"new"}')) for n in range(number)]


def blind(number: int) -> list[Write]:
    return [Write("tasks", TASKS.ptr, f"row-{n + 1}", None, Raw(b'{"title":"set"}')) for n in range(number)]


def changed_and_deleted(number: int) -> list[Write]:
    return [
        Write("tasks", TASKS.ptr, f"row-{n + 1}", 1, NOTHING if n % 2 else Raw(b'{"title":"read"}'))
        for n in range(number)
    ]


@pytest.fixture
async def laboratory(fresh: str) -> AsyncIterator[Laboratory]:
    connection = await asyncpg.connect(fresh, statement_cache_size=0)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute("INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 1)")
        await connection.execute(f"SELECT setval('{TASKS.ptr}__order_seq', {LAST_NUMBER})")
        yield Laboratory(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize("known", ["never vacuumed", "known to be empty", "known to be small"])
async def test_a_commit_reads_as_much_at_every_size(laboratory, known):
    """The plan of the apply statement is made before the table grows, and stays right."""
    if known == "known to be small":
        await laboratory.grow(200)
    if known != "never vacuumed":
        await laboratory.sql.execute(f"VACUUM ANALYZE {TASKS.ptr}")
    commits = {
        f"{kind.__name__}_{number}": laboratory.commit(*kind(number))
        for kind in (fresh_rows, blind, changed_and_deleted)
        for number in (1, 16, 100)
    }
    for name, commit in commits.items():
        await laboratory.prepare(name, commit)
    read = {}
    for size in SIZES:
        await laboratory.grow(size)
        for name, commit in commits.items():
            if not laboratory.rows and name.startswith("changed"):
                continue  # they cannot have been read
            old = await laboratory.read(name, commit)
            await laboratory.prepare(f"{name}_{size}", commit)
            fresh = await laboratory.read(f"{name}_{size}", commit)
            assert f"Seq Scan of {TASKS.ptr}" not in old.scans | fresh.scans, (name, size)
            read[name, size] = old.blocks
    for name in commits:
        # What is left is the height of five indexes.
        assert read[name, 100_000] <= 1.5 * read[name, 10_000] + 5, name
        assert read[name, 100_000] <= 1.75 * read[name, 500] + 5, name


async def test_new_rows_are_not_looked_for(laboratory):
    """A commit that only adds rows reads no table but that of the fences."""
    await laboratory.grow(500)
    await laboratory.prepare("added", commit := laboratory.commit(*fresh_rows(3)))
    assert {scan.rpartition(" ")[2] for scan in (await laboratory.read("added", commit)).scans} == {"trxs"}


async def test_the_planner_knows_how_few_rows_are_written(laboratory):
    """Without a bound it takes the list for 100 rows, and reads a table of 20,000 from one end to the other."""
    commit = laboratory.commit(*blind(1))
    [[text]] = await laboratory.sql.fetch(f"EXPLAIN (FORMAT JSON) {commit.text}", *commit.params)
    assert list(_rows_of(json.loads(text)[0]["Plan"], "CTE w0")) == [1]


async def test_a_read_knows_how_few_rows_were_written_before(laboratory):
    """A query over one's own writes, likewise."""
    pending = [Pending("row-1", '{"title":"own"}'), Pending("mine", "{}"), Pending("row-3", None)]
    read = sql.query(TASKS, EVERY_ROW, 5, Window(limit=10), pending)
    [[text]] = await laboratory.sql.fetch(f"EXPLAIN (FORMAT JSON) {read.text}", *read.params)
    assert list(_rows_of(json.loads(text)[0]["Plan"], "CTE own")) == [4]


READS = {
    "get": sql.read_row(TASKS, "row-9", 10),
    "first page": sql.query(TASKS, EVERY_ROW, 10, Window(limit=10)),
    "last page": sql.query(TASKS, EVERY_ROW, 10, Window(descending=True, limit=10)),
    "page in the middle": sql.query(TASKS, EVERY_ROW, 10, Window(after="row-3", limit=10)),
    "page under own writes": sql.query(TASKS, EVERY_ROW, 10, Window(limit=10), [Pending("row-1", None)]),
    "row by id": sql.query(TASKS, Filter({"title": "t9"}, "row-9"), 10, Window(limit=10)),
    "pop": sql.end_row(TASKS, 10, (), last=True),
    "shift": sql.end_row(TASKS, 10, (), last=False),
    "shift under own writes": sql.end_row(TASKS, 10, [Pending("row-1", None), Pending("x", "{}")], last=False),
}


@pytest.mark.parametrize("known", ["never vacuumed", "known to be empty"])
async def test_a_read_costs_what_it_returns(laboratory, known):
    """Not the table, not its dead versions; by a plan from when there were none of either.

    A get is not among the plans that are kept for ever (the server has it planned again, see kontract.server.database).
    """
    if known != "never vacuumed":
        await laboratory.sql.execute(f"VACUUM ANALYZE {TASKS.ptr}")
    names = {name: name.replace(" ", "_") for name in READS if known == "never vacuumed" or name != "get"}
    for name, prepared in names.items():
        await laboratory.prepare(prepared, READS[name])
    read = {}
    for size, dead in ((1_000, 0), (100_000, 0), (100_000, 100_000)):
        await laboratory.grow(size)
        await laboratory.sql.execute(
            f"INSERT INTO {TASKS.ptr} (id, data, _txid, _deleted_txid, _owner, _order) SELECT 'row-' || (n % 10), "
            "'{}', -n, 1 - n, 'ann', n % 10 FROM generate_series(1, $1) AS n",
            dead,
        )
        for name, prepared in names.items():
            read[name, size, dead] = (await laboratory.read(prepared, READS[name])).blocks
    for name in names:
        few = read[name, 1_000, 0]
        assert max(read[name, 100_000, dead] for dead in (0, 100_000)) <= 2 * few + 4, (name, few, read)


async def test_a_count_of_all_rows_compares_none(laboratory):
    """Every row contains the empty object: asking each costs three times the counting."""
    counted = sql.count(TASKS, EVERY_ROW, 10)
    assert "@>" not in counted.text
    await laboratory.grow(7)
    assert [row[2] for row in await laboratory.sql.fetch(counted.text, *counted.params)] == [7]


async def test_pop_and_shift_without_their_index(laboratory):
    """A database that was not migrated yet: slower, and the same rows."""
    await laboratory.grow(50)
    await laboratory.sql.execute(f"DROP INDEX {TASKS.ptr}_order")
    for last, row in ((True, "row-50"), (False, "row-1")):
        end = sql.end_row(TASKS, 10, (), last=last)
        assert [found[0] for found in await laboratory.sql.fetch(end.text, *end.params)] == [row]


@pytest.mark.parametrize("known", [False, True])
async def test_a_filter_goes_by_the_index_of_values(laboratory, known):
    """Also where nobody has analysed the table: then its live rows are taken for few."""
    await laboratory.grow(20_000)
    await laboratory.sql.fetch(f"SELECT gin_clean_pending_list('{TASKS.ptr}_data')")
    if known:
        await laboratory.sql.execute(f"ANALYZE {TASKS.ptr}")
    await laboratory.sql.execute("SET plan_cache_mode = force_custom_plan")
    for number, window in enumerate((Window(limit=10), Window("title", limit=10), Window(after="row-3", limit=10))):
        read = sql.query(TASKS, Filter({"title": "t9"}), 10, window)
        await laboratory.prepare(f"filter_{number}", read)
        assert (await laboratory.read(f"filter_{number}", read)).blocks < 20
