"""One owner on one node: the shell around the machine. It brings the shared log, time and the database to it.

Callers' messages that change something become commands in the log; their answers come when the node meets them there,
in the one order that all nodes see. Messages that change nothing (most begins) are answered after reading the log to
its end. Several callers share one append, and one read.

What an entry asks to be found out (a fence, the epoch) is found out by the node that appended it. If that node dies,
the next tick of another one asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from kontract.coordination import recovery
from kontract.coordination.custody import Custody
from kontract.coordination.history import History
from kontract.coordination.questions import Questions, unready
from kontract.coordination.upkeep import Upkeep
from kontract.core.errors import PayloadTooLargeError
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
from kontract.core.protocol.commands import (
    Ask,
    Claim,
    Command,
    Forget,
    Resolved,
    Start,
    Tick,
    batch_of,
    encode_batch,
)
from kontract.core.protocol.hub import Hub
from kontract.core.protocol.machine import LogPlace, Machine, NewerVersionError, Step
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.protocol.records import Record
from kontract.core.protocol.replicated import ReplicatedCoordinator
from kontract.ports import (
    Clock,
    CoordinatorUnavailableError,
    Database,
    DatabaseError,
    DatabaseUnavailableError,
    Log,
)
from kontract.ports.shared_log import (
    MAX_BATCH_BYTES,
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

BATCH_BYTES = 1024 * 1024
"""Bytes of commands after which an append takes no further one."""

CHECKPOINT_ENTRIES = 1_000
"""Entries between two checkpoints: replaying so many takes a node that joins less than a second."""

START_TRIES = 5
START_PAUSE_MS = 40
"""Nodes that start an owner at the same moment get into each other's way: all but one try again, or find it done."""

OTHERS_FIRST_MS = 200
"""How long a node leaves it to others to say that something is due, when none of its own callers waits for it."""

OUTDATED = "nodes with a newer version of this application coordinate already; this one has to be replaced"

BROKEN = "this node cannot go on coordinating; the log has the reason, and others may be able to"


class StoppedError(Exception):
    """This node does not coordinate this owner any more; the message says why."""


