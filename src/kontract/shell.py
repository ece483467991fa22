"""The shell around a coordinator: it brings time, durability and the database to the pure state machine.

Each runtime gives it a :class:`Journal`; everything else is the same for the Durable Object and one CPython process.
After every call it carries out the effects in their order: journal, answers, then what may take time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from kontract.core import recovery
from kontract.core.coordinator import Coordinator, Effects, JournalEntry, Record
from kontract.core.messages import Answer, Begin, Prepare, Request, Unready
from kontract.core.phases import ProtocolError
from kontract.core.recovery import Saved
from kontract.core.store import SqlStore
from kontract.ports import Clock, Database, DatabaseError, DatabaseUnavailableError, Log


class Journal(Protocol):
    """Where a coordinator's state survives. Writes are synchronous: durable before any later message leaves."""

    def load(self) -> Saved | None:
        """Return what is there; None when this coordinator has never run."""
        ...

    def start(self, epoch: int, last_txid: int) -> None:
        """Forget everything and begin in ``epoch``."""
        ...

    def write(self, entries: list[JournalEntry]) -> None:
        """Make entries durable, all or none."""
        ...

    def newest(self, call: str) -> Record | None:
        """Return the newest record of an idempotent call."""
        ...


class CoordinatorShell:
    """Runs the coordinator of one owner."""

    def __init__(
        self, owner: str, journal: Journal, open_database: Callable[[], Database], clock: Clock, log: Log
    ) -> None:
        """Wait for the first message; starting needs the database, which may not answer yet."""
        self._owner = owner
        self._journal = journal
        self._open_database = open_database
        self._clock = clock
        self._log = log
        self._coordinator: Coordinator | None = None
        self._starting: asyncio.Future[None] | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._last_ticket = 0
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Answer:
        """Answer one message of a worker."""
        if self._coordinator is None:
            try:
                await self._start()
            except (DatabaseError, DatabaseUnavailableError) as error:
                self._log("error", "coordinator_start", owner=self._owner, error=str(error))
                return Unready("the database does not answer, or its schema is missing (run: kontract migrate)")
        coordinator = self._coordinator
        assert coordinator is not None
        known = None
        if isinstance(request, (Begin, Prepare)) and request.idempotent:
            known = self._journal.newest(request.call)
        self._last_ticket += 1
        ticket = self._last_ticket
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = answer
        try:
            self._carry_out(coordinator.handle(ticket, request, self._clock.now(), known))
            return await answer
        except ProtocolError as error:
            self._log("error", "protocol", owner=self._owner, error=str(error))
            return Unready("the coordinator met a contradiction; its log has it")
        finally:
            del self._waiting[ticket]
            if not answer.done():
                coordinator.forget_caller(ticket)

    async def wake(self) -> None:
        """Do what is due (an alarm rang), and wait until the questions to the database have been answered."""
        if self._coordinator is None:
            await self._start()
        assert self._coordinator is not None
        self._carry_out(self._coordinator.tick(self._clock.now()))
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    @property
    def next_tick(self) -> int | None:
        """When :meth:`wake` has something to do, in milliseconds since the Unix epoch."""
        return self._coordinator.next_tick() if self._coordinator is not None else None

    async def _start(self) -> None:
        # Everybody who arrives meanwhile waits for the same start.
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start_once())
            self._starting.add_done_callback(self._started)
        await asyncio.shield(self._starting)

    def _started(self, future: asyncio.Future[None]) -> None:
        self._starting = None
        if not future.cancelled():
            future.exception()  # everybody who waited has it; nobody may be left to be warned about it

    async def _start_once(self) -> None:
        saved = self._journal.load()
        store = SqlStore(self._open_database())
        try:
            coordinator = await recovery.start(self._owner, saved, store)
        finally:
            await store.aclose()
        if saved is None:
            self._journal.start(coordinator.epoch, coordinator.watermark)
        self._coordinator = coordinator
        self._log("info", "coordinator_started", owner=self._owner, epoch=coordinator.epoch, fresh=saved is None)
        self._carry_out(coordinator.recover(self._clock.now()))

    def _carry_out(self, effects: Effects) -> None:
        if effects.journal:
            self._journal.write(effects.journal)
        for ticket, answer in effects.answers:
            waiting = self._waiting.get(ticket) if isinstance(ticket, int) else None
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        for question in effects.resolve:
            self._spawn(self._resolve(question.sid, question.txid))
        if effects.check_epoch:
            self._spawn(self._check_epoch())
        self._set_timer()

    async def _resolve(self, sid: str, txid: int) -> None:
        store = SqlStore(self._open_database())
        try:
            fence = await store.resolve(sid, self._owner, txid)
        finally:
            await store.aclose()
        coordinator = self._coordinator
        if coordinator is None:
            return
        self._log("info", "resolved", owner=self._owner, txid=txid, sid=sid, fence=fence)
        try:
            self._carry_out(coordinator.resolved(txid, fence, self._clock.now()))
        except ProtocolError as error:
            self._log("error", "protocol", owner=self._owner, error=str(error))

    async def _check_epoch(self) -> None:
        store = SqlStore(self._open_database())
        try:
            current = await store.read_epoch(self._owner)
            coordinator = self._coordinator
            if current is None or coordinator is None or current == coordinator.epoch:
                return
            if current == 0:
                await self._start_anew(coordinator, store)
                return
        finally:
            await store.aclose()
        self._log("error", "fenced", owner=self._owner, epoch=coordinator.epoch, current=current)
        self._carry_out(coordinator.epoch_read(current, self._clock.now()))

    async def _start_anew(self, old: Coordinator, store: SqlStore) -> None:
        """Begin again for a database that has no epoch row: it is not the one this journal was written for."""
        try:
            fresh = await recovery.start_anew(self._owner, old.epoch, old.highest_txid, store)
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log("error", "coordinator_start", owner=self._owner, error=str(error))
            return
        self._log("warning", "database_replaced", owner=self._owner, epoch=fresh.epoch)
        self._carry_out(old.epoch_read(fresh.epoch, self._clock.now()))  # whoever waits must ask again
        self._journal.start(fresh.epoch, fresh.watermark)
        self._coordinator = fresh
        self._carry_out(fresh.recover(self._clock.now()))

    def _set_timer(self) -> None:
        due = self.next_tick
        if due is None:
            return
        if self._timer is not None and not self._timer.done():
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.ensure_future(self._ring(due))

    async def _ring(self, due: int) -> None:
        await self._clock.sleep(max(1, due - self._clock.now()))
        self._timer = None
        if self._coordinator is not None:
            self._carry_out(self._coordinator.tick(self._clock.now()))

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
