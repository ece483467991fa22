"""The statements of one connection: prepared once where the line keeps them, else described once.

asyncpg's own cache is not used, for two reasons. Where nothing may stay in a session it parses each statement twice and
takes two network turns, because it forgets what the statement returns; here that is remembered, and the rest goes out
in one piece (parse, bind, execute, sync). And where statements stay prepared, PostgreSQL keeps the plan that it made
for a table of then, until somebody analyses it; here plans are made again as they grow older.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import asyncpg

from kontract.core.statements import Statement

KEPT = 500
"""Statements that a connection knows. Each table has some ten; what is over is prepared again."""

FIRST_USES = 16
MOST_USES = 4_096
PLAN_SECONDS = 60.0
"""A plan is made again after 16 uses, 32, 64, and so on, then each 4,096, and when it is a minute old: a table that
grows is at most twice as large as the one it was made for. That costs PostgreSQL some 2 ms."""


class _Kept:
    """One statement. ``uses``: of all its plans; ``due``: how many of them this one lasts for."""

    __slots__ = ("due", "made", "statement", "uses")

    def __init__(self, statement: Any, uses: int) -> None:
        self.statement = statement
        self.uses = uses
        self.due = uses + min(max(uses, FIRST_USES), MOST_USES)
        self.made = time.monotonic()

    @property
    def is_old(self) -> bool:
        return self.uses >= self.due or time.monotonic() - self.made > PLAN_SECONDS


class Statements:
    """Runs the statements of one connection."""

    __slots__ = ("_connection", "_kept", "_named", "_pooled")

    def __init__(self, connection: Any, *, named: bool, pooled: bool) -> None:
        """Use a connection of asyncpg, which has a cache of its own if, and only if, ``named``."""
        self._connection = connection
        self._named = named
        self._pooled = pooled
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def fetch(self, statement: Statement, seconds: float | None) -> Sequence[Sequence[Any]]:
        """Run a statement; raises what asyncpg raises."""
        kept = self._kept.get(statement.text)
        if kept is None or (self._named and kept.is_old):
            kept = await self._prepare(statement.text, seconds, kept)
        else:
            self._kept.move_to_end(statement.text)
        kept.uses += 1
        try:
            rows: Sequence[Sequence[Any]] = await kept.statement.fetch(*statement.params, timeout=seconds)
        except asyncpg.InvalidCachedStatementError:
            # A column that it returns has another type now. It has not run.
            kept = await self._prepare(statement.text, seconds, kept)
            rows = await kept.statement.fetch(*statement.params, timeout=seconds)
        return rows

    async def _prepare(self, text: str, seconds: float | None, before: _Kept | None) -> _Kept:
        uses = 0 if before is None else before.uses
        # A pooler that keeps statements keeps them by their text, for all of its clients.
        sent = f"{text}\n-- planned after {uses} uses" if self._named and self._pooled and uses else text
        kept = _Kept(await self._connection.prepare(sent, timeout=seconds), uses)
        self._kept[text] = kept
        self._kept.move_to_end(text)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept


_NAMES = "SELECT name FROM pg_catalog.pg_prepared_statements WHERE statement LIKE '%kontract looks for its own name%'"


async def are_tracked(connection: Any) -> bool:
    """Return whether a pooler keeps prepared statements for its clients, as PgBouncer does from 1.21 on if it is set.

    Such a pooler gives them names of its own, because those of its clients are not unique. One that does not passes
    ours on, to whatever server connection is free, and the next turn may meet another one.
    """
    try:
        statement = await connection.prepare(_NAMES)
        names = [row[0] for row in await statement.fetch()]
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        return False
    return bool(names) and statement.get_name() not in names
