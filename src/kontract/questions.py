"""What a coordinator has to find out from PostgreSQL: the same for every shell, each over a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kontract.core import recovery, sqlstates
from kontract.core.messages import Unready
from kontract.core.store import SqlStore
from kontract.ports import Database, DatabaseError, DatabaseUnavailableError, Log


def unready(error: DatabaseError | DatabaseUnavailableError) -> Unready:
    """Return what callers of a coordinator are told that cannot start."""
    if isinstance(error, DatabaseError):
        return Unready(sqlstates.to_http_error(error.sqlstate).message)
    return Unready("the database does not answer")


class Questions:
    """Asks for one owner."""

    def __init__(self, owner: str, open_database: Callable[[], Database], log: Log) -> None:
        """Ask over what ``open_database`` returns."""
        self._owner = owner
        self._open_database = open_database
        self._log = log

    @asynccontextmanager
    async def store(self) -> AsyncIterator[SqlStore]:
        """A store that is closed at the end."""
        store = SqlStore(self._open_database())
        try:
            yield store
        finally:
            await store.aclose()

    async def fence(self, sid: str, txid: int) -> int | None:
        """Write or read a fence (see SqlStore.resolve); None when that is not known. Never raises."""
        fence = None
        try:
            async with self.store() as store:
                fence = await store.resolve(sid, self._owner, txid)
        except Exception as error:  # noqa: BLE001 - whatever it is, the question must be asked again
            self._log("error", "resolve", owner=self._owner, txid=txid, error=repr(error))
        return fence

    async def epoch(self) -> int | None:
        """Return the epoch that may commit, 0 when there is no such row; None when the database did not say."""
        async with self.store() as store:
            return await store.read_epoch(self._owner)

    async def take_over(self, at_least: int) -> tuple[int, int, dict[str, int]]:
        """Raise the epoch: see kontract.core.recovery.take_over."""
        async with self.store() as store:
            return await recovery.take_over(self._owner, at_least, store)

    async def ended_sessions(self) -> dict[str, int]:
        """Return the sessions that were ended (see SqlStore.ended_sessions); raises what the database raises."""
        async with self.store() as store:
            return await store.ended_sessions(self._owner)
