"""`kontract table adopt` while a gateway writes, and what happens to those who do not know yet."""

from __future__ import annotations

import asyncio
import json
import random

import asyncpg
import pytest
from msgspec import Raw

from kontract.cli.main import main
from kontract.cli.table import adopt, list_tables
from kontract.cli.toolchain.problem import Problem
from kontract.core.messages import NOTHING, Write
from kontract.core.statements import ApplyPlan
from kontract.core.transaction.store import SqlStore
from kontract.core.types import TableKind, TablePointer
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request
from kontract.gateway.routes import Registry
from kontract.ports import ApplyOutcome, SnapshotTooOldError
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from routes import ROUTES, TABLES
from support.postgres import apply as apply_plan
from support.sessions import ENVIRONMENT, bearer

OWNER = "tenant-1"
PTR = "tbl_purses_1"
PLAIN = f"""
CREATE TABLE {PTR} (
  id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL);
INSERT INTO storage (id, ptr, owner) VALUES ('purses', '{PTR}', '{OWNER}');
"""
PURSES = 8
FULL = 100


@pytest.fixture
async def url(postgres):
    url = postgres.create_database()
    connection = await asyncpg.connect(url)
    await connection.execute(PLAIN)
    await connection.close()
    return url


@pytest.fixture
async def connection(url):
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
async def store(url):
    store = SqlStore(AsyncpgDatabase(url))
    await store.take_over(OWNER, 1)
    yield store
    await store.aclose()


async def apply(store: SqlStore, table: TablePointer, txid: int, **rows) -> ApplyOutcome:
    """Blind writes; None deletes."""
    writes = [
        Write("purses", PTR, row_id, None, NOTHING if value is None else Raw(json.dumps(value).encode()))
        for row_id, value in rows.items()
    ]
    return await apply_plan(store, ApplyPlan(f"s/{txid}", OWNER, "ann", txid, 1, [(table, writes)]))


async def versions(connection) -> list[tuple]:
    rows = await connection.fetch(f"SELECT id, data::text, _txid, _deleted_txid FROM {PTR} ORDER BY id, _txid")
    return [(r[0], json.loads(r[1]), r[2], r[3]) for r in rows]


async def quietly(url, name="purses"):
    said: list[str] = []
    await adopt(url, OWNER, name, said.append)
    return said


async def lookup(store: SqlStore) -> TablePointer:
    table = await store.lookup(OWNER, "purses")
    assert table is not None
    return table


# --- one step at a time ----------------------------------------------------------------------------------------------


async def test_an_adopted_table_keeps_versions(url, store, connection):
    plain = await lookup(store)
    assert plain.kind is TableKind.PLAIN
    assert await apply(store, plain, 1, a=1, b=1) is ApplyOutcome.APPLIED
    assert await apply(store, plain, 2, b=None) is ApplyOutcome.APPLIED
    assert "is now a versioned table" in (await quietly(url))[0]

    adopted = await lookup(store)
    assert (adopted.kind, adopted.just_adopted) == (TableKind.VERSIONED, True)
    assert await apply(store, adopted, 3, a=2, b=2) is ApplyOutcome.APPLIED
    assert await versions(connection) == [("a", 1, 1, 3), ("a", 2, 3, None), ("b", 1, 1, 2), ("b", 2, 3, None)]
    row = await store.read_row(adopted, "a", 3)
    assert row is not None
    assert row.data == "2"


async def test_it_ends_as_the_tables_of_init_sql(url, store, connection):
    await quietly(url)

    async def indexes(table):
        rows = await connection.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = $1", table)
        # The column of tables of sql/init.sql has this collation, so it is not said of their indexes.
        return sorted(row[0].replace(table, "t").replace(' COLLATE "C"', "") for row in rows)

    assert await indexes(PTR) == await indexes("tbl_tasks_5f0c1d")


async def test_a_second_time_changes_nothing(url, store):
    await quietly(url)
    assert await quietly(url) == [f"purses ({PTR}) is already a versioned table."]


