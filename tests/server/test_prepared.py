"""Statements are prepared wherever the line keeps them, planned again as they age, and survive changes of tables."""

from __future__ import annotations

import asyncpg
import pytest

from kontract.core.messages import ABSENT, Write
from kontract.core.statements import ApplyPlan, Statement, Window
from kontract.core.transaction.store import SqlStore
from kontract.core.types import EVERY_ROW, TableKind, TablePointer
from kontract.ports import ApplyOutcome, ApplyRefusedError, DatabaseError
from kontract.server import prepared
from kontract.server.database import Pool
from kontract.server.prepared import Statements
from support.keeping_pooler import keeping

READ = Statement("SELECT $1::text WHERE now() IS NOT NULL", ("a",))
MODES = pytest.mark.parametrize("mode", ["on", "off"])


@pytest.fixture
def url(postgres):
    return postgres.create_database()


class Counted:
    """A connection that counts; what it prepares returns the text that it got."""

    def __init__(self) -> None:
        self.prepared: list[str] = []

    async def prepare(self, text: str, *, timeout: float | None) -> Counted:
        self.prepared.append(text)
        return self

    async def fetch(self, *params: object, timeout: float | None) -> list:
        return [params]


async def uses_of_plans(statements: Statements, connection: Counted, uses: int) -> list[int]:
    """After which uses it was planned again."""
    found, before = [], 0
    for use in range(uses):
        await statements.fetch(READ, 1)
        if len(connection.prepared) > before:
            found.append(use)
            before = len(connection.prepared)
    return found


async def test_a_plan_lasts_as_long_as_all_before_it(monkeypatch):
    """So it is at most twice as old as its table; and in the end each 4,096 uses."""
    connection = Counted()
    statements = Statements(connection, named=True, pooled=False)
    assert await uses_of_plans(statements, connection, 20_000) == [
        0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 12288, 16384,
    ]  # fmt: skip
    assert set(connection.prepared) == {READ.text}
    monkeypatch.setattr(prepared, "PLAN_SECONDS", -1.0)
    assert await uses_of_plans(statements, connection, 3) == [0, 1, 2], "and none is older than a minute"


async def test_what_is_not_kept_is_described_once():
    """There is no plan that could grow old."""
    connection = Counted()
    assert await uses_of_plans(Statements(connection, named=False, pooled=True), connection, 5_000) == [0]


async def test_behind_a_pooler_another_plan_is_another_text():
    """It keeps one statement for all of its clients that have the same text."""
    connection = Counted()
    await uses_of_plans(Statements(connection, named=True, pooled=True), connection, 40)
    assert len(set(connection.prepared)) == 3
    assert all(text.startswith(READ.text) for text in connection.prepared)


async def test_what_was_not_used_for_long_is_forgotten(monkeypatch):
    monkeypatch.setattr(prepared, "KEPT", 2)
    connection = Counted()
    statements = Statements(connection, named=True, pooled=False)
    for number in (1, 2, 1, 3, 1, 2):
        await statements.fetch(Statement(str(number)), 1)
    assert connection.prepared == ["1", "2", "3", "2"]


@pytest.mark.parametrize(("renames", "kept"), [(True, True), (False, False)])
async def test_a_pooler_that_keeps_statements_is_found_out(url, renames, kept):
    """By the names that it gives them."""
    async with keeping(url, renames=renames) as pooler:
        pool = Pool(pooler.url, 2)
        access = await pool.access()
        assert (access.pooled, access.prepared) == (True, kept)
        for _ in range(40):
            assert await pool.run(READ) == [("a",)]
        texts = {text for text in pooler.names if text.startswith(READ.text.encode())}
        assert len(texts) == (3 if kept else 0)
        await pool.aclose()


async def test_an_older_pooler_is_found_out(url, pooler):
    """Each time, also when one before has left its statement in a session that is met again."""
    for _ in range(6):
        pool = Pool(pooler.url(url), 1)
        access = await pool.access()
        assert (access.pooled, access.prepared) == (True, False)
        assert await pool.run(READ) == [("a",)]
        await pool.aclose()


