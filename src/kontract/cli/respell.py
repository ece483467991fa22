"""`kontract table respell`: give stored values of older releases, and of SQL, the one spelling of their types.

Filters and orders of a field are right without it, whatever its spelling. Values inside of nested objects and lists are
found by a filter only in their own spelling, and indexes hold what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import asyncpg
import msgspec

from kontract.cli.table import list_tables
from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.problem import Problem
from kontract.core.model.rows import RowType
from kontract.core.transaction import sql

_ROWS = 500
"""Rows read by one statement: a few hundred kilobytes."""


@dataclass
class Found:
    """What was found in a table. ``unreadable``: how many rows the struct cannot read; ``first``: the id of one."""

    rows: int = 0
    spelled: int = 0
    unreadable: int = 0
    first: str = ""


async def respell(
    url: str,
    types: Mapping[str, RowType],
    report: Callable[[str], None],
    *,
    only: str | None = None,
    check: bool = False,
) -> int:
    """Rewrite the live rows of declared tables whose spelling differs; returns how many there were.

    Their meaning does not change, so they keep their transactions, and gateways may go on meanwhile: a row that is
    written at the same moment is left to its writer. ``check``: change nothing. ``only``: this table.
    """
    changed = 0
    tables = [one for one in await list_tables(url) if one.kind in ("plain", "versioned") and one.name in types]
    if only is not None:
        tables = [one for one in tables if one.name == only]
        if not tables:
            raise Problem(f"src/app declares no table {only!r}.", "Run `kontract table list` to see all tables.")
    async with database_url.connected(url) as connection:
        for table in tables:
            found = await _table(connection, sql.quote(table.ptr), types[table.name], check=check)
            changed += found.spelled
            what = "would be spelled" if check else "spelled"
            report(f"{table.owner}/{table.name}: {found.rows} rows, {found.spelled} {what} as their types are stored")
            if found.unreadable:
                report(f"  {found.unreadable} rows do not match their struct; the first is {found.first!r}")
    return changed


async def _table(connection: asyncpg.Connection, quoted: str, rows: RowType, *, check: bool) -> Found:
    found = Found()
    after = ""
    while True:
        page = await connection.fetch(
            f"SELECT id, _txid, data::text FROM {quoted} WHERE _deleted_txid IS NULL AND id > $1 "  # noqa: S608 - quoted
            f'ORDER BY id COLLATE "C" LIMIT {_ROWS}',
            after,
        )
        for row_id, txid, data in page:
            found.rows += 1
            try:
                text = rows.respelled(data, row_id)
            except msgspec.ValidationError:
                found.unreadable += 1
                found.first = found.first or row_id
                continue
            if text is None:
                continue
            found.spelled += 1
            if not check:
                await connection.execute(
                    f"UPDATE {quoted} SET data = $1::jsonb "  # noqa: S608 - quoted
                    "WHERE id = $2 AND _txid = $3 AND _deleted_txid IS NULL AND data = $4::jsonb",
                    text,
                    row_id,
                    txid,
                    data,
                )
        if len(page) < _ROWS:
            return found
        after = page[-1][0]
