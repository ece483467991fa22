"""`kontract migrate`: bring a database to the schema of sql/init.sql and sql/migrations, and write new migrations."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asyncpg

from kontract.cli.migrations import database, files, indexes, lock, new, role
from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say, warn


def configure(parser: argparse.ArgumentParser) -> None:
    _database(parser)
    parser.add_argument(
        "--coordination", action="store_true", help="also the tables that several nodes of `kontract serve` share"
    )
    parser.add_argument(
        "--gateway-role",
        metavar="ROLE",
        help=f"create this role with the password in {role.PASSWORD}, or renew its grants",
    )
    actions = parser.add_subparsers(dest="action", metavar="action (default: up)")
    going_up = actions.add_parser("up", help="apply sql/init.sql and the new files in sql/migrations")
    going_up.add_argument("--coordination", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    going_up.add_argument("--gateway-role", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    going_down = actions.add_parser("down", help="undo the newest migrations")
    going_down.add_argument("count", nargs="?", type=int, default=1, help="how many (default: 1)")
    status = actions.add_parser("status", help="show which migrations have been applied")
    check = actions.add_parser("check", help="fail if structs, lock file, migrations and database do not match")
    for action in (going_up, going_down, status, check):
        _database(action, default=argparse.SUPPRESS)
    writing = actions.add_parser("new", help="write a migration from the changes in the @table structs")
    writing.add_argument("name", help="what it does, such as add_notes")
    writing.add_argument("--index", metavar="TABLE.FIELD", help="an index on a field, built while the table is in use")
    writing.add_argument(
        "--permissions", metavar="TABLE=RW_", action="append", default=[], help="what functions may do with a table"
    )
    writing.add_argument("--skeleton", action="store_true", help="write dangerous changes as a file for you to finish")
    writing.add_argument("--python", action="store_true", help="a Python step instead of SQL")
    writing.add_argument("--owner", default="tenant-1", help="the tenant of new tables (default: tenant-1)")


def _database(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument("--database-url", default=default, help=database_url.OPTION_HELP)


def run(args: argparse.Namespace) -> int:
    root = Checkout.find().root
    if args.action == "new":
        wishes = new.Wishes(args.index, args.permissions, args.skeleton, args.python, args.owner)
        path = new.write(root, args.name, wishes)
        say(f"Wrote {path.relative_to(root)} and {lock.LOCK}. {_next_step(path)}")
        return 0
    if args.action == "check":
        url = args.database_url or os.environ.get("DATABASE_URL", "")
        return _report(asyncio.run(check(root, url)), with_database=bool(url))
    url = database_url.required(args.database_url)
    if args.action == "down":
        asyncio.run(down(url, args.count, say, root=root))
    elif args.action == "status":
        asyncio.run(status(url, say, root=root))
    else:
        asyncio.run(migrate(url, say, coordination=args.coordination, root=root, gateway_role=args.gateway_role))
    return 0


def _next_step(path: Path) -> str:
    if files.UNFINISHED in path.read_text(encoding="utf-8"):
        return "Finish it, then remove its line `unfinished:`; it is not applied before."
    return "Check it. A running `make dev` applies it; elsewhere run `kontract migrate`."


def _report(wrong: list[str], *, with_database: bool) -> int:
    for sentence in wrong:
        warn(sentence)
    if not wrong:
        say(f"Structs, {lock.LOCK} and migrations match" + (", and the database too." if with_database else "."))
    return 1 if wrong else 0


async def migrate(
    database_url: str,
    report: Callable[[str], None],
    *,
    coordination: bool = False,
    root: Path | None = None,
    skip_unfinished: bool = False,
    gateway_role: str | None = None,
) -> None:
    """Apply sql/init.sql, then each migration that is new; each file in its own transaction.

    ``coordination``: then sql/coordination.sql. ``root``: the checkout (default: the one around the working directory).
    ``skip_unfinished``: skip files that are marked as unfinished; otherwise they raise a Problem.
    ``gateway_role``: a role that gets the grants of a gateway; it is created if missing.
    """
    root = root or Checkout.find().root
    migrations = files.read(root)
    base = [root / "sql" / name for name in ("init.sql", "coordination.sql")[: 1 + coordination]]
    async with database.connected(database_url) as connection, database.alone(connection):
        if await database.has_records(connection):
            database.pending(migrations, await database.applied(connection))  # raises before anything is done
        tried: set[str] = set()
        await indexes.complete(connection, report, tried)  # first: sql/init.sql would lock its tables meanwhile
        before = await _tables(connection)
        for path in base:
            await database.patiently(f"sql/{path.name}", partial(_apply, connection, path.read_text()))
        added = sorted(await _tables(connection) - before)
        if added:
            report(f"Created {', '.join(added)}.")
        todo = database.pending(migrations, await database.applied(connection))
        ready = database.ready(todo, skip_unfinished=skip_unfinished)
        for one in ready:
            await database.up(connection, one)
            report(f"Applied {one.name}.")
        await indexes.complete(connection, report, tried)  # files of before make tables without it
        for one in todo[len(ready) :]:
            report(f"Not applied: {one.shown} {_reason(one)}.")
        if gateway_role:
            report(await role.prepare(connection, gateway_role))
    if not added and not todo and not tried:
        report("The schema is up to date.")


def _reason(one: files.Migration) -> str:
    if one.unfinished:
        return "has a line that begins with `unfinished:`"
    return "is empty" if one.is_empty else "comes after an unfinished one"


async def _apply(connection: asyncpg.Connection, text: str) -> None:
    try:
        await connection.execute(text)
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")  # the file's own BEGIN is still open
        raise


async def down(database_url: str, count: int, report: Callable[[str], None], *, root: Path) -> None:
    """Undo the last ``count`` migrations, the newest first."""
    migrations = {one.name: one for one in files.read(root)}
    async with database.connected(database_url) as connection, database.alone(connection):
        ran = await database.applied(connection) if await database.has_records(connection) else {}
        database.pending(list(migrations.values()), ran)
        names = sorted(ran, reverse=True)[: max(count, 0)]
        for name in names:
            await database.down(connection, migrations[name])
            report(f"Undid {name}.")
    if not names:
        report("There is nothing to undo.")


async def status(database_url: str, report: Callable[[str], None], *, root: Path) -> None:
    """Print each migration and whether it was applied."""
    migrations = files.read(root)
    async with database.connected(database_url) as connection:
        ran = await database.applied(connection) if await database.has_records(connection) else {}
    for one in migrations:
        state = "pending" if one.name not in ran else "applied" if ran[one.name] == one.checksum else "changed since"
        report(f"{state:<14} {one.name}")
    known = {one.name for one in migrations}
    for name in ran:
        if name not in known:
            report(f"{'no file':<14} {name}")
    if not migrations and not ran:
        report("There are no migrations, only sql/init.sql.")


async def check(root: Path, database_url: str) -> list[str]:
    """Return what is wrong, one sentence each; with an empty ``database_url`` only the files are checked."""
    try:
        migrations = files.read(root)
        wrong = [f"{one} Run: kontract migrate new NAME" for one in new.unmigrated(root)]
        wrong += [f"{one.shown} is unfinished." for one in migrations if one.unfinished]
        if not database_url:
            return wrong
        async with database.connected(database_url) as connection:
            if not await database.has_records(connection):
                return [*wrong, "The database has no schema. Run: kontract migrate"]
            todo = database.pending(migrations, await database.applied(connection))
            wrong += [f"{one.shown} is missing from the database. Run: kontract migrate" for one in todo]
            if not todo:
                wrong += await _misplaced(connection, lock.load(root))
    except Problem as problem:
        return [problem.what, problem.fix]
    return wrong


async def _misplaced(connection: asyncpg.Connection, tables: dict[str, dict[str, object]]) -> list[str]:
    rows = await connection.fetch("SELECT ptr, permissions FROM storage WHERE owner <> $1", database.OWNER)
    found = {row["ptr"]: row["permissions"] for row in rows}
    wrong = []
    for name, table in tables.items():
        if table["ptr"] not in found:
            wrong.append(f"Table {name} should be {table['ptr']} in the database according to {lock.LOCK}, but is not.")
        elif found[str(table["ptr"])] != table["permissions"]:
            wrong.append(f"Table {name} has different permissions in the database than in {lock.LOCK}.")
    return wrong


def unmigrated(root: Path) -> list[str]:
    """Return what the structs declare and no migration has, one sentence each, for `kontract dev`."""
    try:
        return new.unmigrated(root)
    except Problem:
        return []  # `kontract build` comes next and reports mistakes in src/app


async def _tables(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))")
    return {row[0] for row in rows}
