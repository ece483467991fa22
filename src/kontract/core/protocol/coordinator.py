"""The transaction coordinator of one owner, as a pure state machine.

Theory of operation
===================

*Numbers.* Every transaction that prepares gets the next txid ``T``; commit order is txid order. The watermark ``W`` is
the txid before the lowest unfinished one: a prefix, never "all but these". A snapshot handed out is the watermark of
that moment, so everything at or below a snapshot has finished, and what is read at it never changes.

*Validation.* A transaction that read at ``S`` is compared with every transaction above ``S``, finished or prepared. If
one of those wrote a key this one read or writes, or a row that may match a predicate this one evaluated, it loses. So
two transactions that prepare are in conflict-free order: everything the later one read is as the earlier ones left it.
Validating, numbering and recording happen in one call, without a pause in which another call could come between.

*Order of rows.* With the txid a transaction gets the numbers by which its new rows stand in the order of insertion:
see :mod:`kontract.core.protocol.row_order`.

*Durability.* The prepare record is journalled before the answer leaves (:class:`Effects` lists journal entries and
answers; a shell makes the first durable before it sends the second). It carries the new values, so that change events
survive a crash between apply and finish.

*In doubt.* See :mod:`kontract.core.protocol.phases`. A worker that dies leaves its transaction PREPARED; when its
deadline passes, or others have waited for it, the shell is asked to read the fence.

*Superseding.* The epoch row in PostgreSQL names the one incarnation of the coordinator whose transactions may apply.
Safety never rests on a clock or a lease: an incarnation without the right epoch cannot commit anything. What it shows
to readers grows old, and after RETENTION_MS its successor removes versions of it; so only an incarnation that was in
charge a moment ago (EPOCH_TRUST_MS) hands out a snapshot. It knows from what it prepared and was applied, or it asks.

*Waiting.* An answer may be held back: a begin until a transaction is visible or the caller's turn has come, a finish
until ``W >= T``. Callers are known by tickets, which mean nothing here. Time is given by the shell with every call.

A shell calls :meth:`Coordinator.handle`, :meth:`~Coordinator.resolved`, :meth:`~Coordinator.epoch_read` and
:meth:`~Coordinator.tick`, then carries out :attr:`Effects` in this order: journal, answers, the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import assert_never

from kontract.core import limits
from kontract.core.messages import (
    Aborted,
    Answer,
    Began,
    Begin,
    Busy,
    CheckSession,
    Committed,
    Conflict,
    Doubt,
    EndSession,
    Fenced,
    Finish,
    InDoubt,
    Key,
    Leave,
    Left,
    Noted,
    Predicate,
    Prepare,
    Prepared,
    Replayed,
    Request,
    SessionAlive,
    SessionEnded,
    Status,
    StatusReport,
    TooOld,
    Unready,
)
from kontract.core.protocol import idempotency, phases
from kontract.core.protocol.live import HeldBegin, Live
from kontract.core.protocol.phases import CoordinatorStage, Phase, PhaseEvent, ProtocolError, Turn
from kontract.core.protocol.records import (
    FINISHED,
    Drop,
    Effects,
    PutBlock,
    PutEnded,
    PutRecord,
    Record,
    Resolve,
    Ticket,
)
from kontract.core.protocol.reservations import WHOLE_TABLE, Reservations
from kontract.core.protocol.row_order import RowOrder
from kontract.core.protocol.witnesses import Witness, Witnesses
from kontract.core.protocol.write_log import WriteLog, touches
from kontract.core.types import Epoch, Isolation, Snapshot, Txid


class Coordinator:
    """State of one owner's transactions. All times are milliseconds of the shell's wall clock."""

    def __init__(
        self,
        epoch: int,
        last_txid: int,
        journal: Iterable[Record] = (),
        ended: Mapping[str, int] | None = None,
        *,
        in_charge: bool = True,
        witnesses: Iterable[Witness] = (),
    ) -> None:
        """Start above ``last_txid``: the highest txid that the journal, its block, or the database knows.

        ``journal``: the records of an earlier life of this coordinator, in any order. Its prepared transactions are
        resolved first (:meth:`recover`); begins wait for that, so that nobody gets a snapshot older than one handed out
        before the restart. ``ended``: the sessions that were ended, each with the time it may be forgotten.
        ``in_charge``: the epoch has just been read from the database, or raised there. ``witnesses``: fences that a
        database must have which is not older than the journal.
        """
        self.epoch = Epoch(epoch)
        self.since: int | None = None  # when the journal began; None: it knows every call that was ever made
        self.stage = CoordinatorStage.RECOVERING
        self._out = Effects()
        # Both in txid order. Of what has finished above an unfinished one there may be thousands; taken from the front
        # of a plain dict, they would leave gaps that every look at its first entry has to cross.
        self._live: OrderedDict[int, Live] = OrderedDict()
        self._unfinished: dict[int, Live] = {}  # those of _live that have not finished: limits.PREPARED at most
        self._by_call: dict[str, int] = {}
        self._locks: dict[Key, int] = {}
        self._held: list[HeldBegin] = []
        self._ended = dict(ended or {})
        self.witnesses = Witnesses(witnesses)
        self._snapshots: dict[int, int] = {}  # snapshot -> when it was handed out last, oldest first
        self._reservations = Reservations()
        self._row_order: RowOrder | None = None
        self._last_trim = 0
        self._superseded_by = 0
        self._in_charge = in_charge
        self._in_charge_at: int | None = None  # when the epoch row was last known to be ours
        self._asked_epoch_at: int | None = None

        highest = last_txid
        for record in sorted(journal, key=lambda r: r.txid):
            highest = max(highest, record.txid)
            if Phase(record.phase) not in FINISHED:
                self._hold(Live(record, Phase(record.phase)))
        self._next_txid = highest + 1
        self._block_end = 0  # the first prepare reserves a block
        # What finished before the restart is not known in detail: only snapshots that include all of it are valid.
        self._log = WriteLog(floor=highest)
        self._recover_up_to = highest

    def set_row_order(self, last: Mapping[str, int], *, journalled: bool = False) -> None:
        """Number new rows above ``last``, by table. Call before :meth:`recover`; without it, sequences number them."""
        self._row_order = RowOrder(last)
        if not journalled:
            self._out.journal += [*self._row_order.entries(), PutBlock(self.highest_txid)]

    # --- what a shell calls ------------------------------------------------------------------------------------------

    def recover(self, now: int) -> Effects:
        """Ask for the outcome of everything the journal left prepared. Call once, before anything else."""
        if self._in_charge:
            self._in_charge_at = now
        for live in self._live.values():
            self._move(live, PhaseEvent.OVERDUE)
            self._ask(live, now)
        self._settle_recovery()
        return self._flush(now)

    def handle(self, ticket: Ticket, request: Request, now: int, known: Record | None = None) -> Effects:
        """Take one message. ``known``: for idempotent calls, the newest journal record of the same call."""
        if self.stage is CoordinatorStage.FENCED:
            self._answer(ticket, Fenced(self._superseded_by))
            return self._flush(now)
        match request:
            case Begin() | Prepare() if request.session in self._ended:
                self._answer(ticket, SessionEnded())
            case Begin():
                self._begin(ticket, request, now, known)
            case Prepare():
                self._prepare(ticket, request, now, known)
            case Finish():
                self._finish(ticket, request, now)
            case Leave():
                self._reservations.release(request.call)
                self._answer(ticket, Left())
            case EndSession():
                self._ended[request.session] = request.until
                self._out.journal.append(PutEnded(request.session, request.until))
                self._answer(ticket, SessionEnded())
            case Doubt():  # show nothing more before the database has said again that it is the one that it was
                self._in_charge_at = None
                self._ask_epoch(now)
                self._answer(ticket, Noted())
            case CheckSession():
                self._answer(ticket, SessionEnded() if request.session in self._ended else SessionAlive())
            case Status():
                self._answer(ticket, self._status())
            case _:
                assert_never(request)
        return self._flush(now)

    def resolved(self, txid: int, fence: int | None, now: int) -> Effects:
        """Take what the fence of ``txid`` holds: its create_txid, or None when the database did not answer."""
        live = self._live.get(txid)
        if live is None or self.stage is CoordinatorStage.FENCED:
            return self._flush(now)
        live.resolving = False
        if fence is None:
            live.resolve_not_before = now + limits.RESOLVE_RETRY_MS
            self._move(live, PhaseEvent.FENCE_UNREADABLE)
            if live.phase not in FINISHED:
                for ticket, _ in live.waiters:
                    self._answer(ticket, InDoubt(Txid(txid)))
                live.waiters.clear()
            if self.stage is CoordinatorStage.RECOVERING:
                self._refuse_held(Unready())
        elif fence == txid:
            self._settle(live, PhaseEvent.FENCE_OURS, now)
        else:
            if fence > 0:
                # Only without its journal can a coordinator prepare an idempotent call again that has been applied.
                for ticket, _ in live.waiters:
                    self._answer(ticket, Replayed(Txid(fence), None))
                live.waiters.clear()
                live.record.number -= 1  # the fence is in use by that commit: the next repetition must meet it again
            self._settle(live, PhaseEvent.FENCE_VOID, now)
        return self._flush(now)

    def epoch_read(self, current: int | None, now: int) -> Effects:
        """Take what the epoch row holds, None when the database did not answer.

        A higher one than ours ends this coordinator's work. A lower one is from before it was raised to ours, and old.
        """
        asked_at, self._asked_epoch_at = self._asked_epoch_at, None
        if current is None:
            if asked_at is not None:
                self._refuse_held(Unready())
        elif current == self.epoch:
            if asked_at is not None:
                self._in_charge_at = asked_at
        elif current > self.epoch:
            self._superseded_by = current
            return self.stop(Fenced(current), now)
        return self._flush(now)

    def stop(self, answer: Answer, now: int) -> Effects:
        """End this coordinator's work: everybody who waits gets this answer."""
        self.stage = phases.next_stage(self.stage, Turn.SUPERSEDED)
        for live in self._live.values():
            for ticket, _ in live.waiters:
                self._answer(ticket, answer)
            live.waiters.clear()
        self._refuse_held(answer)
        return self._flush(now)

    def tick(self, now: int) -> Effects:
        """Do what is due by now: deadlines, waiters' patience, reservations, held begins, forgetting."""
        if self.stage is not CoordinatorStage.FENCED:
            self._doubt_overdue(now)
            for held in self._held:
                self._reservations.is_next(held.message.call, now)  # it still waits
            self._reservations.expire(now)
            self._trim(now)
        return self._flush(now)

    def forget_caller(self, ticket: Ticket) -> None:
        """Stop waiting on behalf of a caller that has gone."""
        self._held = [held for held in self._held if held.ticket != ticket]
        for live in self._live.values():
            live.waiters = [(other, since) for other, since in live.waiters if other != ticket]

    def next_tick(self) -> int | None:
        """When :meth:`tick` has something to do, in milliseconds; None: only when somebody calls."""
        if self.stage is CoordinatorStage.FENCED:
            return None
        times: list[int] = []
        waited_for = self._highest_waited_for()
        for txid, live in self._unfinished.items():
            if live.resolving:
                continue
            due = live.record.deadline
            if live.phase is Phase.DOUBTED:
                due = 0
            elif txid <= waited_for:
                due = min(due, live.record.prepared_at + limits.WAITERS_PATIENCE_MS)
            times.append(max(due, live.resolve_not_before))
        if self.stage is CoordinatorStage.SERVING and self._asked_epoch_at is None:
            times.extend(held.since + limits.VISIBILITY_WAIT_MS for held in self._held)
        expiry = self._reservations.next_expiry()
        if expiry is not None:
            times.append(expiry)
        return min(times, default=None)

    def has_ended(self, session: str) -> bool:
        """Whether a session was ended."""
        return session in self._ended

    def was_in_charge(self, now: int) -> bool:
        """Whether the database has said within EPOCH_TRUST_MS that this coordinator's epoch and witnesses are there."""
        return self._in_charge_at is not None and now - self._in_charge_at < limits.EPOCH_TRUST_MS

    @property
    def ended_sessions(self) -> dict[str, int]:
        """The sessions that were ended, each with the time when it may be forgotten."""
        return dict(self._ended)

    @property
    def watermark(self) -> Snapshot:
        """``W``: the highest txid at and below which everything has finished."""
        return Snapshot(self._watermark())

    @property
    def oldest_snapshot(self) -> Snapshot:
        """The oldest snapshot that may still be in use; no version visible to it may be collected."""
        return Snapshot(next(iter(self._snapshots), self._watermark()))

    @property
    def highest_txid(self) -> Txid:
        """The highest txid that may have been given."""
        return Txid(max(self._next_txid - 1, self._block_end))

    @property
    def row_order(self) -> dict[str, int]:
        """The highest number given to a row, by table."""
        return self._row_order.dump() if self._row_order is not None else {}

    @property
    def knows_row_order(self) -> bool:
        """Whether it numbers new rows."""
        return self._row_order is not None

    @property
    def unfinished(self) -> int:
        """How many transactions are prepared or in doubt."""
        return len(self._unfinished)

    # --- begin -------------------------------------------------------------------------------------------------------

    def _begin(self, ticket: Ticket, message: Begin, now: int, known: Record | None) -> None:
        if message.idempotent and self._replay(ticket, message.call, known):
            return
        held = HeldBegin(ticket, message, now)
        if not self._try_begin(held, now):
            self._held.append(held)

    def _try_begin(self, held: HeldBegin, now: int) -> bool:
        if self.stage is CoordinatorStage.RECOVERING:
            return False
        waited_enough = now - held.since >= limits.VISIBILITY_WAIT_MS
        behind = self._watermark() < min(held.message.after, self._next_txid - 1)
        # The second check must run even when the first decides: it is what starts the time of a reservation.
        not_my_turn = not self._reservations.is_next(held.message.call, now)
        if (behind or not_my_turn) and not waited_enough:
            return False
        if not self._may_show(now):
            return False
        snapshot = self._watermark()
        self._snapshots.pop(snapshot, None)  # move to the end: the order is that of time and of number alike
        self._snapshots[snapshot] = now
        self._answer(held.ticket, self._began(held.message, snapshot, now))
        return True

    def _began(self, message: Begin, snapshot: int, now: int) -> Began:
        unsure = message.idempotent and idempotency.may_be_older(message.call, self.since, now)
        return Began(Snapshot(snapshot), self.epoch, unsure)

    def _may_show(self, now: int) -> bool:
        """Whether we were in charge recently enough; else the epoch row is asked, and begins wait for the answer."""
        if self.was_in_charge(now):
            return True
        if self._asked_epoch_at is None:
            self._ask_epoch(now)
        return False

    # --- prepare -----------------------------------------------------------------------------------------------------

    def _prepare(self, ticket: Ticket, message: Prepare, now: int, known: Record | None) -> None:
        if message.idempotent and self._replay(ticket, message.call, known):
            return
        if self.unfinished >= limits.PREPARED:
            self._answer(ticket, Busy())
            return
        if message.snapshot is not None and (message.epoch != self.epoch or message.snapshot < self._log.floor):
            self._answer(ticket, TooOld())
            return
        conflict = self._validate(message)
        if conflict is not None:
            self._lost(message, conflict, now)
            self._answer(ticket, conflict)
            return

        order: dict[str, int] = {}
        if self._row_order is not None:
            order, entries = self._row_order.give(message.writes, message.order)
            self._out.journal += entries
        txid = self._next_txid
        self._next_txid += 1
        if txid > self._block_end:
            self._block_end = txid + limits.TXID_BLOCK - 1
            self._out.journal.append(PutBlock(self._block_end))
        number = message.attempt
        if message.idempotent:
            # Numbered by fences in use, so that a coordinator which lost its journal meets the fences of before.
            number = known.number + 1 if known is not None else 1
        record = Record(
            txid=txid,
            sid=f"{message.call}/{number}",
            call=message.call,
            user=message.user,
            phase=Phase.PREPARED.value,
            prepared_at=now,
            deadline=now + limits.APPLY_DEADLINE_MS,
            writes=message.writes,
            number=number,
            idempotent=message.idempotent,
            result=message.result,
        )
        witnesses = self.witnesses.sids(now)
        self._hold(Live(record, Phase.PREPARED, witnesses=witnesses))
        self._out.journal.append(PutRecord(record))
        self._answer(ticket, Prepared(Txid(txid), record.sid, self.epoch, order, witnesses))

    def _validate(self, message: Prepare) -> Conflict | None:
        written = [Key(write.ptr, write.id) for write in message.writes]
        reserved = self._reservations.contested(written, message.call)
        if reserved is not None:
            return Conflict(reserved.ptr, self._watermark(), reserved.id or None, reserved=True)

        serializable = message.isolation == Isolation.SERIALIZABLE.value
        checked = [*written, *message.reads] if serializable else written
        for key in checked:
            holder = self._locks.get(key)
            if holder is not None:
                return Conflict(key.ptr, holder, key.id)
        if message.snapshot is None:
            return None
        for key in checked:
            last = self._log.last_writer(key)
            if last > message.snapshot:
                return Conflict(key.ptr, last, key.id)
        if serializable:
            for predicate in message.predicates:
                lost_to = self._predicate_conflict(predicate, message.snapshot)
                if lost_to is not None:
                    return Conflict(predicate.ptr, lost_to)
        return None

    def _predicate_conflict(self, predicate: Predicate, snapshot: int) -> int | None:
        for txid, live in self._unfinished.items():
            if any(touches(predicate, write) for write in live.record.writes):
                return txid
        touched = self._log.first_touch(predicate, snapshot)
        return touched[0] if touched is not None else None

    def _lost(self, message: Prepare, conflict: Conflict, now: int) -> None:
        """Give a caller that lost a place in line for what it works on."""
        if message.attempt < limits.CONFLICTS_BEFORE_RESERVING and not conflict.reserved:
            return
        keys = [Key(write.ptr, write.id) for write in message.writes]
        keys += [key for key in message.reads if key not in keys]
        if conflict.id is None:
            keys = [Key(p.ptr, WHOLE_TABLE) for p in message.predicates] + keys
        self._reservations.reserve(message.call, keys, now)

    # --- finish ------------------------------------------------------------------------------------------------------

    def _finish(self, ticket: Ticket, message: Finish, now: int) -> None:
        live = self._live.get(message.txid)
        if live is None or message.epoch != self.epoch:
            self._answer_for_the_past(ticket, message)
            return
        live.waiters.append((ticket, now))
        if message.applied:
            # The apply statement has met our epoch, some time after it was prepared.
            self._in_charge_at = max(self._in_charge_at or 0, live.record.prepared_at)
            if not message.checked:
                live.witnesses = []
            self._settle(live, PhaseEvent.APPLIED, now)
            return
        self._move(live, PhaseEvent.FAILED)
        if live.phase in FINISHED:
            self._settle(live, PhaseEvent.FAILED, now)
            return
        if message.fenced:
            self._ask_epoch(now)
        self._ask(live, now)

    def _answer_for_the_past(self, ticket: Ticket, message: Finish) -> None:
        """Answer a finish that is repeated after its transaction was settled, or that belongs to another epoch."""
        if message.epoch == self.epoch and message.txid >= self._next_txid:
            error = f"transaction {message.txid} was never prepared"
            raise ProtocolError(error)
        if message.applied:
            self._answer(ticket, Committed(Txid(message.txid)))
        else:
            self._answer(ticket, InDoubt(Txid(message.txid)))

    def _settle(self, live: Live, event: PhaseEvent, now: int) -> None:
        was_finished = live.phase in FINISHED
        self._move(live, event)
        if not was_finished:
            record = live.record
            del self._unfinished[record.txid]
            record.phase = live.phase.value
            record.settled_at = now
            for write in record.writes:
                self._locks.pop(Key(write.ptr, write.id), None)
            if live.phase is Phase.COMMITTED:
                self.witnesses.add(record, live.witnesses if event is PhaseEvent.APPLIED else ())
                self._log.add(record.txid, record.writes)
                self._log.trim(oldest_snapshot=0)  # only what is over the bounds; the rest is left to tick
                self._reservations.release(record.call)
            self._out.journal.append(PutRecord(record))
        if live.phase is Phase.ABORTED:
            # It has nothing to become visible: its caller need not wait for others.
            for ticket, _ in live.waiters:
                self._answer(ticket, Aborted(Txid(live.record.txid)))
            live.waiters.clear()
        self._advance()
        self._settle_recovery()

    def _advance(self) -> None:
        """Publish and answer everything at or below the watermark, in txid order."""
        while self._live:
            txid, live = next(iter(self._live.items()))
            if live.phase not in FINISHED:
                return
            del self._live[txid]
            if self._by_call.get(live.record.call) == txid:
                del self._by_call[live.record.call]
            if live.phase is Phase.COMMITTED:
                self._out.published.append(live.record)
                for ticket, _ in live.waiters:
                    self._answer(ticket, Committed(Txid(txid)))

    # --- idempotent calls --------------------------------------------------------------------------------------------

    def _replay(self, ticket: Ticket, call: str, known: Record | None) -> bool:
        """Answer a repeated call with its first result, or refuse it while the first one is under way."""
        under_way = self._by_call.get(call)
        if under_way is not None:
            live = self._live[under_way]
            if live.phase is Phase.ABORTED:
                return False
            # Also when it has committed, but is not visible yet: the repetition comes back when it is.
            self._answer(ticket, Conflict(live.record.writes[0].ptr, under_way, reserved=True))
            return True
        if known is not None and known.phase == Phase.COMMITTED.value:
            self._answer(ticket, Replayed(Txid(known.txid), known.result))
            return True
        return False

    # --- time --------------------------------------------------------------------------------------------------------

    def _doubt_overdue(self, now: int) -> None:
        waited_for = self._highest_waited_for()
        for txid, live in self._unfinished.items():
            if live.resolving or now < live.resolve_not_before:
                continue
            overdue = now >= live.record.deadline
            patience = txid <= waited_for and now - live.record.prepared_at >= limits.WAITERS_PATIENCE_MS
            if overdue or patience or live.phase is Phase.DOUBTED:
                self._move(live, PhaseEvent.OVERDUE)
                self._ask(live, now)

    def _highest_waited_for(self) -> int:
        """Return the highest txid that somebody waits to become visible; 0 when nobody waits."""
        highest = max((min(held.message.after, self._next_txid - 1) for held in self._held), default=0)
        for txid in reversed(self._live):
            if self._live[txid].waiters:
                highest = max(highest, txid)
                break
        if self._held and self.stage is CoordinatorStage.RECOVERING:
            highest = self._next_txid
        return highest

    def _trim(self, now: int) -> None:
        expired = takewhile(lambda entry: now - entry[1] >= limits.LEASE_MS, self._snapshots.items())
        for snapshot, _ in list(expired):
            del self._snapshots[snapshot]
        self._log.trim(self.oldest_snapshot)
        if now - self._last_trim >= limits.LEASE_MS:
            self._last_trim = now
            self._ended = {session: until for session, until in self._ended.items() if until > now}
            self._out.journal.append(
                Drop(
                    below_txid=self._watermark() - limits.EVENT_LOG_TRANSACTIONS,
                    settled_before=now - limits.EVENT_LOG_MS,
                    idempotent_before=now - limits.FENCE_RETENTION_MS,
                    now=now,
                    keep=[witness.txid for witness in self.witnesses.all],
                )
            )

    def _hold(self, live: Live) -> None:
        record = live.record
        self._live[record.txid] = live
        if record.idempotent:
            self._by_call[record.call] = record.txid
        if live.phase not in FINISHED:
            self._unfinished[record.txid] = live
            for write in record.writes:
                self._locks[Key(write.ptr, write.id)] = record.txid

    def _move(self, live: Live, event: PhaseEvent) -> None:
        live.phase = phases.next_phase(live.phase, event)

    def _ask(self, live: Live, now: int) -> None:
        if not live.resolving and now >= live.resolve_not_before:
            live.resolving = True
            live.asked_at = now
            self._out.resolve.append(Resolve(live.record.sid, live.record.txid))

    def _ask_epoch(self, now: int) -> None:
        self._out.check_epoch = True
        if self._asked_epoch_at is None:
            self._asked_epoch_at = now

    def _refuse_held(self, answer: Answer) -> None:
        for held in self._held:
            self._answer(held.ticket, answer)
        self._held.clear()

    def _answer(self, ticket: Ticket, answer: Answer) -> None:
        self._out.answers.append((ticket, answer))

    def _watermark(self) -> int:
        return next(iter(self._unfinished), self._next_txid) - 1

    def _settle_recovery(self) -> None:
        if self.stage is CoordinatorStage.RECOVERING and self._watermark() >= self._recover_up_to:
            self.stage = phases.next_stage(self.stage, Turn.SETTLED)

    def _flush(self, now: int) -> Effects:
        if self._held:
            self._held = [held for held in self._held if not self._try_begin(held, now)]
        out, self._out = self._out, Effects()
        return out

    def _status(self) -> StatusReport:
        return StatusReport(
            epoch=self.epoch,
            next_txid=self._next_txid,
            watermark=self._watermark(),
            prepared=self.unfinished,
            write_log=len(self._log),
            reservations=len(self._reservations),
            oldest_snapshot=self.oldest_snapshot,
            fenced=self.stage is CoordinatorStage.FENCED,
        )
