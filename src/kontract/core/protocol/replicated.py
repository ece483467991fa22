"""The coordinator as several nodes run it: all replay the same log of commands, so all are in the same state.

What the state depends on is the log alone, never on what one node was asked besides: snapshots that nodes hand out on
their own (:meth:`ReplicatedCoordinator.look`) leave no trace. So every watermark counts as given while it was the
newest, and is kept for LEASE_MS after that. If a node dies before it answers a question to the database, another node
asks it after :data:`LOST_MS`. The whole state can be dumped (:meth:`ReplicatedCoordinator.dump`) for nodes that join.
"""

from __future__ import annotations

from msgspec import Struct

from kontract.core.messages import Answer, Begin, CheckSession, Key, SessionAlive, SessionEnded, Write
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.live import HeldBegin, Live
from kontract.core.protocol.phases import CoordinatorStage, PhaseEvent
from kontract.core.protocol.records import Effects
from kontract.core.protocol.reservations import Place, Reservations
from kontract.core.protocol.row_order import RowOrder
from kontract.core.protocol.witnesses import Witness, Witnesses
from kontract.core.protocol.write_log import WriteLog
from kontract.core.types import Epoch

LOST_MS = 8_000
"""When an unanswered question to the database is asked again, perhaps by another node: longer than a statement and its
connection take."""

TRIM_MS = 5_000
"""How often outdated state is dropped, if anything happens at all."""


class State(Struct):
    """All of a coordinator's state, for a checkpoint."""

    epoch: int
    stage: CoordinatorStage
    next_txid: int
    recover_up_to: int
    superseded_by: int
    in_charge_at: int | None
    asked_epoch_at: int | None
    last_trim: int
    last_tick: int
    shown: int
    live: list[Live]
    held: list[HeldBegin]
    ended: dict[str, int]
    snapshots: list[tuple[int, int]]
    line: list[Place]
    floor: int
    finished: list[tuple[int, list[Key], int]]
    by_table: dict[str, list[tuple[int, list[Write]]]]
    order: dict[str, int] | None = None
    witnesses: list[Witness] = []


