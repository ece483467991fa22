"""`kontract migrate`, against the real database and beside the real psql."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import asyncpg
import pytest

from kontract.cli.main import main
from kontract.cli.migrate import migrate
from kontract.cli.migrations import indexes, register
from kontract.cli.table import adopt
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import programs
from support.postgres import Postgres

PROGRAMS = programs()


def dump(url: str) -> list[str]:
    """Schema and rows of a database, without what differs between two dumps of the same."""
    text = subprocess.run(
        [PROGRAMS / "pg_dump", "--no-owner", "--inserts", url], check=True, capture_output=True, text=True
    ).stdout
    return [line for line in text.splitlines() if not line.startswith(("--", "\\restrict", "\\unrestrict"))]


def psql(url: str, file: Path) -> None:
    subprocess.run([PROGRAMS / "psql", "-v", "ON_ERROR_STOP=1", "-qf", file, url], check=True, capture_output=True)


def test_migrate_and_psql_end_in_the_same_state(postgres: Postgres, checkout: Checkout):
    """An operator may use either, also one after the other."""
    by_command, by_psql = postgres.create_database(empty=True), postgres.create_database(empty=True)
    asyncio.run(migrate(by_command, lambda _: None))
    psql(by_psql, checkout.root / "sql" / "init.sql")
    assert "tbl_tasks_5f0c1d" in "\n".join(dump(by_psql))
    assert dump(by_command) == dump(by_psql)
    psql(by_command, checkout.root / "sql" / "init.sql")
    asyncio.run(migrate(by_psql, lambda _: None))
    assert dump(by_command) == dump(by_psql)


def test_a_database_of_before_gets_the_place_for_results(postgres: Postgres, checkout: Checkout):
    """Without a lock on trxs where it has one: a commit under way does not hold the command up."""
    url, ours = postgres.create_database(), postgres.create_database()

    async def again() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("ALTER TABLE trxs DROP COLUMN result")
        await migrate(url, lambda _: None)
        async with connection.transaction():
            await connection.execute("INSERT INTO trxs VALUES ('s/1', 'tenant-1', 1, '{}')")
            await asyncio.wait_for(migrate(url, lambda _: None), 60)
            kept = await connection.fetchval("SELECT result FROM trxs")
        assert kept == "{}"
        await connection.execute("DELETE FROM trxs")
        await connection.close()

    asyncio.run(again())
    assert dump(url) == dump(ours)


OLDER_TABLE = """
CREATE TABLE tbl_older_1 (
  id TEXT COLLATE "C" NOT NULL, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid));
CREATE UNIQUE INDEX tbl_older_1_live ON tbl_older_1 (id) WHERE _deleted_txid IS NULL;
INSERT INTO storage (id, ptr, owner) VALUES ('older', 'tbl_older_1', 'somebody');
CREATE TABLE tbl_plain_1 (
  id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL);
INSERT INTO storage (id, ptr, owner) VALUES ('plain', 'tbl_plain_1', 'somebody'), ('lost', 'tbl_lost', 'somebody');
"""


def test_versioned_tables_of_before_get_the_index_in_their_order(postgres: Postgres, checkout: Checkout):
    """Those of sql/init.sql and everybody's own, one left half made too, while the tables are written to."""
    url, ours = postgres.create_database(), postgres.create_database()
    for database in (url, ours):
        postgres.run(database, OLDER_TABLE)
    postgres.run(
        url,
        "DROP INDEX tbl_accounts_9b27e4_order; "
        "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'tbl_tasks_5f0c1d_order'::regclass",
    )
    said: list[str] = []

    async def while_written_to() -> None:
        connection = await asyncpg.connect(url)
        migrating = asyncio.ensure_future(migrate(url, said.append))
        written = 0
        while not migrating.done():
            written += 1
            await connection.execute("INSERT INTO tbl_older_1 (id, _txid, _owner) VALUES ($1, 1, 'u')", str(written))
        await migrating
        await connection.execute("DELETE FROM tbl_older_1; ALTER SEQUENCE tbl_older_1__order_seq RESTART")
        await connection.close()
        assert written > 0

    asyncio.run(while_written_to())
    assert said == [
        f"Created the index {ptr}_order, by which pop and shift find their row."
        for ptr in ("tbl_accounts_9b27e4", "tbl_older_1", "tbl_tasks_5f0c1d")
    ]
    asyncio.run(migrate(ours, lambda _: None))
    assert dump(url) == dump(ours)
    said.clear()
    asyncio.run(migrate(url, said.append))
    assert said == ["The schema is up to date."]


def test_an_index_that_cannot_be_made_stops_nothing(postgres: Postgres):
    """The name may be taken, or the table another's: what is missing is speed."""
    url = postgres.create_database()
    postgres.run(url, OLDER_TABLE + "CREATE TABLE tbl_older_1_order ()")
    said: list[str] = []
    asyncio.run(migrate(url, said.append))
    [one] = said
    assert "tbl_older_1 still has no index in the order of its rows" in one


def test_every_way_to_make_a_versioned_table_makes_its_indexes(postgres: Postgres):
    """By sql/init.sql, by `kontract table create` (and `migrate new`, which writes the same), by `table adopt`."""
    url = postgres.create_database()
    postgres.run(url, OLDER_TABLE + "DELETE FROM storage WHERE id IN ('older', 'lost')")

    async def missing() -> list[str]:
        quiet: list[str] = []
        await register.create(url, "somebody", "x" * 63, "RWX", quiet.append)
        await adopt(url, "somebody", "plain", quiet.append)
        connection = await asyncpg.connect(url)
        found = await indexes.without_order(connection)
        await connection.close()
        return found

    assert asyncio.run(missing()) == []


def test_it_says_what_it_created_and_then_that_nothing_is_to_do(postgres: Postgres, capsys, monkeypatch):
    """A second run changes nothing and says so."""
    monkeypatch.setenv("DATABASE_URL", postgres.create_database(empty=True))
    assert main(["migrate"]) == 0
    assert "Created storage" in capsys.readouterr().out
    assert main(["migrate"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_two_at_once_do_not_disturb_each_other(postgres: Postgres):
    """Two deployments may migrate the same database at the same time."""
    url = postgres.create_database(empty=True)

    async def both() -> None:
        await asyncio.gather(*(migrate(url, lambda _: None) for _ in range(4)))

    asyncio.run(both())
    assert "tbl_accounts_9b27e4" in "\n".join(dump(url))


@pytest.mark.parametrize("url", ["", "postgresql://nobody@127.0.0.1:1/none"])
def test_without_a_database_it_says_what_to_do(url, capsys, monkeypatch):
    """No DATABASE_URL, or nobody there: a sentence, no traceback."""
    monkeypatch.setenv("DATABASE_URL", url)
    assert main(["migrate"]) == 1
    assert "DATABASE_URL" in capsys.readouterr().err
