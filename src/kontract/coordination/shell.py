"""The shell around a coordinator: it brings time, durability and the database to the pure state machine.

Each runtime gives it a :class:`Journal`; everything else is the same for the Durable Object and one CPython process.
After every call it carries out the effects in their order: journal, answers, then what may take time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kontract.coordination import recovery
from kontract.coordination.journal import Journal
from kontract.coordination.questions import Questions, unready
from kontract.coordination.remover import Remover, SupersededError
from kontract.core import limits
from kontract.core.events import End, Page
from kontract.core.messages import Answer, Begin, Doubt, EndSession, Prepare, Replayed, Request, Unready, WentBack
from kontract.core.protocol.audience import Subscriber
from kontract.core.protocol.collection import Collection, Mark
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.hub import Hub
from kontract.core.protocol.idempotency import began_at
from kontract.core.protocol.phases import CoordinatorStage, ProtocolError
from kontract.core.protocol.records import Drop, Effects, Record
from kontract.core.protocol.witnesses import Verdict, verdict
from kontract.ports import (
    Clock,
    CoordinatorUnavailableError,
    Database,
    DatabaseError,
    DatabaseUnavailableError,
    Log,
)

STARTS_AGAIN = "the coordinator starts again"


class CoordinatorShell:
    """Runs the coordinator of one owner."""

    def __init__(
        self,
        owner: str,
        journal: Journal,
        open_database: Callable[[], Database],
        clock: Clock,
        log: Log,
        *,
        alarm: bool = False,
    ) -> None:
        """Wait for the first message; starting needs the database, which may not answer yet.

        ``alarm``: the platform calls :meth:`wake` at :attr:`next_wake`. Then no timer of the process waits for the
        collection, which may be a day away: it would keep a Durable Object in memory.
        """
        self._owner = owner
        self._journal = journal
        self._questions = Questions(owner, open_database, log)
        self._clock = clock
        self._log = log
        self._alarm = alarm
        self._coordinator: Coordinator | None = None
        self._collection = Collection()
        self._collecting = False
        self.hub = Hub(journal)
        self._until_serving: list[asyncio.Future[None]] = []
        self._starting: asyncio.Future[None] | None = None
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._last_ticket = 0
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch_checks = 0  # asked for, and not answered yet

    async def ask(self, request: Request) -> Answer:
        """Answer one message of a worker; raises CoordinatorUnavailableError when it has to be asked again."""
        if self._coordinator is None:
            try:
                await self._start()
            except (DatabaseError, DatabaseUnavailableError) as error:
                self._log("error", "coordinator_start", owner=self._owner, error=str(error))
                return unready(error)
        coordinator = self._coordinator
        if coordinator is None:
            raise CoordinatorUnavailableError(STARTS_AGAIN)
        known = None
        if isinstance(request, (Begin, Prepare)) and request.idempotent:
            known = self._journal.newest(request.call)
        self._last_ticket += 1
        ticket = self._last_ticket
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = answer
        try:
            self._run(lambda: coordinator.handle(ticket, request, self._clock.now(), known))
            if isinstance(request, EndSession):
                self.hub.end_session(request.session)
            answered = await answer
            if isinstance(answered, Replayed) and not coordinator.was_in_charge(self._clock.now()):
                self.doubt()  # what was remembered may be gone
                await self._check_epoch()
                if coordinator is not self._coordinator:
                    raise CoordinatorUnavailableError(STARTS_AGAIN)
                if not coordinator.was_in_charge(self._clock.now()):
                    return self._questions.explained(Unready())
            return self._questions.explained(answered)
        finally:
            del self._waiting[ticket]
            if not answer.done():
                coordinator.forget_caller(ticket)

    async def resume(self, subscriber: Subscriber, since: str | None) -> Page | End:
        """Return the next page for somebody who listens, or why there is none; waits until this coordinator serves.

        Raises CoordinatorUnavailableError when it cannot, or has to be asked again.
        """
        if self._coordinator is None:
            try:
                await self._start()
            except (DatabaseError, DatabaseUnavailableError) as error:
                raise CoordinatorUnavailableError(str(error)) from error
        while True:
            coordinator = self._coordinator
            if coordinator is None or coordinator.stage is CoordinatorStage.FENCED:
                raise CoordinatorUnavailableError(STARTS_AGAIN)
            if coordinator.stage is CoordinatorStage.SERVING:
                if coordinator.has_ended(subscriber.subscription.session):
                    return End("session")
                return self.hub.page(subscriber, since, coordinator.watermark)
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._until_serving.append(waiting)
            await waiting

    async def wake(self) -> None:
        """Do what is due (an alarm rang), and wait until the questions to the database have been answered."""
        if self._coordinator is None:
            await self._start()
        if self._coordinator is not None:
            self._tick(self._coordinator)
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    @property
    def next_wake(self) -> int | None:
        """When :meth:`wake` has something to do, in milliseconds since the Unix epoch."""
        times = [due for due in (self._next_tick, self._next_collection) if due is not None]
        return min(times, default=None)

    @property
    def _next_tick(self) -> int | None:
        return self._coordinator.next_tick() if self._coordinator is not None else None

    @property
    def _next_collection(self) -> int | None:
        coordinator = self._coordinator
        if coordinator is None or coordinator.stage is not CoordinatorStage.SERVING or self._collecting:
            return None
        return self._collection.due(coordinator.watermark)

    def _tick(self, coordinator: Coordinator) -> None:
        self._run(lambda: coordinator.tick(self._clock.now()))
        due = self._next_collection
        if due is not None and due <= self._clock.now():
            self._collecting = True
            self._spawn(self._collect(coordinator))

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
        async with self._questions.store() as store:
            coordinator = await recovery.start(self._owner, saved, store)
        if saved is None:
            self._begin_journal(coordinator)
        self._collection = Collection(self._journal.marks())
        self._begin(coordinator)
        self._log("info", "coordinator_started", owner=self._owner, epoch=coordinator.epoch, fresh=saved is None)
        self._run(lambda: coordinator.recover(self._clock.now()))

    def _begin(self, coordinator: Coordinator) -> None:
        coordinator.since = began_at(self._journal.log_head().generation)
        self._coordinator = coordinator

    def _run(self, step: Callable[[], Effects]) -> None:
        """Take one step of the coordinator and carry out its effects; what it cannot survive ends its life."""
        try:
            effects = step()
            if effects.journal:
                self._journal.write(effects.journal)
        except ProtocolError as error:
            self._abandon("contradiction", error)
        except Exception as error:  # noqa: BLE001 - a journal may fail in any way, and a defect must not live on
            self._abandon("coordinator_failed", error)
        else:
            self._carry_out(effects)

    def _abandon(self, event: str, error: Exception) -> None:
        """Forget the coordinator: it is ahead of its journal, or was told two things that exclude each other.

        The next message starts another one from the journal and from the fences of everything unsettled. Nobody gets
        an answer that the journal does not hold.
        """
        self._log("error", event, owner=self._owner, error=repr(error))
        self._coordinator = None
        self.hub.interrupt()
        self._let_wait_no_longer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(CoordinatorUnavailableError(STARTS_AGAIN))

    def _carry_out(self, effects: Effects) -> None:
        for ticket, answer in effects.answers:
            waiting = self._waiting.get(ticket) if isinstance(ticket, int) else None
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        for question in effects.resolve:
            self._spawn(self._resolve(self._coordinator, question.sid, question.txid))
        if effects.check_epoch:
            self._spawn(self._check_epoch())
        self._publish(effects.published, forgets=any(type(entry) is Drop for entry in effects.journal))
        self._observe()
        self._set_timer()

    def _publish(self, records: list[Record], *, forgets: bool) -> None:
        """Tell those who listen. ``forgets``: the journal has dropped what is old."""
        coordinator = self._coordinator
        if coordinator is None:
            return
        if coordinator.stage is CoordinatorStage.SERVING:
            try:
                self.hub.publish(records, coordinator.watermark)
                if forgets:
                    self.hub.note(coordinator.watermark)
            except Exception as error:  # noqa: BLE001 - as in _run
                self._abandon("coordinator_failed", error)
            self._let_wait_no_longer()
        elif coordinator.stage is CoordinatorStage.FENCED:
            self.hub.end_all("fenced")
            self._let_wait_no_longer()

    def _let_wait_no_longer(self) -> None:
        waiting, self._until_serving = self._until_serving, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _begin_journal(self, fresh: Coordinator) -> None:
        self._journal.start(fresh.epoch, fresh.watermark, self._new_generation(), fresh.ended_sessions)

    def _new_generation(self) -> str:
        return f"g{self._clock.now():x}"

    def _observe(self) -> None:
        coordinator = self._coordinator
        if coordinator is not None and coordinator.stage is CoordinatorStage.SERVING:
            mark = self._collection.observe(coordinator.watermark, self._clock.now())
            if mark is not None:
                self._keep([mark])

    def _keep(self, marks: list[Mark]) -> None:
        try:
            self._journal.write_marks(marks)
        except Exception as error:  # noqa: BLE001 - as in _run
            self._abandon("coordinator_failed", error)

    async def _collect(self, coordinator: Coordinator) -> None:
        """Remove what may go, one job after the other."""
        collection = self._collection
        try:
            async with self._questions.store() as store:
                remover = Remover(
                    self._owner,
                    coordinator.epoch,
                    store,
                    self._log,
                    lambda: self._coordinator is coordinator,
                    lambda: coordinator.witnesses.highest,
                )
                while remover.goes_on:
                    job = collection.job(coordinator.oldest_snapshot, self._clock.now())
                    if job is None:
                        return
                    if await remover.run(job):
                        self._keep(collection.done(job))
            collection.postpone(self._clock.now() + limits.COLLECT_PAUSE_MS)
        except SupersededError:
            collection.postpone(self._clock.now() + limits.COLLECT_PAUSE_MS)
            await self._check_epoch()
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log("warning", "collection", owner=self._owner, error=str(error))
            collection.postpone(self._clock.now() + limits.COLLECT_PAUSE_MS)
        finally:
            self._collecting = False
            self._set_timer()

    async def _resolve(self, coordinator: Coordinator | None, sid: str, txid: int) -> None:
        fence = await self._questions.fence(sid, txid)
        if coordinator is None or coordinator is not self._coordinator:
            return  # another one has taken its place, and has asked for itself
        self._log("info", "resolved", owner=self._owner, txid=txid, sid=sid, fence=fence)
        self._run(lambda: coordinator.resolved(txid, fence, self._clock.now()))

    async def _check_epoch(self) -> None:
        """Read the epoch and do what follows. One at a time: two would take a new database over from each other."""
        self._epoch_checks += 1
        if self._epoch_checks > 1:
            return  # the one that is at it reads again
        try:
            while self._epoch_checks:
                asked = self._epoch_checks
                await self._check_epoch_once()
                self._epoch_checks -= asked
        finally:
            self._epoch_checks = 0

    async def _check_epoch_once(self) -> None:
        coordinator = self._coordinator
        if coordinator is None:
            return
        witnesses = coordinator.witnesses.sids(self._clock.now())
        standing = await self._questions.standing(witnesses)
        if coordinator is not self._coordinator:
            return
        current = None
        if standing is not None:
            current, missing = standing
            match verdict(coordinator.epoch, len(witnesses), current, missing):
                case Verdict.LEFT_BEHIND:
                    coordinator = self._leave_behind(coordinator, 0)
                    if coordinator is not self._coordinator:
                        return  # it could not be written down: whoever comes next finds the same
                    current = await self._claim(coordinator)
                case Verdict.AWAITED:
                    current = await self._claim(coordinator)
                case Verdict.SUPERSEDED:
                    self._log("error", "fenced", owner=self._owner, epoch=coordinator.epoch, current=current)
        if coordinator is self._coordinator:
            self._run(lambda: coordinator.epoch_read(current, self._clock.now()))

    def _leave_behind(self, old: Coordinator, found: int) -> Coordinator:
        """Begin again for a database that has gone back, or is not the one this journal was written for."""
        self._spawn(self._questions.announce(old, self._clock.now()))
        self.hub.end_all("restart")  # whoever listens comes back, and is told that its position is not of this log
        self._run(lambda: old.stop(WentBack(), self._clock.now()))
        fresh = recovery.anew(old, found)
        try:
            self._begin_journal(fresh)
        except Exception as error:  # noqa: BLE001 - as in _run
            self._abandon("coordinator_failed", error)
            return fresh
        self._collection = Collection()
        self._begin(fresh)
        self._run(lambda: fresh.recover(self._clock.now()))
        return fresh

    async def _claim(self, coordinator: Coordinator) -> int | None:
        """Raise the database's epoch to this coordinator's; return it, None when that is not known."""
        highest = await self._questions.claim(coordinator.epoch)
        if highest is None or coordinator is not self._coordinator:
            return None
        if highest > coordinator.highest_txid:
            self._leave_behind(coordinator, highest)  # another database, with numbers that were never given here
            return None
        return coordinator.epoch

    def doubt(self) -> None:
        """Look whether the database is still the same: a connection to it was lost."""
        coordinator = self._coordinator
        if coordinator is not None:
            self._run(lambda: coordinator.handle("doubt", Doubt(), self._clock.now()))

    def rest(self) -> None:
        """Stop the clock: nothing happens any more by itself, until the next message."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        due = self._next_tick if self._alarm else self.next_wake
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
            self._tick(self._coordinator)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
