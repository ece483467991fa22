"""`kontract migrate`, against the real database and beside the real psql."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import asyncpg
import pytest

from kontract.cli.main import main
from kontract.cli.migrate import migrate
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