async def test_one_who_takes_it_for_plain_cannot_write(url, store, connection):
    """A gateway may remember the kind for ten seconds; its statement would overwrite a version in place."""
    plain = await lookup(store)
    await apply(store, plain, 1, a=1)
    await quietly(url)
    before = await versions(connection)
    for txid, rows in enumerate(({"a": 2}, {"a": None}, {"b": 1}), start=2):
        assert await apply(store, plain, txid, **rows) is ApplyOutcome.FAILED
        assert await versions(connection) == before
        assert await connection.fetchval("SELECT count(*) FROM trxs WHERE sid = $1", f"s/{txid}") == 0
    assert await apply(store, await lookup(store), 5, a=2) is ApplyOutcome.APPLIED
    before = await versions(connection)
    assert await apply(store, plain, 6, a=3) is ApplyOutcome.FAILED
    assert await versions(connection) == before


async def test_a_snapshot_from_before_is_refused_rather_than_shown_a_hole(url, store, connection):
    """At snapshot 1 the row was there; its version was overwritten in place before the table was adopted."""
    plain = await lookup(store)
    await apply(store, plain, 1, a=1)
    await apply(store, plain, 2, a=2)
    await quietly(url)
    adopted = await lookup(store)
    with pytest.raises(SnapshotTooOldError):
        await store.read_row(adopted, "a", 1)
    name = await connection.fetchval(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = to_regclass($1) AND indisprimary", PTR
    )
    await connection.execute(f"COMMENT ON INDEX {name} IS 'kontract: adopted 1000000000'")
    later = await lookup(store)
    assert (later.kind, later.just_adopted) == (TableKind.VERSIONED, False)


async def test_a_statement_that_waits_for_the_lock_meets_the_new_key(url, store, connection):
    """The plain apply is sent while adopt holds the table, and runs after it."""
    plain = await lookup(store)
    await apply(store, plain, 1, a=1)
    blocker = await asyncpg.connect(url)
    holding = blocker.transaction()
    await holding.start()
    await blocker.execute(f"LOCK TABLE {PTR} IN ACCESS SHARE MODE")
    adopting = asyncio.ensure_future(quietly(url))
    await waiting_for_lock(connection, 1)
    late = SqlStore(AsyncpgDatabase(url))
    writing = asyncio.ensure_future(apply(late, plain, 2, a=2))
    await waiting_for_lock(connection, 2)
    await holding.rollback()
    await blocker.close()
    await adopting
    assert await writing is ApplyOutcome.FAILED
    await late.aclose()
    assert await versions(connection) == [("a", 1, 1, None)]


async def waiting_for_lock(connection, number):
    for _ in range(200):
        if await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") >= number:
            return
        await asyncio.sleep(0.005)
    pytest.fail("nobody waits")


async def test_a_table_in_use_is_left_alone_with_a_sentence(url, store, connection):
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE {PTR} IN ACCESS SHARE MODE")
        with pytest.raises(Problem, match="in use"):
            await quietly(url)
    assert (await lookup(store)).kind is TableKind.PLAIN


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (f"ALTER TABLE {PTR} DROP COLUMN _order", "missing or of the wrong type: _order"),
        ("DELETE FROM storage WHERE id = 'purses'", "has no table 'purses'"),
        (f"DROP TABLE {PTR}", "is not a table"),
    ],
)
async def test_what_cannot_be_adopted_is_said(url, connection, change, sentence):
    await connection.execute(change)
    with pytest.raises(Problem, match=sentence):
        await quietly(url)


