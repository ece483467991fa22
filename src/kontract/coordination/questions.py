"""A coordinator's questions to PostgreSQL: the same for every shell, each over its own connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from kontract.coordination import recovery
from kontract.core.messages import Answer, Unready
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.transaction import sqlstates
from kontract.core.transaction.store import SqlStore
from kontract.ports import Database, DatabaseError, DatabaseUnavailableError, Log


def unready(error: DatabaseError | DatabaseUnavailableError) -> Unready:
    """Return the answer for callers of a coordinator that cannot start."""
    if isinstance(error, DatabaseError):
        return Unready(sqlstates.to_http_error(error.sqlstate).message)
    return Unready()


class Questions:
    """Asks for one owner."""

    def __init__(self, owner: str, open_database: Callable[[], Database], log: Log) -> None:
        """Ask over what ``open_database`` returns."""
        self._owner = owner
        self._open_database = open_database
        self._log = log
        self._heard = Unready()

    def explained(self, answer: Answer) -> Answer:
        """Return ``answer``; one that says that the database is away, with what the database said last."""
        return self._heard if answer == Unready() else answer

    def _hear(self, store: SqlStore) -> None:
        self._heard = Unready() if store.failure is None else unready(store.failure)

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
                self._hear(store)
        except Exception as error:  # noqa: BLE001 - whatever it is, the question must be asked again
            self._log("error", "resolve", owner=self._owner, txid=txid, error=repr(error))
        return fence

    async def standing(self, witnesses: Sequence[str]) -> tuple[int, int] | None:
        """Return the epoch that may commit (0: none) and how many witnesses are missing; None: it did not say."""
        async with self.store() as store:
            standing = await store.standing(self._owner, witnesses)
            self._hear(store)
            return standing

    async def announce(self, old: Coordinator, now: int) -> None:
        """Say that the database is not the one that ``old`` knew: in the log, to ``kontract doctor`` and ``/ready``."""
        acknowledged = old.witnesses.highest
        if not acknowledged:
            self._log("warning", "database_replaced", owner=self._owner, epoch=old.epoch)
            return
        self._log(
            "error",
            "database_went_back",
            owner=self._owner,
            epoch=old.epoch,
            acknowledged=acknowledged,
            message=f"commits up to txid {acknowledged} were acknowledged, but the newest of them are missing from "
            "the database: was an older backup restored, or did a standby take over that lagged? Streams are reset; "
            "docs/how-to/operate.md says what to do",
        )
        try:
            async with self.store() as store:
                note = {
                    "epoch": old.epoch,
                    "acknowledged": acknowledged,
                    "found": await store.highest_fence(self._owner),
                }
                await store.note_loss(self._owner, old.epoch, now, msgspec.json.encode(note).decode())
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log("warning", "database_went_back", owner=self._owner, error=f"it could not be noted: {error}")

    async def claim(self, epoch: int) -> int | None:
        """Raise the epoch of the database to one that a coordinator goes on in; return the highest txid in use.

        None: not now, the database does not answer, or somebody else is at it.
        """
        try:
            async with self.store() as store:
                raised, highest = await store.claim(self._owner, epoch)
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log("warning", "coordinator_start", owner=self._owner, error=str(error))
            return None
        return highest if raised == epoch else None

    async def take_over(self, at_least: int) -> tuple[int, int, dict[str, int]]:
        """Raise the epoch: see kontract.coordination.recovery.take_over."""
        async with self.store() as store:
            return await recovery.take_over(self._owner, at_least, store)

    async def ended_sessions(self) -> dict[str, int]:
        """Return the sessions that were ended (see SqlStore.ended_sessions); raises what the database raises."""
        async with self.store() as store:
            return await store.ended_sessions(self._owner)
