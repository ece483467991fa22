"""`kontract table`: list tables, and turn a plain one into a versioned one."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from kontract.cli.migrations import database, indexes, register
from kontract.cli.migrations.register import check_columns
from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say
from kontract.core.model import perms
from kontract.core.transaction import sql
from kontract.core.transaction.store import SqlStore, TableMissingError
from kontract.core.types import TableKind, TablePointer
from kontract.server.database import AsyncpgDatabase

DEFAULT_OWNER = "tenant-1"


_LOCK_MS = 2_000
# How long adopt waits for statements in flight. Those that come later queue behind it, so it must not wait for long.


@dataclass(frozen=True)
class Listed:
    """A row of `kontract table list`."""

    owner: str
    name: str
    ptr: str
    kind: str
    permissions: str = "RWX"
    versions: int | None = None
    """How many rows PostgreSQL holds, versions counted one by one, as of its last ANALYZE; None before the first."""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    listing = actions.add_parser("list", help="show the registered tables and their kinds")
    adopting = actions.add_parser("adopt", help="turn a plain table (one row per id) into a versioned one")
    adopting.add_argument("name", help="the logical name of the table")
    adopting.add_argument("--owner", default=DEFAULT_OWNER, help=f"the tenant (default: {DEFAULT_OWNER})")
    creating = actions.add_parser("create", help="create a versioned table and register it")
    registering = actions.add_parser("register", help="register a table that exists in PostgreSQL")
    dropping = actions.add_parser("drop", help="unregister a table; its data stays in PostgreSQL")
    dropping.add_argument("--delete-data", action="store_true", help="also drop the table in PostgreSQL")
    dropping.add_argument("--yes", action="store_true", help="do not ask")
    for command in (creating, registering, dropping):
        command.add_argument("name", help="the logical name of the table")
        command.add_argument("--owner", default=DEFAULT_OWNER, help=f"the tenant (default: {DEFAULT_OWNER})")
    registering.add_argument("ptr", help="its name in PostgreSQL")
    for command in (creating, registering):
        command.add_argument("--permissions", default="RWX", choices=perms.NAMES, help="what functions may do with it")
    spelling = actions.add_parser(
        "respell", help="rewrite values from older releases and from SQL in the spelling of their types"
    )
    spelling.add_argument(
        "name", nargs="?", help="the logical name of the table (default: all tables that src/app declares)"
    )
    spelling.add_argument("--check", action="store_true", help="change nothing; fail if there are rows to rewrite")
    for command in (listing, adopting, creating, registering, dropping, spelling):
        command.add_argument("--database-url", help=database_url.OPTION_HELP)


def run(args: argparse.Namespace) -> int:
    url = database_url.required(args.database_url)
    if args.action == "list":
        asyncio.run(_show(url))
    elif args.action == "create":
        asyncio.run(register.create(url, args.owner, args.name, args.permissions, say))
    elif args.action == "register":
        asyncio.run(register.register(url, args.owner, args.name, args.ptr, args.permissions, say))
    elif args.action == "respell":
        from kontract.cli.generate import row_types
        from kontract.cli.respell import respell

        types = row_types(Checkout.find())
        found = asyncio.run(respell(url, types, say, only=args.name, check=args.check))
        return 1 if args.check and found else 0
    elif args.action == "drop":
        register.refuse_gateway(args.owner, args.name)
        if not args.yes:
            _ask(args.name, delete_data=args.delete_data)
        asyncio.run(register.drop(url, args.owner, args.name, say, delete_data=args.delete_data))
    else:
        asyncio.run(adopt(url, args.owner, args.name, say))
    return 0


def _ask(name: str, *, delete_data: bool) -> None:
    """Raise a Problem unless the name of the table is typed."""
    question = f"Type {name} to unregister the table" + (" and delete its data: " if delete_data else ": ")
    try:
        typed = input(question)
    except EOFError:
        raise Problem(
            "Cannot ask for confirmation: the input has ended.",
            "Nothing was changed. Use --yes to run without a terminal.",
        ) from None
    if typed != name:
        raise Problem("The name does not match.", "Nothing was changed.")


async def _show(url: str) -> None:
    tables = await list_tables(url)
    if not tables:
        say("No table is registered. `kontract migrate` creates those of the application.")
        return
    rows = [
        ("OWNER", "TABLE", "KIND", "PERMISSIONS", "VERSIONS", "IN POSTGRESQL"),
        *(
            (t.owner, t.name, t.kind, t.permissions, "?" if t.versions is None else f"~{t.versions}", t.ptr)
            for t in tables
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def list_tables(url: str) -> list[Listed]:
    """Return all registered tables with their kinds."""
    async with database_url.connected(url) as connection:
        rows = await connection.fetch(
            """
            SELECT s.owner, s.id, s.ptr, to_regclass(quote_ident(s.ptr)) IS NOT NULL, i.indnkeyatts,
              s.permissions, c.reltuples::bigint
            FROM storage AS s
            LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = to_regclass(quote_ident(s.ptr)) AND i.indisprimary
            LEFT JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
            WHERE s.owner <> $1
            ORDER BY s.owner, s.id
            """,
            database.OWNER,
        )
    kinds = {1: TableKind.PLAIN.value, 2: TableKind.VERSIONED.value}
    return [
        Listed(
            owner,
            name.removeprefix(f"{owner}/"),
            ptr,
            kinds.get(key, "unusable") if exists else "missing",
            perms.name_of(permissions),
            None if versions is None or versions < 0 else versions,
        )
        for owner, name, ptr, exists, key, permissions, versions in rows
    ]


async def adopt(url: str, owner: str, name: str, report: Callable[[str], None]) -> None:
    """Turn the plain table into a versioned one, in one transaction, while gateways keep running."""
    pointer = await _find(url, owner, name)
    if pointer.kind is TableKind.VERSIONED:
        report(f"{name} ({pointer.ptr}) is already a versioned table.")
        return
    async with database_url.connected(url) as connection:
        await check_columns(connection, pointer.ptr)
        try:
            async with connection.transaction():
                await _swap_key(connection, pointer)
        except asyncpg.LockNotAvailableError as error:
            raise Problem(
                f"{pointer.ptr} was in use for {_LOCK_MS // 1000} s without a pause. Nothing was changed.",
                "Look for long transactions in pg_stat_activity and run the command again.",
            ) from error
        except asyncpg.PostgresError as error:
            raise Problem(
                f"{pointer.ptr} could not be adopted: {error} (SQLSTATE {error.sqlstate}).",
                "Nothing was changed. Correct the error and run the command again.",
            ) from error
        collation = await connection.fetchval(
            "SELECT c.collname FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_collation AS c "
            "ON c.oid = a.attcollation WHERE a.attrelid = to_regclass($1) AND a.attname = 'id'",
            sql.quote(pointer.ptr),
        )
    report(f"{name} ({pointer.ptr}) is now a versioned table. Running gateways notice it themselves.")
    if collation != "C":
        report(
            f"Note: its column id has the collation {collation!r}. Ids are ordered by their bytes all the same; "
            "queries in order of ids can use an index only after this statement, which locks the table while it runs:\n"
            f'  ALTER TABLE {sql.quote(pointer.ptr)} ALTER COLUMN id TYPE text COLLATE "C";'
        )


async def _find(url: str, owner: str, name: str) -> TablePointer:
    store = SqlStore(AsyncpgDatabase(url))
    async with database_url.connected(url):
        pass  # says what is wrong with the connection
    try:
        pointer = await store.lookup(owner, name)
    except TableMissingError as error:
        raise Problem(f"{error}.", "Create the table, or correct its row in storage.") from error
    finally:
        await store.aclose()
    if pointer is None:
        raise Problem(
            f"{owner} has no table {name!r}.", "`kontract table list` shows all; --owner chooses another tenant."
        )
    return pointer


async def _swap_key(connection: asyncpg.Connection, pointer: TablePointer) -> None:
    table = sql.quote(pointer.ptr)
    # Names as sql/init.sql gives them; PostgreSQL cuts identifiers at 63 bytes.
    live, data, dead = (sql.quote(f"{pointer.ptr[:58]}_{suffix}") for suffix in ("live", "data", "dead"))
    await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
    # No apply statement is under way from here on, and those that wait find the new key: the plain one then fails.
    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    key = await connection.fetchrow(
        "SELECT conname, cardinality(conkey) AS columns FROM pg_catalog.pg_constraint "
        "WHERE conrelid = to_regclass($1) AND contype = 'p'",
        table,
    )
    if key is None or key["columns"] != 1:
        return  # another run was faster
    constraint = '"' + key["conname"].replace('"', '""') + '"'
    await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
    await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} PRIMARY KEY (id, _txid)")
    await connection.execute(f"CREATE UNIQUE INDEX {live} ON {table} (id) WHERE _deleted_txid IS NULL")
    await connection.execute(f"CREATE INDEX IF NOT EXISTS {data} ON {table} USING gin (data jsonb_path_ops)")
    await connection.execute(
        f"CREATE INDEX IF NOT EXISTS {dead} ON {table} (_deleted_txid) WHERE _deleted_txid IS NOT NULL"
    )
    await connection.execute(indexes.order_index(pointer.ptr))
    # Readers of this moment may hold a snapshot from before the last change of a row, whose version was overwritten.
    # For a minute, longer than any of them lives, the table is read like a plain one
    # (kontract.core.transaction.sql.LOOKUP).
    now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::bigint")
    await connection.execute(f"COMMENT ON INDEX {constraint} IS '{sql.ADOPTED}{now}'")
