"""Indexes that versioned tables of before lack, made while the tables are in use."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from kontract.cli.migrations import database
from kontract.core.transaction import sql
from kontract.core.transaction.store import SYSTEM

ORDER = f'CREATE INDEX {{how}}{{name}} ON {{table}} (_order, id COLLATE "C") WHERE {sql.IN_ORDER}'
"""What pop and shift go by; without it they read all live rows."""

# Every registered table with the two columns of its primary key, and whether an index in this order can be used.
_ORDERED = """
SELECT DISTINCT s.ptr, EXISTS (
  SELECT FROM pg_catalog.pg_index AS o
  WHERE o.indrelid = k.indrelid AND o.indisvalid AND o.indnkeyatts >= 2
    AND pg_get_indexdef(o.indexrelid, 1, true) = '_order' AND pg_get_indexdef(o.indexrelid, 2, true) = 'id'
    AND pg_get_expr(o.indpred, o.indrelid) = '(COALESCE(_deleted_txid, (0)::bigint) = 0)') AS ordered
FROM storage AS s
JOIN pg_catalog.pg_index AS k ON k.indrelid = to_regclass(quote_ident(s.ptr)) AND k.indisprimary AND k.indnkeyatts = 2
WHERE s.owner NOT IN ($1, $2)
ORDER BY s.ptr
"""


def order_index(ptr: str, how: str = "IF NOT EXISTS ") -> str:
    """Return the statement that makes the index; the name as sql/init.sql gives it, which PostgreSQL cuts at 63."""
    return ORDER.format(how=how, name=sql.quote(f"{ptr[:57]}_order"), table=sql.quote(ptr))


async def without_order(connection: asyncpg.Connection) -> list[str]:
    """Return the physical versioned tables that have no index in the order of insertion."""
    rows = await connection.fetch(_ORDERED, SYSTEM, database.OWNER)
    return [ptr for ptr, ordered in rows if not ordered and sql.IDENTIFIER.fullmatch(ptr)]


async def complete(connection: asyncpg.Connection, report: Callable[[str], None], tried: set[str]) -> None:
    """Make what is missing, one index after the other, while gateways read and write the tables.

    ``tried``: tables that were looked at before, to which these are added.
    """
    if not await connection.fetchval("SELECT to_regclass('storage') IS NOT NULL"):
        return
    for ptr in await without_order(connection):
        if ptr in tried:
            continue
        tried.add(ptr)
        try:
            await database.without_transaction(connection, order_index(ptr, "CONCURRENTLY IF NOT EXISTS "))
        except asyncpg.PostgresError as error:
            reason = f": {error} (SQLSTATE {error.sqlstate})"
        else:
            # IF NOT EXISTS is satisfied by anything of this name.
            reason = ": its name is taken" if ptr in await without_order(connection) else ""
        if reason:
            report(
                f"{ptr} still has no index in the order of its rows{reason}. Everything works without it; pop and "
                "shift read all live rows."
            )
        else:
            report(f"Created the index {ptr[:57]}_order, by which pop and shift find their row.")
