"""Removing what the collection has found to be dead, in batches: the same for every shell around a coordinator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from kontract.coordination.questions import Questions
from kontract.core import limits
from kontract.core.protocol.collection import CollectionStage, Job
from kontract.core.transaction.store import SqlStore
from kontract.ports import DatabaseError, DatabaseUnavailableError, Log


class SupersededError(Exception):
    """The epoch row is not ours: nothing was removed, and nothing may be."""


class Removed(Enum):
    """How far a collection got."""

    ALL = "all"
    """There is nothing left to remove now."""

    SOME = "some"
    """Its time is over, the database does not answer, or another coordinator has taken over."""

    NOTHING = "nothing"
    """The epoch row is not ours."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What is to be removed for one coordinator in one epoch.

    ``goes_on``: whether that coordinator still has it to do. ``witness``: the highest one's txid. ``next``: what may be
    removed now. ``done``: called when all of a job was removed.
    """

    epoch: int
    goes_on: Callable[[], bool]
    witness: Callable[[], int]
    next: Callable[[], Job | None]
    done: Callable[[Job], Awaitable[None]]


async def remove(owner: str, questions: Questions, log: Log, jobs: Jobs) -> Removed:
    """Remove what may go, one job after the other. Never raises what the database raises."""
    try:
        async with questions.store() as store:
            remover = Remover(owner, jobs.epoch, store, log, jobs.goes_on, jobs.witness)
            while remover.goes_on:
                job = jobs.next()
                if job is None:
                    return Removed.ALL
                if await remover.run(job):
                    await jobs.done(job)
    except SupersededError:
        return Removed.NOTHING
    except (DatabaseError, DatabaseUnavailableError) as error:
        log("warning", "collection", owner=owner, error=str(error))
    return Removed.SOME


class Remover:
    """Removes for one owner in one epoch, for as long as ``going`` says so."""

    def __init__(
        self, owner: str, epoch: int, store: SqlStore, log: Log, going: Callable[[], bool], witness: Callable[[], int]
    ) -> None:
        """Use at most limits.COLLECT_STATEMENTS statements. ``witness``: the highest one's txid."""
        self.statements = limits.COLLECT_STATEMENTS
        self._owner = owner
        self._epoch = epoch
        self._store = store
        self._log = log
        self._going = going
        self._witness = witness

    @property
    def goes_on(self) -> bool:
        """Whether there is time left to remove more."""
        return self.statements > 0 and self._going()

    async def run(self, job: Job) -> bool:
        """Remove what the job says; returns whether all of it is done.

        Raises SupersededError, and what the database raises when it cannot even be asked what there is.
        """
        if job.stage is CollectionStage.FENCES:
            # The highest txid stays on record for a coordinator that starts without a journal, and the highest that
            # committed for the one that has it: the two differ when the last transaction was aborted.
            up_to = min(job.up_to, await self._store.highest_fence(self._owner) - 1)
            if self._witness():
                up_to = min(up_to, self._witness() - 1)
            await self._remove(None, up_to)
            return self.goes_on
        for ptr in await self._store.pointers(self._owner):
            try:
                await self._remove(ptr, job.up_to)
            except DatabaseError as error:
                # One table that is not as it should be, or is locked, does not keep the others from being cleaned.
                self._log("warning", "collection", owner=self._owner, table=ptr, error=str(error))
            if not self.goes_on:
                break
        return self.goes_on

    async def _remove(self, ptr: str | None, up_to: int) -> None:
        removed = 0
        while self.goes_on:
            self.statements -= 1
            if ptr is None:
                batch = await self._store.collect_fences(self._owner, self._epoch, up_to)
            else:
                batch = await self._store.collect_versions(self._owner, self._epoch, ptr, up_to)
            if batch is None:
                raise SupersededError
            removed += batch
            if batch < limits.COLLECT_ROWS:
                break
        if removed:
            self._log("info", "collected", owner=self._owner, table=ptr or "trxs", rows=removed, up_to=up_to)