async def test_a_statement_whose_columns_have_changed(url):
    """PostgreSQL refuses its plan ("cached plan must not change result type"): it is prepared again."""
    pool = Pool(url, 1)
    sql = await asyncpg.connect(url)
    await sql.execute("CREATE TABLE t AS SELECT 1 AS a")
    read = Statement("SELECT * FROM t")
    for _ in range(8):
        assert await pool.run(read) == [(1,)]
    connection = pool._idle[0].connection
    await sql.execute("ALTER TABLE t ALTER a TYPE text")
    assert await pool.run(read) == [("1",)]
    await sql.execute("ALTER TABLE t ADD b int")
    assert await pool.run(read) == [("1", None)]
    await sql.execute("DROP TABLE t")
    with pytest.raises(DatabaseError, match="does not exist"):
        await pool.run(read)
    await sql.execute("CREATE TABLE t AS SELECT 7.5::float8 AS c")
    assert await pool.run(read) == [(7.5,)]
    assert pool._idle[0].connection is connection
    await sql.close()
    await pool.aclose()


PLAIN = """
CREATE TABLE tbl_x_1 (id varchar PRIMARY KEY, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL,
  _deleted_txid BIGINT, _owner TEXT NOT NULL, _order SERIAL);
INSERT INTO storage (id, ptr, owner) VALUES ('x', 'tbl_x_1', 'tenant-1');
INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 1);
"""

ADOPTED = """
ALTER TABLE tbl_x_1 DROP CONSTRAINT tbl_x_1_pkey;
ALTER TABLE tbl_x_1 ADD CONSTRAINT tbl_x_1_pkey PRIMARY KEY (id, _txid);
CREATE UNIQUE INDEX tbl_x_1_live ON tbl_x_1 (id) WHERE _deleted_txid IS NULL;
"""

WIDER = """
ALTER TABLE tbl_x_1 ALTER id TYPE text COLLATE "C";
ALTER TABLE tbl_x_1 ALTER _order TYPE bigint;
ALTER SEQUENCE tbl_x_1__order_seq AS bigint;
"""


@MODES
async def test_a_table_that_is_adopted_and_altered_between_calls(url, mode):
    """Whoever takes it for plain writes nothing more, and everything that was prepared goes on."""
    pool = Pool(url, 1, mode)
    store = SqlStore(pool.database())
    sql = await asyncpg.connect(url)
    await sql.execute(PLAIN)
    txids = iter(range(2, 100))

    async def commit(table: TablePointer, row: str) -> ApplyOutcome:
        txid = next(txids)
        write = Write("x", table.ptr, row, ABSENT, b'{"n":%d}' % txid)
        return await store.apply(ApplyPlan(f"s/{txid}", "tenant-1", "ann", txid, 1, [(table, [write])]))

    async def rows(table: TablePointer) -> list[str]:
        page = [row.id for row in await store.query(table, EVERY_ROW, 1_000, Window(limit=50), ())]
        assert await store.count(table, EVERY_ROW, 1_000, ()) == len(page)
        assert {(await store.read_row(table, row, 1_000)).id for row in page} == set(page)
        first, last = [await store.end_row(table, 1_000, (), last=one) for one in (False, True)]
        assert (first.id, last.id) == (page[0], page[-1])
        return page

    plain = await store.lookup("tenant-1", "x")
    expected = []
    for number in range(10, 18):
        assert await commit(plain, f"r{number}") is ApplyOutcome.APPLIED
        expected.append(f"r{number}")
        assert await rows(plain) == expected
    await sql.execute(ADOPTED)
    with pytest.raises(ApplyRefusedError):
        await commit(plain, "r99")
    versioned = await store.lookup("tenant-1", "x")
    assert (plain.kind, versioned.kind) == (TableKind.PLAIN, TableKind.VERSIONED)
    for number in range(20, 28):
        assert await commit(versioned, f"r{number}") is ApplyOutcome.APPLIED
        expected.append(f"r{number}")
        assert await rows(versioned) == expected
    await sql.execute(WIDER)
    for number in range(30, 34):
        assert await commit(versioned, f"r{number}") is ApplyOutcome.APPLIED
        expected.append(f"r{number}")
        assert await rows(versioned) == expected
    assert (await store.lookup("tenant-1", "x")).order_limit == 2**63 - 1
    await sql.close()
    await pool.aclose()
