"""One owner on one node of several: the shell around the machine. It brings the shared log to it.

Callers' messages that change something become commands in the log; their answers come when the node meets them there,
in the one order that all nodes see. Messages that change nothing (most begins) are answered after reading the log to
its end. Several callers share one append, and one read.

What an entry asks to be found out (a fence, the epoch) is found out by the node that appended it. If that node dies,
the next tick of another one asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kontract.coordination.custody import Custody
from kontract.coordination.history import History
from kontract.coordination.host import STARTS_AGAIN, Host
from kontract.coordination.outgoing import Outgoing
from kontract.coordination.reads import Reads
from kontract.coordination.states import STOPPED, ShellEvent, ShellState, StoppedError
from kontract.coordination.takeover import Takeover
from kontract.coordination.upkeep import Upkeep
from kontract.core.events import End, Page
from kontract.core.messages import (
    Answer,
    Begin,
    CheckSession,
    Doubt,
    EndSession,
    Noted,
    Prepare,
    Replayed,
    Request,
    Unready,
)
from kontract.core.protocol.audience import Subscriber
from kontract.core.protocol.commands import Ask, Command, Forget, Resolved
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.machine import Machine, NewerVersionError, Step
from kontract.core.protocol.records import Record, Resolve
from kontract.core.protocol.replicated import ReplicatedCoordinator
from kontract.ports import Clock, CoordinatorUnavailableError, Database, Log
from kontract.ports.shared_log import (
    READ_BYTES,
    READ_ENTRIES,
    Checkpoint,
    Entry,
    Last,
    LogUnavailableError,
    SharedLog,
    TrimmedError,
    WentBackError,
)

CHECKPOINT_ENTRIES = 1_000
"""Entries between two checkpoints: replaying so many takes a node that joins less than a second."""


class Replica(Host):
    """The coordinator of ``owner`` as this node sees it."""

    def __init__(
        self,
        owner: str,
        node: str,
        log: SharedLog,
        open_database: Callable[[], Database],
        clock: Clock,
        log_line: Log,
        *,
        checkpoint_entries: int | None = None,
        on_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for the first message. ``node``: a name that no other process has, nor an earlier one had."""
        self.machine = Machine()
        self._history = History(owner, log, lambda: self.machine)
        super().__init__(owner, self._history, open_database, clock, log_line)
        self.used_at = clock.now()
        self._node = node
        self._log = log
        self._custody = Custody(
            owner,
            self._questions,
            self._now,
            log_line,
            lambda: self.machine.coordinator,
            self._catch_up,
            self._tell,
            clock.sleep,
        )
        self._upkeep = Upkeep(owner, log, self._questions, self._custody, log_line, lambda: self.machine, self._tell)
        self._outgoing = Outgoing(node, self._append)
        self._reads = Reads(self._read)
        self._takeover = Takeover(
            owner,
            self._questions,
            self._custody,
            clock,
            log_line,
            lambda: self.machine.coordinator,
            self._catch_up,
            self._outgoing.send,
        )
        self._checkpoint_entries = checkpoint_entries or CHECKPOINT_ENTRIES
        self._on_waiting = on_waiting
        self._ahead = 0  # of the log's clock, as far as we know, in milliseconds
        self._applied_batch = 0  # the newest of ours that was replayed
        self._unpublished: list[Record] = []

    @property
    def coordinator(self) -> ReplicatedCoordinator | None:
        """The state machine; None where there is no log yet, or it belongs to other rules."""
        return self.machine.coordinator

    # --- for callers -------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer:
        """Answer one message; raises CoordinatorUnavailableError when it has to be asked again."""
        self.used_at = self._clock.now()
        if isinstance(request, Doubt):
            self.doubt()
            return Noted()
        return await super().ask(request)

    async def _answer(self, request: Request) -> Answer:
        await self._custody.be_sure()
        if isinstance(request, (Begin, CheckSession, EndSession)):
            await self._be_current()
            answer = self.machine.look(request, self._now())
            if answer is not None:
                return answer
        return await self._through_the_log(request)

    async def _through_the_log(self, request: Request) -> Answer:
        caller = self._callers.add()
        try:
            await self._outgoing.send(Ask(caller.ticket, request))
            if not caller.is_done:
                self._callers.hold(caller)
                self._on_waiting()
            answer = await caller.answer()
        finally:
            self._callers.remove(caller)
            if not caller.is_done:
                self._spawn(self._forget(caller.ticket))
        if isinstance(answer, Replayed):
            await self._custody.confirm()
        if isinstance(answer, Replayed) and answer.result is None and isinstance(request, (Begin, Prepare)):
            return await self._with_result(answer, request.call)
        return answer

    async def _forget(self, ticket: int) -> None:
        try:
            await self._outgoing.send(Forget([ticket]))
        except (LogUnavailableError, CoordinatorUnavailableError, StoppedError):
            return  # its answer will find nobody

    async def _with_result(self, answer: Replayed, call: str) -> Answer:
        place = self.machine.result_of(answer, call)
        if place is None:
            return answer
        found = await self._history.read([place])
        return Replayed(answer.txid, found[0].result) if found else answer

    # --- for streams -------------------------------------------------------------------------------------------------

    async def resume(self, subscriber: Subscriber, since: str | None) -> Page | End:
        """Return the next page for somebody who listens, or why there is none: see Host.resume."""
        self.used_at = self._clock.now()
        return await super().resume(subscriber, since)

    async def _be_current(self) -> None:
        await self._catch_up()
        await self._custody.be_sure()

    async def _look_again(self) -> None:
        self._on_waiting()
        await super()._look_again()

    async def _prepare_page(self, since: str | None, watermark: int) -> bool:
        places = self._history.missing(since, watermark)
        if not places:
            return True
        records = await self._history.fetch(places)
        if len(records) < len(places):
            # Another node has trimmed what we thought was there: learn of it.
            await self._catch_up()
            gone = {place.txid for place in places} - {record.txid for record in records}
            if any(self.machine.knows(txid) for txid in gone):
                raise CoordinatorUnavailableError("the event log is shorter than it should be")
        return False

    # --- starting ----------------------------------------------------------------------------------------------------

    @property
    def _is_awake(self) -> bool:
        coordinator = self.machine.coordinator
        return super()._is_awake and coordinator is not None and coordinator.knows_row_order

    async def _wake_up(self) -> None:
        if self.state is ShellState.AWAKE and self._starting is None:
            self._turn(ShellEvent.LOST)
        await super()._wake_up()

    async def _begin(self) -> None:
        if not self.machine.position:
            await self._load()
        await self._catch_up()
        coordinator = self.machine.coordinator
        if coordinator is not None and not self.hub:
            self.hub.publish([], coordinator.watermark)  # nobody listens yet, so there is nothing to catch up with
        await self._takeover.if_needed()
        self._check_stopped()
        self._turn(ShellEvent.STARTED)

    async def _load(self) -> None:
        checkpoint = await self._log.checkpoint(self.owner)
        if checkpoint is not None and checkpoint.position > self.machine.position:
            self.machine = self._restored(checkpoint)

    def _restored(self, checkpoint: Checkpoint) -> Machine:
        try:
            return Machine.restore(checkpoint)
        except Exception as error:
            raise self._stop(f"checkpoint {checkpoint.position}", error) from error

    async def _reload(self) -> None:
        """Go on from the checkpoint: entries that we have not seen are gone."""
        last, old = self.machine.last, self.machine.coordinator
        checkpoint = await self._log.checkpoint(self.owner)
        if checkpoint is None or (position := checkpoint.position) < last.position + (last.at is None):
            raise LogUnavailableError("the log has a gap that no checkpoint covers")
        self.machine = self._restored(checkpoint)
        if position == last.position:
            self.machine.at = None  # the state is right by what it is, though its last entry is not kept
        self._log_line("warning", "coordinator_reloaded", owner=self.owner, before=last.position, position=position)
        if old is not None:
            self._custody.reloaded(old)
        self.hub.cut()  # they resume, and are given what this node has skipped
        self._let_go("this node was too slow")

    async def _fall_back(self) -> None:
        """Go on from what there is: the log has gone back in time, with the database that it is in.

        It tells of a state that is right, but older than this node's. Numbers of this node's time must not be given
        again, and nobody may go on with what he saw: before anything else the epoch is raised, in a new generation.
        """
        old, checkpoint = self.machine.coordinator, await self._log.checkpoint(self.owner)
        self.machine = self._restored(checkpoint) if checkpoint is not None else Machine()
        self.hub.end_all("restart")
        self._outgoing.give_up("the log has gone back in time")
        self._let_go("the log has gone back in time")
        if old is not None:
            self._custody.fall_back(old)

    def _let_go(self, reason: str) -> None:
        """Release callers that wait for what this node will not replay."""
        self._history.forget()
        self._unpublished.clear()
        self._callers.fail_all(CoordinatorUnavailableError, reason)
        self._let_look_again()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        await self._reads.join()

    async def _read(self) -> None:
        more = True
        while more:
            try:
                last = self.machine.last
                entries = await self._log.read(self.owner, last.position, last.at)
            except TrimmedError:
                await self._reload()
                continue
            except WentBackError:
                await self._fall_back()
                continue
            more = not self.take(last, entries) or len(entries) >= READ_ENTRIES
            more = more or sum(len(entry.batch) for entry in entries) >= READ_BYTES

    def take(self, after: Last, entries: Iterable[Entry]) -> bool:
        """Replay what was read behind ``after``, but not again; False: it does not follow what is replayed already."""
        self._check_stopped()
        last = after
        for entry in entries:
            if last.position == self.machine.position and last != self.machine.last:
                return False
            last = Last(entry.position, entry.at)
            if entry.position > self.machine.position + 1:
                return False  # what lies between is not known here
            if entry.position == self.machine.position + 1:
                try:
                    self._carry_out(self.machine.apply(entry), entry)
                except Exception as error:
                    raise self._stop(f"entry {entry.position}", error) from error
        return True

    def _stop(self, where: str, error: Exception) -> StoppedError:
        """Answer nobody any more: what is half replayed would decide otherwise than other nodes."""
        if self.state not in STOPPED:
            outdated = isinstance(error, NewerVersionError)
            self._turn(ShellEvent.OUTDATED if outdated else ShellEvent.DEFECT)
            reason = STOPPED[self.state]
            event, told = ("outdated", reason) if outdated else ("failed", f"{where}: {error!r}")
            self._log_line("error", f"coordinator_{event}", owner=self.owner, error=told)
            self.hub.cut()
            self._callers.decide_all(Unready(reason))
            self._let_look_again()
        return StoppedError(STOPPED[self.state])

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _append(self, number: int, batch: bytes) -> None:
        """Append a batch, and return when it has been replayed here."""
        self._check_stopped()
        sent_at, last = self._clock.now(), self.machine.last
        try:
            entries = await self._log.append(self.owner, last.position, batch, last.at)
        except (LogUnavailableError, TrimmedError):
            entries = []  # it is there, or not, or will be: look once
        except WentBackError:
            await self._catch_up()
            raise LogUnavailableError("the log has gone back in time") from None
        self.take(last, entries)
        if entries and entries[-1].batch == batch:
            # It was appended between then and now: what is beyond that is a difference of clocks.
            self._ahead = entries[-1].at - max(sent_at, min(entries[-1].at, self._clock.now()))
        if self._applied_batch < number:
            await self._catch_up()
        if self._applied_batch < number:
            raise LogUnavailableError("it is unknown whether the message has arrived")

    # --- carrying out ------------------------------------------------------------------------------------------------

    def _carry_out(self, step: Step, entry: Entry) -> None:
        mine = step.node == self._node
        for problem in step.problems:
            self._log_line("error", "contradiction", owner=self.owner, position=entry.position, error=problem)
        for session in step.ended:
            self.hub.end_session(session)
        if step.left_behind:
            self.hub.end_all("restart")  # clients reconnect, and their position is not from this log
        for ticket, answer in step.answers:
            self._decide(ticket, answer)
        for ticket in step.failed:
            self._decide(ticket, None)
        coordinator = self.machine.coordinator
        if coordinator is not None:
            self._publish(step.published, coordinator)
        if not mine or coordinator is None:
            return
        self._applied_batch = max(self._applied_batch, step.number)
        for question in step.resolve:
            self._spawn(self._resolve(coordinator, question))
        if step.check_epoch:
            self._spawn(self._custody.look())
        if step.claimed:
            self._spawn(self._upkeep.collect())
        if entry.position % self._checkpoint_entries == 0:
            self._spawn(self._upkeep.write_checkpoint())

    def _decide(self, ticket: str, answer: Answer | None) -> None:
        node, _, number = ticket.rpartition("/")
        caller = self._callers.find(int(number)) if node == self._node else None
        if caller is None:
            return
        if answer is None:
            caller.fail(CoordinatorUnavailableError(STARTS_AGAIN))
        else:
            caller.decide(answer)

    def _publish(self, records: list[Record], coordinator: Coordinator) -> bool:
        for record in records:
            self._history.remember(record)
        self._unpublished += records
        serves = super()._publish(self._unpublished, coordinator)
        if serves:
            self._unpublished = []
        return serves

    async def _take_fence(self, _coordinator: Coordinator | None, question: Resolve, fence: int | None) -> None:
        self._log_fence(question, fence)
        await self._tell(Resolved(question.txid, fence))

    async def _tell(self, command: Command) -> None:
        try:
            await self._outgoing.send(command)
        except (LogUnavailableError, StoppedError) as error:
            # Some other tick asks again.
            self._log_line("warning", "log", owner=self.owner, error=str(error))

    # --- what is due -------------------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """Look whether the database is still the same: a connection to it was lost."""
        self._custody.doubt()

    @property
    def waits(self) -> bool:
        """Whether a caller of this node waits for something that other nodes may bring about."""
        return self._callers.held or bool(self._until_serving)

    @property
    def follows(self) -> bool:
        """Whether this node has to follow what others append, although nobody asks."""
        coordinator = self.machine.coordinator
        return self.state not in STOPPED and (
            self.waits or len(self.hub) > 0 or (coordinator is not None and coordinator.is_waited_for)
        )

    @property
    def is_idle(self) -> bool:
        """Whether it could be forgotten without anybody noticing."""
        return not (self.follows or self._tasks or len(self._callers) or self._starting)

    async def follow(self) -> None:
        """Read what there is, and say what is due. For one owner; a node follows many with SharedLog.news."""
        await self._catch_up()
        self.tick()

    def tick(self) -> None:
        """Say what is due, if something is."""
        if self.machine.coordinator is None or self.state in STOPPED or self._upkeep.is_saying:
            return
        self._custody.tick()
        command = self._upkeep.due(self._now(), waits=self.waits)
        if command is not None:
            self._spawn(self._upkeep.say(command))

    def _now(self) -> int:
        """Return the time as the log tells it."""
        return max(self.machine.now, self._clock.now() + self._ahead)
