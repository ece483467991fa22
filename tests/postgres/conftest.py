"""A database as new for each test, with one table of each kind, written through the real apply statement.

The store's tests run twice: over connections of their own, and through a PgBouncer that gives each statement whatever
connection is free.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec import Raw

from kontract.core.messages import ABSENT, NOTHING, Write
from kontract.core.statements import ApplyPlan
from kontract.core.transaction.store import SqlStore
from kontract.core.types import TableKind, TablePointer
from kontract.ports import ApplyOutcome, ApplyRefusedError
from kontract.server.database import AsyncpgDatabase
from support.postgres import Postgres

OWNER = "tenant-1"

# The document's own words, to the letter.
PLAIN_DDL = (
    "CREATE TABLE tbl_x_1 (id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL, "
    "_deleted_txid BIGINT, _owner TEXT NOT NULL, _order SERIAL)"
)


class World:
    """A store, a connection to look behind it, and one table under test."""

    def __init__(self, url: str, store: SqlStore, sql: asyncpg.Connection, table: TablePointer) -> None:
        self.url = url
        self.store = store
        self.sql = sql
        self.table = table
        self.other = TablePointer("accounts", "tbl_accounts_9b27e4", TableKind.VERSIONED, 7)
        self.epoch = 1
        self.refused: ApplyRefusedError | None = None

    def write(self, row_id: str, value: Any = None, *, seen: int | None = None, table: TablePointer | None = None):
        """A write of ``value``; None deletes. ``seen`` None: blind."""
        table = table or self.table
        data = NOTHING if value is None else Raw(msgspec.json.encode(value))
        return table, Write(table.name, table.ptr, row_id, seen, data)

    async def apply(
        self, txid: int, *writes: Any, sid: str | None = None, epoch: int | None = None, user: str = "ann"
    ) -> ApplyOutcome:
        by_table: dict[str, tuple[TablePointer, list[Write]]] = {}
        for table, write in writes:
            by_table.setdefault(table.ptr, (table, []))[1].append(write)
        plan = ApplyPlan(sid or f"s/{txid}", OWNER, user, txid, epoch or self.epoch, list(by_table.values()))
        self.refused = None
        try:
            outcome = await self.store.apply(plan)
        except ApplyRefusedError as error:
            self.refused = error
            outcome = ApplyOutcome.FAILED
        await self.check()
        return outcome

    async def applied(self, txid: int, *writes: Any, **more: Any) -> None:
        assert await self.apply(txid, *writes, **more) is ApplyOutcome.APPLIED

    async def insert(self, txid: int, **rows: Any) -> None:
        await self.applied(txid, *(self.write(row, value, seen=ABSENT) for row, value in rows.items()))

    async def check(self) -> None:
        """What must hold after everything: no id is live twice, no version ends before it begins."""
        for ptr in (self.table.ptr, self.other.ptr):
            assert (
                await self.sql.fetch(
                    f"SELECT id FROM {ptr} WHERE _deleted_txid IS NULL GROUP BY id HAVING count(*) > 1"
                )
                == []
            )
            assert await self.sql.fetch(f"SELECT id FROM {ptr} WHERE _deleted_txid <= _txid") == []

    async def contents(self, table: TablePointer | None = None) -> list[tuple]:
        """All versions: (id, data, _txid, _deleted_txid, _owner)."""
        rows = await self.sql.fetch(
            f"SELECT id, data::text, _txid, _deleted_txid, _owner FROM {(table or self.table).ptr} ORDER BY id, _txid"
        )
        return [(r[0], msgspec.json.decode(r[1]), r[2], r[3], r[4]) for r in rows]

    async def fences(self) -> dict[str, int]:
        rows = await self.sql.fetch("SELECT sid, create_txid FROM trxs WHERE sid NOT LIKE 'epoch/%'")
        return {row[0]: row[1] for row in rows}


@pytest.fixture(scope="session")
def reused(postgres: Postgres) -> str:
    """A database for one test after the other."""
    return postgres.create_database()


@pytest.fixture
def fresh(postgres: Postgres, reused: str) -> str:
    """The URL of a database as new."""
    postgres.reset(reused)
    return reused


@pytest.fixture(params=["direct", pytest.param("pgbouncer", marks=pytest.mark.needs("pgbouncer"))])
def urls(fresh: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database as new: its own URL, and the one by which the code under test is to reach it."""
    return fresh, fresh if request.param == "direct" else request.getfixturevalue("pooler").url(fresh)


async def make_world(kind: TableKind, direct: str, url: str) -> AsyncIterator[World]:
    sql = await asyncpg.connect(direct)
    store = SqlStore(AsyncpgDatabase(url))
    try:
        await sql.execute(PLAIN_DDL)
        await sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('plain', 'tbl_x_1', $1)", OWNER)
        await store.take_over(OWNER, 1)
        table = await store.lookup(OWNER, "plain" if kind is TableKind.PLAIN else "tasks")
        assert table is not None
        assert table.kind is kind
        yield World(url, store, sql, table)
    finally:
        await store.aclose()
        await sql.close()


@pytest.fixture(params=list(TableKind), ids=lambda kind: kind.value)
async def world(urls: tuple[str, str], request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Each test runs over a versioned and over a plain table."""
    async for one in make_world(request.param, *urls):
        yield one


@pytest.fixture
async def versioned(fresh: str) -> AsyncIterator[World]:
    async for one in make_world(TableKind.VERSIONED, fresh, fresh):
        yield one


@pytest.fixture
async def plain(fresh: str) -> AsyncIterator[World]:
    async for one in make_world(TableKind.PLAIN, fresh, fresh):
        yield one
