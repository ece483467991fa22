"""Creates, registers and drops tables by hand (`kontract table`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from kontract.cli.migrations import database, lock, new
from kontract.cli.toolchain.problem import Problem
from kontract.core.limits import POINTER_CACHE_MS
from kontract.core.model import perms
from kontract.core.transaction import fences, sql
from kontract.core.transaction.store import SYSTEM

COLUMNS = {"id": "text", "data": "jsonb", "_txid": "int8", "_deleted_txid": "int8", "_owner": "text", "_order": "int4"}

GATEWAY = frozenset(
    (
        "storage",
        "trxs",
        "__users",
        "__sessions",
        "coordination",
        "coordination_log",
        "coordination_checkpoints",
        "shared",
    )
)
"""The gateway's own tables, of sql/init.sql and sql/coordination.sql: it cannot work without them."""

Say = Callable[[str], None]
T = TypeVar("T")


async def create(url: str, owner: str, name: str, permissions: str, report: Say) -> None:
    """Create a versioned table and register it, atomically."""
    _check_name(name)
    ptr = lock.physical(name, owner)

    async def work(connection: asyncpg.Connection) -> None:
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", sql.quote(ptr)):
            raise Problem(
                f"PostgreSQL already has a table {ptr}.", f"To use it, run: kontract table register {name} {ptr}"
            )
        await connection.execute(new.TABLE.format(ptr=ptr))
        await _insert(connection, owner, name, ptr, permissions)

    await _change(url, f"Table {name}", work)
    report(f"Created {name} of {owner} as {ptr}.")


async def register(url: str, owner: str, name: str, ptr: str, permissions: str, report: Say) -> None:
    """Register an existing table if it has the columns, key and row numbers that the protocol needs."""
    _check_name(name)
    try:
        table = sql.quote(ptr)
    except ValueError as error:
        raise Problem(f"{error}.", "Rename it in PostgreSQL first.") from error

    async def work(connection: asyncpg.Connection) -> None:
        if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
            raise Problem(f"PostgreSQL has no table {ptr}.", f"To create one, run: kontract table create {name}")
        await check_columns(connection, ptr)
        await _check_key(connection, table, ptr)
        await _check_numbers(connection, owner, ptr)
        await _insert(connection, owner, name, ptr, permissions)

    await _change(url, f"Table {name}", work)
    report(f"Registered {ptr} as {name} of {owner}.")


async def drop(url: str, owner: str, name: str, report: Say, *, delete_data: bool) -> None:
    """Unregister a table; with ``delete_data`` drop it in PostgreSQL, too."""
    refuse_gateway(owner, name)

    async def work(connection: asyncpg.Connection) -> str:
        ptr: str | None = await connection.fetchval(
            "DELETE FROM storage WHERE owner = $1 AND id = (SELECT id FROM storage WHERE owner = $1 AND id IN ($2, $3) "
            "ORDER BY id = $2 DESC LIMIT 1) RETURNING ptr",
            owner,
            name,
            f"{owner}/{name}",
        )
        if ptr is None and name in GATEWAY:
            raise _of_the_gateway(name)
        if ptr is None:
            raise Problem(f"{owner} has no table {name!r}.", "`kontract table list` shows all.")
        if delete_data:
            other = await connection.fetchval("SELECT owner FROM storage WHERE ptr = $1 LIMIT 1", ptr)
            if other is not None or ptr in GATEWAY:
                raise Problem(
                    f"{ptr}, where {name} is, also belongs to {other or 'the gateway itself'}.",
                    "Nothing was changed. Without --delete-data the table is only unregistered.",
                )
            await connection.execute(f"DROP TABLE IF EXISTS {sql.quote(ptr)}")
        return ptr

    ptr = await _change(url, f"Table {name}", work)
    if delete_data:
        report(f"Dropped {name} of {owner} and {ptr} with its data. Calls that are using it now fail.")
    else:
        report(
            f"Dropped {name} of {owner}; its data is still in {ptr}. Gateways may write to it for another "
            f"{POINTER_CACHE_MS // 1000} s. To restore it, run: kontract table register {name} {ptr}"
        )


def refuse_gateway(owner: str, name: str) -> None:
    """Raise Problem when the owner is the gateway itself."""
    if owner in (SYSTEM, database.OWNER):
        raise _of_the_gateway(name)


def _of_the_gateway(name: str) -> Problem:
    return Problem(
        f"{name} belongs to the gateway itself, which cannot work without it.",
        "Nothing was changed. `kontract table drop` is for tables of the application.",
    )