class ReplicatedCoordinator(Coordinator):
    """A coordinator whose calls come from a log. Time comes from the log and never goes back."""

    def __init__(self, epoch: int, last_txid: int, *, in_charge: bool = True) -> None:
        """Start above ``last_txid``. ``in_charge``: the epoch has just been raised; otherwise it is about to be."""
        super().__init__(epoch, last_txid, in_charge=in_charge)
        self._shown = self._watermark()
        self._last_tick = 0

    # --- without a trace ---------------------------------------------------------------------------------------------

    def look(self, request: Begin | CheckSession, now: int) -> Answer | None:
        """Answer a message that leaves no trace, on a node that is caught up; None: it has to go through the log."""
        if self.stage is not CoordinatorStage.SERVING:
            return None
        if request.session in self._ended:
            return SessionEnded()
        if isinstance(request, CheckSession):
            return SessionAlive()
        watermark = self._watermark()
        if watermark < min(request.after, self._next_txid - 1) or request.call in self._reservations:
            return None
        if not self.was_in_charge(now):
            return None
        return self._began(request, watermark, now)

    def under_way(self, call: str) -> bool:
        """Return whether an idempotent call has been prepared but is not visible yet."""
        return call in self._by_call

    @property
    def is_waited_for(self) -> bool:
        """Return whether something is unfinished or waited for: then the node has to follow the log."""
        return bool(self._unfinished or self._held or self._live)

    # --- with the log's time -----------------------------------------------------------------------------------------

    def advance(self, now: int) -> Effects:
        """Do what is due. Called for every entry of the log, before its commands."""
        due = self.next_tick()
        if (due is None or due > now) and now - self._last_tick < TRIM_MS:
            return Effects()
        self._last_tick = now
        for live in self._unfinished.values():
            if live.resolving and now - live.asked_at >= LOST_MS:
                live.resolving = False
        if self._asked_epoch_at is not None and now - self._asked_epoch_at >= LOST_MS:
            self._asked_epoch_at = None
        return self.tick(now)

    def next_tick(self) -> int | None:
        """As for every coordinator; an unanswered question is due again after LOST_MS."""
        if self.stage is CoordinatorStage.FENCED:
            return None
        times = [live.asked_at + LOST_MS for live in self._unfinished.values() if live.resolving]
        if self._asked_epoch_at is not None and self._held:
            times.append(self._asked_epoch_at + LOST_MS)
        due = super().next_tick()
        if due is not None:
            times.append(due)
        return min(times, default=None)

    def take_over(
        self, epoch: int, last_txid: int, order: dict[str, int] | None, now: int, *, in_charge: bool = True
    ) -> Effects:
        """Continue in a new epoch that a node has raised, above ``last_txid``. Epochs older than ours are ignored.

        Not yet ``in_charge``: the epoch is about to be written to the database. Until then, transactions of older
        epochs may still be applied, so no snapshot is given.

        Waiting callers keep waiting; everything prepared is resolved first, as after a start. ``order``: the row
        numbers in that epoch; None if the node's release does not know them.
        """
        if epoch <= self.epoch:
            return self._flush(now)
        self.epoch = Epoch(epoch)
        self._row_order = None if order is None else RowOrder(order)
        self.witnesses = Witnesses()
        self._restart(max(last_txid, self._next_txid - 1), now)
        if not in_charge:
            self._in_charge_at = None
        return self._flush(now)

    def start_again(self, now: int) -> Effects:
        """Drop everything that a journal would not hold: after a contradiction, on all nodes alike."""
        self._restart(self._next_txid - 1, now)
        return self._flush(now)

    def _restart(self, last_txid: int, now: int) -> None:
        self.stage = CoordinatorStage.RECOVERING
        self._next_txid = last_txid + 1
        self._log = WriteLog(floor=last_txid)
        self._recover_up_to = last_txid
        self._reservations = Reservations()
        self._snapshots.clear()
        self._shown = self._watermark()
        self._in_charge_at, self._asked_epoch_at = now, None
        for live in self._unfinished.values():
            self._move(live, PhaseEvent.OVERDUE)
            live.resolving, live.resolve_not_before = False, 0
            self._ask(live, now)
        self._settle_recovery()

    def _flush(self, now: int) -> Effects:
        effects = super()._flush(now)
        watermark = self._watermark()
        if watermark != self._shown:
            # Any node may have given it until now.
            self._snapshots.pop(self._shown, None)
            self._snapshots[self._shown] = now
            self._shown = watermark
        return effects

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def dump(self) -> State:
        """Return everything; it shares its parts with this coordinator, so encode it before the next call."""
        finished, by_table = self._log.dump()
        return State(
            epoch=self.epoch,
            stage=self.stage,
            next_txid=self._next_txid,
            recover_up_to=self._recover_up_to,
            superseded_by=self._superseded_by,
            in_charge_at=self._in_charge_at,
            asked_epoch_at=self._asked_epoch_at,
            last_trim=self._last_trim,
            last_tick=self._last_tick,
            shown=self._shown,
            live=list(self._live.values()),
            held=self._held,
            ended=self._ended,
            snapshots=list(self._snapshots.items()),
            line=self._reservations.dump(),
            floor=self._log.floor,
            finished=finished,
            by_table=by_table,
            order=self._row_order.dump() if self._row_order is not None else None,
            witnesses=self.witnesses.all,
        )

    @classmethod
    def restore(cls, state: State) -> ReplicatedCoordinator:
        """Return a coordinator in the state that was dumped."""
        self = cls(state.epoch, state.next_txid - 1)
        self.stage = state.stage
        self._recover_up_to = state.recover_up_to
        self._superseded_by = state.superseded_by
        self._in_charge_at, self._asked_epoch_at = state.in_charge_at, state.asked_epoch_at
        self._last_trim, self._last_tick = state.last_trim, state.last_tick
        for live in state.live:
            self._hold(live)
        self._held = state.held
        self._ended = state.ended
        self._snapshots = dict(state.snapshots)
        self._reservations = Reservations(state.line)
        self._log = WriteLog(state.floor, state.finished, state.by_table)
        self._shown = state.shown
        if state.order is not None:
            self._row_order = RowOrder(state.order)
        self.witnesses = Witnesses(state.witnesses)
        return self
