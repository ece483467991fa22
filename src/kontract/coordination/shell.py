"""The shell around a coordinator that one process has for itself: it brings durability to the pure state machine.

Each runtime gives it a :class:`Journal`; everything else is the same for the Durable Object and one CPython process.
After every call it carries out the effects in their order: journal, answers, then what may take time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kontract.coordination import recovery
from kontract.coordination.host import STARTS_AGAIN, Host
from kontract.coordination.journal import Journal
from kontract.coordination.remover import Jobs, Removed, remove
from kontract.coordination.states import ShellEvent
from kontract.core import limits
from kontract.core.messages import Answer, Begin, Doubt, EndSession, Prepare, Replayed, Request, Unready, WentBack
from kontract.core.protocol.collection import Collection, Job, Mark
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.idempotency import began_at
from kontract.core.protocol.phases import CoordinatorStage, ProtocolError
from kontract.core.protocol.records import Drop, Effects, Resolve
from kontract.core.protocol.witnesses import Verdict, verdict
from kontract.ports import Clock, CoordinatorUnavailableError, Database, Log


class CoordinatorShell(Host):
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
        super().__init__(owner, journal, open_database, clock, log)
        self._journal = journal
        self._alarm = alarm
        self._coordinator: Coordinator | None = None
        self._collection = Collection()
        self._collecting = False
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = 0
        self._epoch_checks = 0  # asked for, and not answered yet

    @property
    def coordinator(self) -> Coordinator | None:
        """The state machine; None when it has to be started from the journal."""
        return self._coordinator

    # --- messages ----------------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Answer:
        coordinator = self._coordinator
        if coordinator is None:
            raise CoordinatorUnavailableError(STARTS_AGAIN)
        known = None
        if isinstance(request, (Begin, Prepare)) and request.idempotent:
            known = self._journal.newest(request.call)
        caller = self._callers.add()
        try:
            self._run(lambda: coordinator.handle(caller.ticket, request, self._clock.now(), known))
            if isinstance(request, EndSession):
                self.hub.end_session(request.session)
            answer = await caller.answer()
        finally:
            self._callers.remove(caller)
            if not caller.is_done:
                coordinator.forget_caller(caller.ticket)
        if isinstance(answer, Replayed) and not coordinator.was_in_charge(self._clock.now()):
            self.doubt()  # what was remembered may be gone
            await self._check_epoch()
            if coordinator is not self._coordinator:
                raise CoordinatorUnavailableError(STARTS_AGAIN)
            if not coordinator.was_in_charge(self._clock.now()):
                return Unready()
        return answer

    async def _prepare_page(self, _since: str | None, _watermark: int) -> bool:
        return True  # the journal is here

    # --- time --------------------------------------------------------------------------------------------------------

    async def wake(self) -> None:
        """Do what is due (an alarm rang), and wait until the questions to the database have been answered."""
        if not self._is_awake:
            await self._wake_up()
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

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        saved = self._journal.load()
        async with self._questions.store() as store:
            coordinator = await recovery.start(self.owner, saved, store)
        if saved is None:
            self._begin_journal(coordinator)
        self._collection = Collection(self._journal.marks())
        self._go_on_with(coordinator)
        self._turn(ShellEvent.STARTED)
        self._log_line("info", "coordinator_started", owner=self.owner, epoch=coordinator.epoch, fresh=saved is None)
        self._run(lambda: coordinator.recover(self._clock.now()))

    def _go_on_with(self, coordinator: Coordinator) -> None:
        coordinator.since = began_at(self._journal.log_head().generation)
        self._coordinator = coordinator

    def _begin_journal(self, fresh: Coordinator) -> None:
        self._journal.start(fresh.epoch, fresh.watermark, self._new_generation(), fresh.ended_sessions)

    # --- steps -------------------------------------------------------------------------------------------------------

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
        self._log_line("error", event, owner=self.owner, error=repr(error))
        self._coordinator = None
        self._turn(ShellEvent.LOST)
        self.hub.interrupt()
        self._let_look_again()
        self.rest()
        self._callers.fail_all(CoordinatorUnavailableError, STARTS_AGAIN)

    def _carry_out(self, effects: Effects) -> None:
        for ticket, answer in effects.answers:
            caller = self._callers.find(ticket) if isinstance(ticket, int) else None
            if caller is not None:
                caller.decide(answer)
        coordinator = self._coordinator
        for question in effects.resolve:
            self._spawn(self._resolve(coordinator, question))
        if effects.check_epoch:
            self._spawn(self._check_epoch())
        if coordinator is not None:
            try:
                serves = self._publish(effects.published, coordinator)
                if serves and any(type(entry) is Drop for entry in effects.journal):
                    self.hub.note(coordinator.watermark)
            except Exception as error:  # noqa: BLE001 - as in _run
                self._abandon("coordinator_failed", error)
        self._observe()
        self._set_timer()

    async def _take_fence(self, coordinator: Coordinator | None, question: Resolve, fence: int | None) -> None:
        if coordinator is None or coordinator is not self._coordinator:
            return  # another one has taken its place, and has asked for itself
        self._log_fence(question, fence)
        self._run(lambda: coordinator.resolved(question.txid, fence, self._clock.now()))

    # --- collection --------------------------------------------------------------------------------------------------

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

        async def done(job: Job) -> None:
            self._keep(collection.done(job))

        jobs = Jobs(
            coordinator.epoch,
            lambda: self._coordinator is coordinator,
            lambda: coordinator.witnesses.highest,
            lambda: collection.job(coordinator.oldest_snapshot, self._clock.now()),
            done,
        )
        try:
            removed = await remove(self.owner, self._questions, self._log_line, jobs)
            if removed is not Removed.ALL:
                collection.postpone(self._clock.now() + limits.COLLECT_PAUSE_MS)
            if removed is Removed.NOTHING:
                await self._check_epoch()
        finally:
            self._collecting = False
            self._set_timer()

    # --- the epoch ---------------------------------------------------------------------------------------------------

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
                        return  # it could not be stored: the next call finds the same
                    current = await self._claim(coordinator)
                case Verdict.AWAITED:
                    current = await self._claim(coordinator)
                case Verdict.SUPERSEDED:
                    self._log_line("error", "fenced", owner=self.owner, epoch=coordinator.epoch, current=current)
        if coordinator is self._coordinator:
            self._run(lambda: coordinator.epoch_read(current, self._clock.now()))

    def _leave_behind(self, old: Coordinator, found: int) -> Coordinator:
        """Begin again for a database that has gone back, or is not the one this journal was written for."""
        self._spawn(self._questions.announce(old, self._clock.now()))
        self.hub.end_all("restart")  # clients reconnect and get a reset: their position is not from this log
        self._run(lambda: old.stop(WentBack(), self._clock.now()))
        if old is not self._coordinator:
            return old  # it could not be stopped, and the next message starts another one
        fresh = recovery.anew(old, found)
        try:
            self._begin_journal(fresh)
        except Exception as error:  # noqa: BLE001 - as in _run
            self._abandon("coordinator_failed", error)
            return fresh
        self._collection = Collection()
        self._go_on_with(fresh)
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

    # --- the timer ---------------------------------------------------------------------------------------------------

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