class Replica:
    """The coordinator of ``owner`` as this node sees it. Implements CoordinatorStub."""

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
        self.owner = owner
        self.machine = Machine()
        self._history = History(owner, log, lambda: self.machine)
        self.hub = Hub(self._history)
        self.used_at = clock.now()
        self._node = node
        self._log = log
        self._questions = Questions(owner, open_database, log_line)
        self._clock = clock
        self._log_line = log_line
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
        self._checkpoint_entries = checkpoint_entries or CHECKPOINT_ENTRIES
        self._on_waiting = on_waiting
        self._loaded = False
        self._stopped = ""
        self._ahead = 0  # of the log's clock, as far as we know, in milliseconds
        self._last_ticket = 0
        self._last_batch = 0
        self._applied_batch = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._held: set[int] = set()  # of those who wait: whose message has been replayed, and is not answered yet
        self._queue: list[tuple[bytes, Command, asyncio.Future[None]]] = []
        self._sending: asyncio.Future[None] | None = None
        self._reading: asyncio.Future[None] | None = None
        self._next_read: asyncio.Future[None] | None = None
        self._starting: asyncio.Future[None] | None = None
        self._until_serving: list[asyncio.Future[None]] = []
        self._unpublished: list[Record] = []
        self._ticking = False
        self._tasks: set[asyncio.Future[None]] = set()

    # --- for callers -------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer:
        """Answer one message; raises CoordinatorUnavailableError when it has to be asked again."""
        self.used_at = self._clock.now()
        if isinstance(request, Doubt):
            self._custody.doubt()
            return Noted()
        try:
            await self._be_ready()
            await self._custody.be_sure()
            if isinstance(request, (Begin, CheckSession, EndSession)):
                await self._catch_up()
                await self._custody.be_sure()
                answer = self.machine.look(request, self._now())
                if answer is not None:
                    return answer
            return self._questions.explained(await self._through_the_log(request))
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log_line("error", "coordinator_start", owner=self.owner, error=str(error))
            return self._questions.explained(unready(error))
        except StoppedError as stopped:
            return Unready(str(stopped))
        except LogUnavailableError as error:
            raise CoordinatorUnavailableError(str(error)) from error

    async def _through_the_log(self, request: Request) -> Answer:
        self._last_ticket += 1
        number = self._last_ticket
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            await self._send(Ask(number, request))
            if not waiting.done():
                self._held.add(number)
                self._on_waiting()
            answer = await waiting
        finally:
            del self._waiting[number]
            self._held.discard(number)
            if not waiting.done():
                self._spawn(self._forget(number))
        if isinstance(answer, Replayed):
            await self._custody.confirm()
        if isinstance(answer, Replayed) and answer.result is None and isinstance(request, (Begin, Prepare)):
            return await self._with_result(answer, request.call)
        return answer

    async def _forget(self, number: int) -> None:
        try:
            await self._send(Forget([number]))
        except (LogUnavailableError, CoordinatorUnavailableError, StoppedError):
            return  # its answer will find nobody

    async def _with_result(self, answer: Replayed, call: str) -> Answer:
        place = self.machine.result_of(answer, call)
        if place is None:
            return answer
        found = await self._history.read([place])
        return Replayed(answer.txid, found[0].result) if found else answer

    def doubt(self) -> None:
        """Look whether the database is still the same: a connection to it was lost."""
        self._custody.doubt()

    # --- for streams -------------------------------------------------------------------------------------------------

    async def resume(self, subscriber: Subscriber, since: str | None) -> Page | End:
        """Return the next page for somebody who listens, or why there is none: see CoordinatorShell.resume."""
        self.used_at = self._clock.now()
        try:
            await self._be_ready()
            await self._catch_up()
            await self._custody.be_sure()
            while True:
                coordinator = self.machine.coordinator
                if coordinator is None or coordinator.stage is CoordinatorStage.FENCED or self._stopped:
                    raise CoordinatorUnavailableError("the coordinator has to start again")
                if coordinator.stage is CoordinatorStage.SERVING:
                    end = self.machine.end_of(subscriber.subscription.session)
                    if end is not None:
                        return end
                    missing = self._history.missing(since, coordinator.watermark)
                    if not missing:
                        return self.hub.page(subscriber, since, coordinator.watermark)
                    await self._fetch(missing)
                else:
                    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._until_serving.append(waiting)
                    self._on_waiting()
                    await waiting
        except (LogUnavailableError, DatabaseError, DatabaseUnavailableError, StoppedError) as error:
            raise CoordinatorUnavailableError(str(error)) from error

    async def _fetch(self, places: list[LogPlace]) -> None:
        records = await self._history.fetch(places)
        if len(records) < len(places):
            # Another node has trimmed what we thought was there: learn of it.
            await self._catch_up()
            gone = {place.txid for place in places} - {record.txid for record in records}
            if any(self.machine.knows(txid) for txid in gone):
                raise CoordinatorUnavailableError("the event log is shorter than it should be")

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _be_ready(self) -> None:
        if self._stopped:
            raise StoppedError(self._stopped)
        coordinator = self.machine.coordinator
        if self._loaded and coordinator is not None and coordinator.knows_row_order:
            return
        # Everybody who arrives meanwhile waits for the same start.
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
            self._starting.add_done_callback(self._started)
        await asyncio.shield(self._starting)

    def _started(self, future: asyncio.Future[None]) -> None:
        self._starting = None
        if not future.cancelled():
            future.exception()  # everybody who waited has it

    async def _start(self) -> None:
        first = not self._loaded
        if first:
            await self._load()
        await self._catch_up()
        coordinator = self.machine.coordinator
        if coordinator is not None and not self.hub:
            self.hub.publish([], coordinator.watermark)  # nobody listens yet, so there is nothing to catch up with
        numbered = coordinator is not None and coordinator.knows_row_order
        if coordinator is not None and numbered and not (first and await self._is_superseded(coordinator)):
            return
        coordinator = self.machine.coordinator
        # There is no log, or it belongs to other rules; or somebody without it has raised the epoch meanwhile, and this
        # process starts; or a node of a release that does not number rows has written the checkpoint. Then it takes the
        # owner over, as a coordinator without a journal does.
        found = await self._raise_epoch(coordinator.epoch + 1 if coordinator else 1)
        if found is None:
            return
        epoch, highest, order = found
        ended = await self._questions.ended_sessions() if coordinator is None else {}
        # All at once, so that they stand in one entry: no node serves before it knows what was ended.
        said: list[Command] = [Start(epoch, recovery.above(epoch, highest), f"g{self._clock.now():x}", order)]
        said += [Ask(0, EndSession(session, until)) for session, until in ended.items()]
        sending = [asyncio.ensure_future(self._send(command)) for command in said]
        await asyncio.wait(sending)
        for sent in sending:
            await sent
        if self.machine.coordinator is None:
            raise CoordinatorUnavailableError("the coordinator has to start again")
        self._log_line(
            "info", "coordinator_started", owner=self.owner, epoch=self.machine.coordinator.epoch, fresh=True
        )

    async def _is_superseded(self, coordinator: ReplicatedCoordinator) -> bool:
        """Whether somebody without our log has raised the epoch, noticed by this log or not yet."""
        if coordinator.stage is CoordinatorStage.FENCED:
            return True
        current = await self._custody.look_first()
        if current is None or current <= coordinator.epoch:
            return False
        await self._catch_up()  # a node of ours may have raised it
        now = self.machine.coordinator
        return now is not None and now.epoch < current

    async def _raise_epoch(self, at_least: int) -> tuple[int, int, dict[str, int]] | None:
        """Take the owner over; None when another node did it at the same moment, and the log says so."""
        for trial in range(START_TRIES):
            try:
                return await self._questions.take_over(at_least)
            except DatabaseUnavailableError:
                if trial + 1 == START_TRIES:
                    raise
            await self._clock.sleep(START_PAUSE_MS << trial)
            await self._catch_up()
            coordinator = self.machine.coordinator
            if coordinator is not None and coordinator.epoch >= at_least:
                return None
        raise AssertionError

    async def _load(self) -> None:
        checkpoint = await self._log.checkpoint(self.owner)
        if checkpoint is not None and checkpoint.position > self.machine.position:
            self.machine = self._restored(checkpoint)
        self._loaded = True

    def _restored(self, checkpoint: Checkpoint) -> Machine:
        try:
            return Machine.restore(checkpoint)
        except NewerVersionError:
            self._stop(OUTDATED, "coordinator_outdated", OUTDATED)
            raise StoppedError(OUTDATED) from None
        except Exception as error:
            self._stop(BROKEN, "coordinator_failed", f"checkpoint {checkpoint.position}: {error!r}")
            raise StoppedError(BROKEN) from error

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
        for _, _, done in self._queue:
            if not done.done():
                done.set_exception(LogUnavailableError("the log has gone back in time"))
        self._queue.clear()
        self._let_go("the log has gone back in time")
        if old is not None:
            self._custody.fall_back(old)

    def _let_go(self, reason: str) -> None:
        """Have nobody wait for what this node will not replay."""
        self._history.forget()
        self._unpublished.clear()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(CoordinatorUnavailableError(reason))
        self._let_look_again()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Replay everything that was there when this was called; those who come meanwhile share the next read."""
        if self._next_read is None:
            self._next_read = asyncio.ensure_future(self._read_after(self._reading))
            self._next_read.add_done_callback(_note)
        await asyncio.shield(self._next_read)

    async def _read_after(self, before: asyncio.Future[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._reading, self._next_read = self._next_read, None
        await self._read()

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
                except NewerVersionError:
                    self._stop(OUTDATED, "coordinator_outdated", OUTDATED)
                    raise StoppedError(OUTDATED) from None
                except Exception as error:
                    # A defect. What is half replayed must not go on: it would decide otherwise than other nodes.
                    self._stop(BROKEN, "coordinator_failed", f"entry {entry.position}: {error!r}")
                    raise StoppedError(BROKEN) from error
        return True

    def _stop(self, reason: str, event: str, error: str) -> None:
        self._stopped = reason
        self._log_line("error", event, owner=self.owner, error=error)
        self.hub.cut()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(Unready(reason))
        self._let_look_again()

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _send(self, command: Command) -> None:
        """Append a command, and return when it has been replayed here."""
        raw = encode_batch(command)
        if len(raw) > MAX_BATCH_BYTES - 1024:
            message = "the values that this transaction replaces are too large to be written down; split it"
            raise PayloadTooLargeError(message)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((raw, command, done))
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send_all())
        await done

    async def _send_all(self) -> None:
        try:
            while self._queue:
                size = count = 0
                for raw, _, _ in self._queue:
                    if count and size + len(raw) > BATCH_BYTES:
                        break
                    size, count = size + len(raw), count + 1
                part, self._queue = self._queue[:count], self._queue[count:]
                error: Exception | None = None
                try:
                    await self._send_batch([command for _, command, _ in part])
                except (LogUnavailableError, StoppedError) as failed:
                    error = failed
                except Exception as failed:  # noqa: BLE001 - a log of somebody's own may fail in any way; nobody may wait for ever
                    error = LogUnavailableError(repr(failed))
                for _, _, done in part:
                    if not done.done():
                        _decide(done, error)
        finally:
            self._sending = None

    async def _send_batch(self, part: list[Command]) -> None:
        if self._stopped:
            raise StoppedError(self._stopped)
        self._last_batch += 1
        number = self._last_batch
        batch = encode_batch(batch_of(self._node, number, part))
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
            raise LogUnavailableError("whether the message has arrived is not known")

    # --- carrying out ------------------------------------------------------------------------------------------------

    def _carry_out(self, step: Step, entry: Entry) -> None:
        mine = step.node == self._node
        for problem in step.problems:
            self._log_line("error", "contradiction", owner=self.owner, position=entry.position, error=problem)
        for session in step.ended:
            self.hub.end_session(session)
        if step.left_behind:
            self.hub.end_all("restart")  # whoever listens comes back, and its position is not of this log
        for ticket, answer in step.answers:
            self._answer(ticket, answer)
        for ticket in step.failed:
            self._answer(ticket, None)
        coordinator = self.machine.coordinator
        if coordinator is not None:
            self._publish(step.published, coordinator.stage, coordinator.watermark)
        if not mine or coordinator is None:
            return
        self._applied_batch = max(self._applied_batch, step.number)
        for question in step.resolve:
            self._spawn(self._resolve(question.sid, question.txid))
        if step.check_epoch:
            self._spawn(self._custody.look())
        if step.claimed:
            self._spawn(self._upkeep.collect())
        if entry.position % self._checkpoint_entries == 0:
            self._spawn(self._upkeep.write_checkpoint())

    def _answer(self, ticket: str, answer: Answer | None) -> None:
        node, _, number = ticket.rpartition("/")
        waiting = self._waiting.get(int(number)) if node == self._node else None
        if waiting is None or waiting.done():
            return
        if answer is None:
            waiting.set_exception(CoordinatorUnavailableError("the coordinator has to start again"))
        else:
            waiting.set_result(answer)

    def _publish(self, published: list[Record], stage: CoordinatorStage, watermark: int) -> None:
        for record in published:
            self._history.remember(record)
        self._unpublished += published
        if stage is CoordinatorStage.SERVING:
            self.hub.publish(self._unpublished, watermark)
            self._unpublished = []
        elif stage is CoordinatorStage.FENCED:
            self.hub.end_all("fenced")
        if stage is not CoordinatorStage.RECOVERING:
            self._let_look_again()

    def _let_look_again(self) -> None:
        waiting, self._until_serving = self._until_serving, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _resolve(self, sid: str, txid: int) -> None:
        fence = await self._questions.fence(sid, txid)
        self._log_line("info", "resolved", owner=self.owner, txid=txid, sid=sid, fence=fence)
        await self._tell(Resolved(txid, fence))

    async def _tell(self, command: Command) -> None:
        try:
            await self._send(command)
        except (LogUnavailableError, StoppedError) as error:
            # Some other tick asks again.
            self._log_line("warning", "log", owner=self.owner, error=str(error))

    # --- what is due -------------------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether a caller of this node waits for something that other nodes may bring about."""
        return bool(self._held or self._until_serving)

    @property
    def follows(self) -> bool:
        """Whether this node has to know what others append, though nobody asks."""
        coordinator = self.machine.coordinator
        return not self._stopped and (
            self.waits or len(self.hub) > 0 or (coordinator is not None and coordinator.is_waited_for)
        )

    @property
    def is_idle(self) -> bool:
        """Whether it could be forgotten without anybody noticing."""
        return not (self.follows or self._tasks or self._waiting or self._starting)

    async def follow(self) -> None:
        """Read what there is, and say what is due. For one owner; a node follows many with SharedLog.news."""
        await self._catch_up()
        self.tick()

    def tick(self) -> None:
        """Say what is due, if something is."""
        coordinator = self.machine.coordinator
        if coordinator is None or self._ticking or self._stopped:
            return
        self._custody.tick()
        now = self._now()
        due = coordinator.next_tick()
        if due is not None and due + (0 if self.waits else OTHERS_FIRST_MS) <= now:
            self._say(Tick())
            return
        due = self.machine.collection_due()
        if due is not None and due <= now and coordinator.stage is CoordinatorStage.SERVING:
            self._say(Claim())

    def _say(self, command: Command) -> None:
        async def say() -> None:
            try:
                await self._tell(command)
            finally:
                self._ticking = False

        self._ticking = True
        self._spawn(say())

    def _now(self) -> int:
        """Return the time as the log tells it."""
        return max(self.machine.now, self._clock.now() + self._ahead)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _decide(done: asyncio.Future[None], error: Exception | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _note(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # everybody who waited has it; nobody may be left to be warned about it
