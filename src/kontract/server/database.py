"""PostgreSQL through asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from kontract.core.sql import Statement
from kontract.ports import DatabaseError, DatabaseUnavailableError

CONNECT_SECONDS = 5.0


class AsyncpgDatabase:
    """One connection, opened when first used; statements of concurrent tasks take turns."""

    def __init__(self, url: str) -> None:
        """Connect to ``url`` (postgresql://...) later."""
        self._url = url
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    def warm(self) -> None:
        """Nothing: on CPython the connection comes from a pool or is opened at the first statement."""

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement."""
        async with self._turn:
            timeout = None if statement.timeout_ms is None else statement.timeout_ms / 1000
            try:
                if self._connection is None:
                    self._connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS, statement_cache_size=0)
                rows: Sequence[Sequence[Any]] = await self._connection.fetch(
                    statement.text, *statement.params, timeout=timeout
                )
            except asyncpg.PostgresConnectionError as error:
                self._drop()
                raise DatabaseUnavailableError(str(error)) from error
            except asyncpg.PostgresError as error:
                constraint = getattr(error, "constraint_name", None)
                raise DatabaseError(error.sqlstate or "XX000", str(error), constraint or "") from error
            except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
                self._drop()
                raise DatabaseUnavailableError(str(error)) from error
            return rows

    async def aclose(self) -> None:
        """Close the connection."""
        self._drop()

    def _drop(self) -> None:
        """Have no connection: the next statement opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
