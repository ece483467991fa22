"""The state of an owner's log: a pure state machine that every node runs, in the same state at each position.

Beside the coordinator it has an index of the log: the place of the prepare message of each transaction whose events may
still be needed, and of each idempotent call. The values themselves stay in the log.

A contradiction must not stop all nodes at the same entry forever: on all nodes alike the coordinator restarts from what
a journal would hold (:meth:`~kontract.core.protocol.replicated.ReplicatedCoordinator.start_again`).
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kontract.core import limits
from kontract.core.messages import Answer, Begin, CheckSession, EndSession, Prepare, Replayed, Request
from kontract.core.protocol import commands
from kontract.core.protocol.collection import Collection, CollectionStage, Job, Mark
from kontract.core.protocol.commands import (
    Ask,
    Claim,
    Collected,
    CommandBatch,
    EpochRead,
    Forget,
    Resolved,
    Start,
    Tick,
)
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.idempotency import began_at
from kontract.core.protocol.phases import CoordinatorStage, Phase, ProtocolError
from kontract.core.protocol.records import Drop, Effects, PutRecord, Record, Resolve, is_kept
from kontract.core.protocol.replicated import ReplicatedCoordinator, State
from kontract.ports.shared_log import Checkpoint, Entry, Last

NODE_MS = 600_000
"""How long the number of a node's newest batch is remembered: far longer than an append can take."""

CLAIM_MS = 60_000
"""How long a node has for the collection before another node may do it."""


class NewerVersionError(Exception):
    """Nodes with a newer version coordinate this owner now: this one must not guess what their commands mean."""


class LogPlace(Struct):
    """A transaction in the log: the entry and the command of its prepare message."""

    txid: int
    position: int
    offset: int
    size: int
    settled_at: int = 0
    committed: bool = False


class Known(Struct):
    """An idempotent call: its newest transaction."""

    place: LogPlace
    number: int
    kept: bool


class Seen(Struct):
    """A node's newest batch."""

    number: int
    at: int


class MachineState(Struct):
    """The complete state, for a checkpoint."""

    version: int
    now: int
    generation: str
    floor: int
    coordinator: State | None
    seen: dict[str, Seen]
    places: list[LogPlace]
    calls: dict[str, Known]
    marks: list[Mark]
    not_before: int
    claimed_by: str
    claimed_at: int
    at: int | None = None


class Step(Struct):
    """The result of an entry. The node that appended it carries out ``resolve`` and ``check_epoch``.

    ``number``: of the node's batch. ``failed``: tickets that get no answer, because the coordinator had to restart.
    ``ended``: sessions. ``claimed``: the node got the collection's work. ``anew``: a new event log begins.
    ``left_behind``: because the database is no longer the same.
    """

    node: str = ""
    number: int = 0
    answers: list[tuple[str, Answer]] = []
    failed: list[str] = []
    published: list[Record] = []
    resolve: list[Resolve] = []
    check_epoch: bool = False
    ended: list[str] = []
    claimed: bool = False
    anew: bool = False
    left_behind: bool = False
    problems: list[str] = []


_encode_state = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(MachineState).decode


def ticket_of(node: str, number: int) -> str:
    """Return the name of a caller who waits on a node."""
    return f"{node}/{number}"