async def check_columns(connection: asyncpg.Connection, ptr: str) -> None:
    """Raise Problem unless the table has the columns of a plain table."""
    rows = await connection.fetch(
        "SELECT a.attname, t.typname FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t "
        "ON t.oid = a.atttypid WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped",
        sql.quote(ptr),
    )
    found = {row[0]: row[1] for row in rows}
    wrong = [f"{column} {kind}" for column, kind in COLUMNS.items() if found.get(column) not in (kind, _wider(kind))]
    if wrong:
        raise Problem(
            f"{ptr} lacks columns of a plain table; missing or of the wrong type: {', '.join(wrong)}.",
            "Compare it with the CREATE TABLE in docs/reference/tables.md.",
        )


def _wider(kind: str) -> str:
    return {"int4": "int8", "text": "varchar"}.get(kind, kind)


async def _change(url: str, what: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    done: list[T] = []
    async with database.connected(url) as connection, database.alone(connection):
        if not await database.has_records(connection):
            raise Problem("The schema is missing.", "Run: kontract migrate")

        async def once() -> None:
            async with connection.transaction():
                done[:] = [await work(connection)]

        await database.patiently(what, once)
    return done[0]


def _check_name(name: str) -> None:
    if not sql.IDENTIFIER.fullmatch(name):
        raise Problem(f"{name!r} is not a valid table name.", f"It must match {sql.IDENTIFIER.pattern}.")


async def _check_key(connection: asyncpg.Connection, table: str, ptr: str) -> None:
    key = await connection.fetchval(
        "SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)) "
        "FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid "
        "AND a.attnum = ANY (i.indkey) WHERE i.indrelid = to_regclass($1) AND i.indisprimary",
        table,
    )
    live = await connection.fetchval(
        "SELECT count(*) FROM pg_catalog.pg_index WHERE indrelid = to_regclass($1) AND indisunique AND indnkeyatts = 1 "
        "AND pg_get_expr(indpred, indrelid) = '(_deleted_txid IS NULL)'",
        table,
    )
    if key != ["id"] and not (key == ["id", "_txid"] and live):
        raise Problem(
            f"{ptr} lacks the keys of a table: a primary key (id), or (id, _txid) and a unique index on (id) of the "
            "live rows.",
            "Compare it with the CREATE TABLE in docs/reference/tables.md.",
        )
    if not await connection.fetchval("SELECT pg_get_serial_sequence($1, '_order') IS NOT NULL", table):
        raise Problem(f"The column _order of {ptr} has no sequence.", "Make it SERIAL, as in docs/reference/tables.md.")


async def _check_numbers(connection: asyncpg.Connection, owner: str, ptr: str) -> None:
    """Refuse rows with txids above those of a running coordinator: nobody would see them."""
    known = await connection.fetchval(
        "SELECT max(abs(create_txid)) FILTER (WHERE sid NOT LIKE 'epoch/%') FROM trxs WHERE owner = $1 "
        "HAVING bool_or(sid LIKE 'epoch/%')",
        owner,
    )
    started = await connection.fetchval("SELECT EXISTS (SELECT FROM trxs WHERE sid = 'epoch/' || $1)", owner)
    if not started:
        return  # the first coordinator looks at all tables
    others = [row[0] for row in await connection.fetch(fences.POINTERS, owner)]
    if others:
        known = max(known or 0, await connection.fetchval(fences.highest_txid(others).text))
    highest = await connection.fetchval(fences.highest_txid([ptr]).text)
    if highest > (known or 0):
        raise Problem(
            f"{ptr} has rows of transaction {highest}; {owner} is at {known or 0}, so nobody would see them.",
            "While nothing uses the table, delete dead versions, set _txid to 1, and run the command again.",
        )


async def _insert(connection: asyncpg.Connection, owner: str, name: str, ptr: str, permissions: str) -> None:
    used = await connection.fetchrow("SELECT id, owner FROM storage WHERE ptr = $1", ptr)
    if used is not None:
        raise Problem(
            f"{ptr} is already registered, as {used['id']} of {used['owner']}.",
            "Two tables must not share one: each tenant numbers its transactions separately.",
        )
    taken = await connection.fetchval("SELECT owner FROM storage WHERE id = $1", name)
    own = f"{owner}/{name}"
    if taken == owner or await connection.fetchval("SELECT EXISTS (SELECT FROM storage WHERE id = $1)", own):
        raise Problem(f"{owner} already has a table {name!r}.", "`kontract table list` shows all.")
    await connection.execute(
        "INSERT INTO storage (id, ptr, owner, permissions) VALUES ($1, $2, $3, $4)",
        name if taken is None else own,
        ptr,
        owner,
        perms.NAMES[permissions],
    )