def test_the_command(postgres, capsys, monkeypatch):
    url = postgres.create_database()

    async def prepare():
        connection = await asyncpg.connect(url)
        await connection.execute(PLAIN)
        await connection.execute("INSERT INTO storage (id, ptr, owner) VALUES ('t-2/lost', 'tbl_lost', 't-2')")
        await connection.close()

    asyncio.run(prepare())
    monkeypatch.setenv("DATABASE_URL", url)
    assert [(t.owner, t.name, t.kind) for t in asyncio.run(list_tables(url))] == [
        ("__system", "__sessions", "versioned"),
        ("__system", "__users", "versioned"),
        ("t-2", "lost", "missing"),
        ("tenant-1", "accounts", "versioned"),
        ("tenant-1", "purses", "plain"),
        ("tenant-1", "tasks", "versioned"),
    ]
    assert main(["table", "list"]) == 0
    assert ["tenant-1", "purses", "plain", "RWX", "?", "tbl_purses_1"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert main(["table", "adopt", "purses", "--owner", OWNER]) == 0
    out = capsys.readouterr().out
    assert "is now a versioned table" in out
    assert "collation" in out
    assert main(["table", "adopt", "nothing"]) == 1
    assert "What to do" in capsys.readouterr().err
    monkeypatch.delenv("DATABASE_URL")
    assert main(["table", "list"]) == 1


# --- while a gateway runs --------------------------------------------------------------------------------------------


class Bank:
    """The demo application in this process, with its accounts in a plain table."""

    def __init__(self, url: str) -> None:
        self.platform = SingleProcess(lambda: AsyncpgDatabase(url), ENVIRONMENT)
        self.errors: list[str] = []
        self.platform.log = self.log
        self.gateway = Gateway(Registry(ROUTES, TABLES))

    def log(self, level, _event, **fields):
        if level in ("error", "warning"):
            text = str(fields.get("exception") or fields)
            self.errors.append(" / ".join(line for line in text.splitlines() if line[:1].strip())[-600:])

    async def __call__(self, function, *arguments):
        async def body(_at_most):
            return json.dumps(arguments).encode()

        response = await self.gateway.handle(Request("POST", f"/rpc/{function}", bearer(), body), self.platform)
        return response.status, json.loads(response.body)


async def test_adoption_under_way_loses_no_write_and_shows_no_hole(url, connection):
    """Transfers and sums go on before, during and after; whoever was answered 200 is in the books."""
    await connection.execute("DELETE FROM storage WHERE id IN ('accounts', 'purses')")
    await connection.execute("INSERT INTO storage (id, ptr, owner) VALUES ('accounts', $1, $2)", PTR, OWNER)
    bank = Bank(url)
    for n in range(PURSES):
        assert (await bank("open_account", f"a{n}", FULL))[0] == 200
    expected = {f"a{n}": FULL for n in range(PURSES)}
    going = True
    seen: list[tuple[int, object]] = []
    chance = random.Random(3)

    async def move():
        while going:
            src, dst = chance.sample(range(PURSES), 2)
            status, answer = await bank("transfer", f"a{src}", f"a{dst}", 1)
            seen.append((status, answer))
            if status == 200:
                expected[f"a{src}"] -= 1
                expected[f"a{dst}"] += 1

    async def add_up():
        while going:
            status, answer = await bank("total")
            assert status == 200, bank.errors
            if status == 200:
                assert answer["result"] == PURSES * FULL
            await asyncio.sleep(0.01)

    workers = [asyncio.ensure_future(move()) for _ in range(4)] + [asyncio.ensure_future(add_up()) for _ in range(2)]
    await asyncio.sleep(0.5)
    await adopt(url, OWNER, "accounts", lambda _: None)
    after = len(seen)
    await asyncio.sleep(1.5)
    going = False
    await asyncio.gather(*workers)

    assert sum(status == 200 for status, _ in seen[:after]) > 10
    assert sum(status == 200 for status, _ in seen[after + 4 :]) > 10
    assert {status for status, _ in seen} <= {200, 400, 409}, bank.errors
    rows = await connection.fetch(f"SELECT id, data->>'balance' FROM {PTR} WHERE _deleted_txid IS NULL")
    assert {row[0]: int(row[1]) for row in rows} == expected
    assert len(rows) == PURSES
    assert await connection.fetchval(f"SELECT count(*) FROM {PTR} WHERE _deleted_txid <= _txid") == 0
    assert await connection.fetchval(f"SELECT count(*) FROM {PTR} WHERE _deleted_txid IS NOT NULL") > 10