class Machine:
    """One owner, replayed up to ``position``."""

    def __init__(self, position: int = 0) -> None:
        """Start with an empty log, or after a checkpoint that cannot be used."""
        self.position = position
        self.at: int | None = None  # when the entry at this position was appended; None: not known
        self.now = 0
        self.coordinator: ReplicatedCoordinator | None = None
        self.head = LogHead("g0", 0)
        self._collection = Collection()
        self._claimed_by, self._claimed_at = "", 0
        self._seen: dict[str, Seen] = {}
        self._places: dict[int, LogPlace] = {}
        self._calls: dict[str, Known] = {}
        self._version = commands.VERSION  # the highest that was met

    # --- the log -----------------------------------------------------------------------------------------------------

    @property
    def last(self) -> Last:
        """The position of the last replayed entry."""
        return Last(self.position, self.at)

    def apply(self, entry: Entry) -> Step:
        """Take the next entry; raises NewerVersionError, and ValueError when it is not the next one."""
        if entry.position != self.position + 1:
            message = f"entry {entry.position} does not follow {self.position}"
            raise ValueError(message)
        batch = commands.decode_batch(entry.batch)
        version = batch.version
        if version > commands.NEWEST:
            raise NewerVersionError
        self.position, self.at = entry.position, entry.at
        self._version = max(self._version, version)
        if version < commands.VERSION:
            self.coordinator = None  # decided by other rules than ours: this owner has to be restarted
            return Step(anew=True)
        self.now = max(self.now, entry.at)
        step = Step(node=batch.node, number=batch.number)
        seen = self._seen.get(batch.node)
        if seen is not None and seen.number >= batch.number:
            return step
        self._seen[batch.node] = Seen(batch.number, self.now)
        if self.coordinator is not None:
            self._take(step, self.coordinator.advance(self.now))
        for offset, command in enumerate(batch.commands):
            self._command(step, batch, offset, command)
        coordinator = self.coordinator
        if coordinator is not None and coordinator.stage is CoordinatorStage.SERVING:
            self._collection.observe(coordinator.watermark, self.now)
        return step

    def _command(self, step: Step, batch: CommandBatch, offset: int, command: commands.Command) -> None:
        if isinstance(command, Start):
            self._start(step, command)
            return
        coordinator = self.coordinator
        if coordinator is None:
            if isinstance(command, Ask):
                step.failed.append(ticket_of(batch.node, command.ticket))
            return
        before = self.position, offset
        try:
            match command:
                case Ask(ticket=number, request=request):
                    ticket = ticket_of(batch.node, number)
                    if isinstance(request, EndSession):
                        step.ended.append(request.session)
                    known = self._known(request)
                    self._take(step, coordinator.handle(ticket, request, self.now, known), before)
                case Forget():
                    for number in command.tickets:
                        coordinator.forget_caller(ticket_of(batch.node, number))
                case Resolved():
                    self._take(step, coordinator.resolved(command.txid, command.fence, self.now))
                case EpochRead():
                    self._take(step, coordinator.epoch_read(command.current, self.now))
                case Tick():
                    pass  # only the entry's time matters
                case Claim():
                    if self.now - self._claimed_at >= CLAIM_MS:
                        self._claimed_by, self._claimed_at = batch.node, self.now
                        step.claimed = True
                case Collected():
                    self._collected(command)
        except (ProtocolError, AssertionError, LookupError) as error:
            step.problems.append(repr(error))
            if isinstance(command, Ask):
                step.failed.append(ticket_of(batch.node, command.ticket))
            self._take(step, coordinator.start_again(self.now))

    def _start(self, step: Step, command: Start) -> None:
        if self.coordinator is None:
            self.coordinator = ReplicatedCoordinator(
                command.epoch, command.last_txid, in_charge=not command.left_behind
            )
            if command.order is not None:
                self.coordinator.set_row_order(command.order, journalled=True)
            self._begin_anew(step, command, self.coordinator)
            self._take(step, self.coordinator.recover(self.now))
        elif command.epoch > self.coordinator.epoch:
            self._begin_anew(step, command, self.coordinator)
            effects = self.coordinator.take_over(
                command.epoch, command.last_txid, command.order, self.now, in_charge=not command.left_behind
            )
            self._take(step, effects)

    def _begin_anew(self, step: Step, command: Start, coordinator: ReplicatedCoordinator) -> None:
        """Begin a new event log: others may have committed between the previous epoch and this one."""
        step.anew = True
        self.head = LogHead(command.generation, command.last_txid)
        coordinator.since = began_at(command.generation)
        self._places = {txid: place for txid, place in self._places.items() if not place.settled_at}
        if command.left_behind:
            step.left_behind, self._calls = True, {}
        self._collection = Collection()

    def _take(self, step: Step, effects: Effects, at: tuple[int, int] = (0, 0)) -> None:
        for ticket, answer in effects.answers:
            step.answers.append((str(ticket), answer))
        step.published += effects.published
        step.resolve += effects.resolve
        step.check_epoch |= effects.check_epoch
        for entry in effects.journal:
            match entry:
                case PutRecord():
                    self._note(entry.record, at)
                case Drop():
                    self._drop(entry)
                case _:
                    pass  # txids and ended sessions are part of the coordinator's state

    # --- the index ---------------------------------------------------------------------------------------------------

    def _note(self, record: Record, at: tuple[int, int]) -> None:
        place = self._places.get(record.txid)
        if place is None:
            size = sum(len(bytes(write.data)) + len(bytes(write.old)) for write in record.writes)
            place = self._places[record.txid] = LogPlace(record.txid, *at, size)
        if record.settled_at:
            place.settled_at = record.settled_at
            place.committed = record.phase == Phase.COMMITTED.value
            if not place.committed:
                del self._places[record.txid]
        if record.idempotent:
            self._calls[record.call] = Known(place, record.number, is_kept(record))

    def _drop(self, drop: Drop) -> None:
        def unpublished(place: LogPlace) -> bool:
            return bool(place.settled_at) and (place.txid < drop.below_txid or place.settled_at < drop.settled_before)

        gone = [txid for txid, place in self._places.items() if unpublished(place)]
        for txid in gone:
            del self._places[txid]
        self.head = LogHead(self.head.generation, max([self.head.floor, *gone]))
        for call, known in list(self._calls.items()):
            place = known.place
            if known.kept:
                expired = bool(place.settled_at) and place.settled_at < drop.idempotent_before
            else:
                expired = unpublished(place)
            if expired:
                del self._calls[call]
        self._seen = {node: seen for node, seen in self._seen.items() if self.now - seen.at < NODE_MS}

    def _known(self, request: Request) -> Record | None:
        if not (isinstance(request, (Begin, Prepare)) and request.idempotent):
            return None
        known = self._calls.get(request.call)
        if known is None:
            return None
        phase = Phase.COMMITTED if known.place.committed else Phase.ABORTED
        return Record(
            txid=known.place.txid,
            sid="",
            call=request.call,
            user="",
            phase=phase.value,
            prepared_at=0,
            deadline=0,
            writes=[],
            number=known.number,
        )

    def committed(self, after: int, up_to: int) -> list[LogPlace]:
        """Return the places of the first committed transactions above ``after`` up to ``up_to``: a page of events."""
        page: list[LogPlace] = []
        size = 0
        for txid in sorted(txid for txid in self._places if after < txid <= up_to):
            place = self._places[txid]
            if place.committed:
                page.append(place)
                size += place.size
            if len(page) >= limits.EVENT_PAGE_TRANSACTIONS or size >= limits.EVENT_PAGE_BYTES:
                break
        return page

    def knows(self, txid: int) -> bool:
        """Return whether the events of a transaction may still be needed."""
        return txid in self._places

    def result_of(self, answer: Replayed, call: str) -> LogPlace | None:
        """Return the place of the result of a call that has already been applied."""
        known = self._calls.get(call)
        return known.place if known is not None and known.place.txid == answer.txid else None

    def needed(self) -> tuple[int, list[int]]:
        """Return which earlier entries may still be needed: all from a position on, and single ones."""
        floor = min((place.position for place in self._places.values()), default=self.position + 1)
        kept = {known.place.position for known in self._calls.values()}
        return floor, sorted(position for position in kept if position < floor)

    # --- without a trace ---------------------------------------------------------------------------------------------

    def look(self, request: Request, now: int) -> Answer | None:
        """Answer a message that leaves no trace; None: it has to go through the log. The node must be caught up."""
        coordinator = self.coordinator
        if coordinator is None or not isinstance(request, (Begin, CheckSession)):
            return None
        if isinstance(request, Begin) and request.idempotent:
            known = self._calls.get(request.call)
            if coordinator.under_way(request.call) or (known is not None and known.place.committed):
                return None
        return coordinator.look(request, now)

    # --- collection --------------------------------------------------------------------------------------------------

    def collection_due(self) -> int | None:
        """Return when the collection has work that no node has claimed, in the log's milliseconds."""
        if self.coordinator is None:
            return None
        due = self._collection.due(self.coordinator.watermark)
        return None if due is None else max(due, self._claimed_at + CLAIM_MS if self._claimed_by else 0)

    def job(self) -> Job | None:
        """Return what may be removed now. This leaves no trace here: only the asking node uses it."""
        if self.coordinator is None:
            return None
        collection = Collection(self._collection.marks)
        collection.postpone(self._collection.not_before)
        return collection.job(self.coordinator.oldest_snapshot, self.now)

    def _collected(self, command: Collected) -> None:
        if command.stage:
            self._collection.done(Job(CollectionStage(command.stage), command.up_to))
        if command.rest:
            self._collection.postpone(self.now + limits.COLLECT_PAUSE_MS)
            self._claimed_by, self._claimed_at = "", 0

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Return the complete state."""
        coordinator = self.coordinator
        return _encode_state(
            MachineState(
                version=self._version,
                now=self.now,
                generation=self.head.generation,
                floor=self.head.floor,
                coordinator=coordinator.dump() if coordinator is not None else None,
                seen=self._seen,
                places=list(self._places.values()),
                calls=self._calls,
                marks=self._collection.marks,
                not_before=self._collection.not_before,
                claimed_by=self._claimed_by,
                claimed_at=self._claimed_at,
                at=self.at,
            )
        )

    @classmethod
    def restore(cls, checkpoint: Checkpoint) -> Machine:
        """Return a machine in a dumped state; raises NewerVersionError."""
        self = cls(checkpoint.position)
        version = commands.version_of(checkpoint.state)
        if version > commands.NEWEST:
            raise NewerVersionError
        if version < commands.VERSION:
            return self
        self._version = version
        state: MachineState = _decode_state(checkpoint.state)
        self.now, self.at = state.now, state.at
        self.head = LogHead(state.generation, state.floor)
        if state.coordinator is not None:
            self.coordinator = ReplicatedCoordinator.restore(state.coordinator)
            self.coordinator.since = began_at(state.generation)
        self._seen = state.seen
        self._places = {place.txid: place for place in state.places}
        self._calls = state.calls
        for known in self._calls.values():
            known.place = self._places.get(known.place.txid, known.place)  # they share the records that will be settled
        self._collection = Collection(state.marks)
        self._collection.postpone(state.not_before)
        self._claimed_by, self._claimed_at = state.claimed_by, state.claimed_at
        return self
