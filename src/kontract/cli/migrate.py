"""`kontract migrate`: bring a database to the schema of sql/init.sql."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import asyncpg

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say

_CONNECT_SECONDS = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database-url", help="postgresql://... (default: DATABASE_URL)")
    parser.add_argument(
        "--coordination", action="store_true", help="also the tables that several nodes of `kontract serve` share"
    )


def run(args: argparse.Namespace) -> int:
    url = args.database_url or os.environ.get("DATABASE_URL", "")
    if not url:
        raise Problem(
            "There is no database to migrate.", "Set DATABASE_URL, or give --database-url postgresql://user@host/db."
        )
    asyncio.run(migrate(url, say, coordination=args.coordination))
    return 0


async def migrate(database_url: str, report: Callable[[str], None], *, coordination: bool = False) -> None:
    """Apply sql/init.sql in one transaction; what is there already stays as it is.

    ``coordination``: then sql/coordination.sql, in another one.
    """
    paths = [Checkout.find().root / "sql" / name for name in ("init.sql", "coordination.sql")[: 1 + coordination]]
    path = paths[0]
    try:
        connection = await asyncpg.connect(database_url, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        raise Problem(
            f"The database cannot be reached: {error}.", "Check DATABASE_URL, and that PostgreSQL runs there."
        ) from error
    try:
        # Two runs at once would race on CREATE TABLE IF NOT EXISTS; the lock ends with this session. It is the one
        # place that needs a session: connect to PostgreSQL itself, not to a transaction pooler.
        await connection.execute("SELECT pg_advisory_lock(hashtext('kontract migrate'))")
        before = await _tables(connection)
        for path in paths:
            await connection.execute(path.read_text())
        added = sorted(await _tables(connection) - before)
    except asyncpg.PostgresError as error:
        raise Problem(
            f"{_name(path)} could not be applied: {error} (SQLSTATE {error.sqlstate}).",
            "Nothing of this file was kept. Correct it and run the command again.",
        ) from error
    finally:
        await connection.close()
    report(f"Created {', '.join(added)}." if added else "The schema is up to date.")


async def _tables(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))")
    return {row[0] for row in rows}


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
