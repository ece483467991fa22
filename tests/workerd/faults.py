"""Faults that strike in the middle of commits, for certain.

An apply statement takes a few milliseconds: a fault at a random moment rarely meets one. Every apply reads the owner's
epoch row FOR SHARE; whoever holds that row keeps the applies in PostgreSQL, begun and not finished.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

APPLIES = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE '%WITH epoch AS MATERIALIZED%fence AS%' ORDER BY pid"
)
COMMITTED = "SELECT sid FROM trxs WHERE create_txid > 0 AND sid NOT LIKE 'epoch/%'"
ABORTED = "SELECT count(*) FROM trxs WHERE create_txid < 0"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close()


class Hold:
    """Keeps applies in the middle until it is released, or its connection is lost."""

    def __init__(self, holder: asyncpg.Connection, observer: asyncpg.Connection) -> None:
        self._holder = holder
        self._observer = observer  # within one transaction pg_stat_activity stands still
        self._committed: set[str] = set()
        self._aborted = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str, applies: int) -> AsyncIterator[Hold]:
        """Entered once at least so many applies are held whose outcome is open."""
        async with connected(url) as holder, connected(url) as observer:
            hold = cls(holder, observer)
            while not await hold._hold(applies):
                await hold.release()
            yield hold

    async def _hold(self, applies: int) -> bool:
        """Whether so many were held at once: some calls cannot go on without others, and no more may come."""
        await self._holder.execute("BEGIN")
        await self._holder.execute("SELECT FROM trxs WHERE sid = 'epoch/tenant-1' FOR UPDATE")
        self._committed = {row[0] for row in await self._observer.fetch(COMMITTED)}
        self._aborted = await self._observer.fetchval(ABORTED)
        for _ in range(200):
            if len(await self.held()) - await self.aborted() >= applies:
                return True
            await asyncio.sleep(0.005)
        return False

    async def held(self) -> list[int]:
        """The backends whose applies are held."""
        return [row[0] for row in await self._observer.fetch(APPLIES)]

    async def aborted(self) -> int:
        """Transactions that have been aborted for good since the hold began."""
        return await self._observer.fetchval(ABORTED) - self._aborted

    async def committed(self) -> list[str]:
        """The sids of what has been committed since the hold began; that of a call with a key begins with idem-."""
        return [row[0] for row in await self._observer.fetch(COMMITTED) if row[0] not in self._committed]

    async def terminate(self, some: int | None = None) -> int:
        """Cut the connections of all held applies, or of some; returns of how many."""
        held = (await self.held())[:some]
        return sum([await self._observer.fetchval("SELECT pg_terminate_backend($1)", pid) for pid in held])

    async def release(self) -> None:
        """Let them go on, and wait until they have ended."""
        await self._holder.execute("ROLLBACK")
        while await self.held():
            await asyncio.sleep(0.005)
