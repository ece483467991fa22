"""Migrations while gateways serve, and old and new code on the same rows."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import asyncpg
import pytest
from msgspec import Struct

from kontract.cli.migrate import migrate
from kontract.cli.migrations import new
from kontract.core.model.declare import primkey, table
from kontract.core.model.rows import row_type
from kontract.core.transaction import sql
from kontract.core.transaction.select import parse
from kontract.core.types import TableKind, TablePointer, Version
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request
from kontract.gateway.routes import Registry
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from routes import ROUTES, TABLES
from support.sessions import ENVIRONMENT, bearer


@pytest.fixture
def project(checkout, tmp_path):
    """Migrations that touch the tables that the gateway works on."""
    folder = tmp_path / "sql" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / "sql" / "init.sql").write_text((checkout.root / "sql" / "init.sql").read_text())
    (folder / "0001_more.sql").write_text("ALTER TABLE tbl_accounts_9b27e4 ADD COLUMN more int;\n")
    (folder / "0002_index.sql").write_text(
        "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS balances ON tbl_accounts_9b27e4 "
        "((data->>'balance')) WHERE _deleted_txid IS NULL;\n"
    )
    return tmp_path


async def test_a_gateway_goes_on_while_its_tables_are_migrated(postgres, project):
    """No call fails, and no money is lost, while a column and an index are added under the traffic."""
    url = postgres.create_database()
    gateway = Gateway(Registry(ROUTES, TABLES))
    platform = SingleProcess(lambda: AsyncpgDatabase(url), ENVIRONMENT)
    headers = bearer()

    async def call(function, *arguments):
        async def body(_at_most):
            return json.dumps(arguments).encode()

        response = await gateway.handle(Request("POST", f"/rpc/{function}", headers, body), platform)
        return response.status, json.loads(response.body)

    for name in "abcd":
        assert (await call("open_account", name, 1000))[0] == 200
    done = asyncio.Event()

    async def pay(giver, taker):
        calls = 0
        while not done.is_set() or calls < 5:
            assert (await call("transfer", giver, taker, 1))[0] == 200
            calls += 1

    payers = [asyncio.create_task(pay(*pair)) for pair in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "a"))]
    try:
        said: list[str] = []
        await migrate(url, said.append, root=project)
    finally:
        done.set()
        await asyncio.gather(*payers)
    assert said == ["Applied 0001_more.", "Applied 0002_index."]
    assert (await call("total"))[1]["result"] == 4000
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'balances'::regclass")
    await connection.close()


async def test_exec_uses_the_index_that_migrate_new_writes(postgres, project):
    """The index is of live rows; PostgreSQL joins it with that of versions that ended (BitmapOr)."""
    url = postgres.create_database()
    locked = {"tasks": {"ptr": "tbl_tasks_5f0c1d", "fields": {"title": {}}, "options": {}}}
    text = new.index_of(locked, "tasks.title")
    connection = await asyncpg.connect(url)
    await connection.execute(
        "INSERT INTO tbl_tasks_5f0c1d (id, data, _txid, _owner) "
        "SELECT i, jsonb_build_object('title', i::text), 1, 'ann' FROM generate_series(1, 20000) AS i"
    )
    await connection.execute(text.up[0])
    await connection.execute("ANALYZE tbl_tasks_5f0c1d")
    pointer = TablePointer("tasks", "tbl_tasks_5f0c1d", TableKind.VERSIONED, 7)
    asked = sql.select(pointer, parse("SELECT id FROM tasks WHERE data->>'title' = $1", ["77"], "tasks"), 5)
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {asked.text}", *asked.params))
    await connection.close()
    assert "Bitmap Index Scan on tbl_tasks_5f0c1d_title" in plan


@table("notes")
class Old(Struct):
    id: Annotated[str, primkey]
    text: str


@table("notes")
class New(Struct):
    id: Annotated[str, primkey]
    text: str
    colour: str = "red"


OLD, NEW = row_type(Old), row_type(New)


def version(stored: str) -> Version:
    return Version("n1", stored, 1, "ann")


def test_new_code_reads_rows_of_old_code():
    """A field with a default needs no change of stored rows."""
    assert NEW.decode(version(OLD.encode({"text": "a"}, "n1"))) == New("n1", "a", "red")


def test_old_code_reads_rows_of_new_code_and_update_keeps_what_it_does_not_know():
    """During a deploy both write the same rows."""
    stored = NEW.encode({"text": "a", "colour": "blue"}, "n1")
    assert OLD.decode(version(stored)) == Old("n1", "a")
    changed = OLD.merge(stored, {"text": "b"}, "n1")
    assert NEW.decode(version(changed)) == New("n1", "b", "blue")


def test_set_by_old_code_writes_the_whole_row_and_so_loses_the_new_field():
    """Documented in docs/how-to/migrations.md: what is deployed side by side changes rows with update."""
    stored = OLD.encode(Old("n1", "b"), "n1")
    assert NEW.decode(version(stored)) == New("n1", "b", "red")
