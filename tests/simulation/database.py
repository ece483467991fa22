"""PostgreSQL as the protocol needs it: versions, fences, the epoch row, statements that take their time.

An apply statement has three moments: it is sent, it starts (epoch row FOR SHARE, fence inserted but not committed), it
ends (all or nothing). Its reply may be lost at any of them; then the worker learns no more than that it did not learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from kontract.core.sql import ApplyPlan
from kontract.core.types import Filter, Snapshot, TableKind, TablePointer, Version
from kontract.ports import ApplyOutcome, DatabaseUnavailableError
from simulation.kernel import Future, Kernel

TABLE = TablePointer("things", "things", TableKind.VERSIONED, 7)
decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Row:
    """One version of one row."""

    id: str
    data: str
    txid: int
    deleted: int | None = None

    def visible(self, snapshot: int) -> bool:
        return self.txid <= snapshot and (self.deleted is None or self.deleted > snapshot)


@dataclass(slots=True)
class Faults:
    """How likely each mishap is, from 0 to 1, and how long things take."""

    lose: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    slow_ms: float = 0.0
    fail_apply: float = 0.0
    lose_outcome: float = 0.0
    late_apply: float = 0.0
    unreadable: float = 0.0
    crash_coordinator: float = 0.0
    crash_worker: float = 0.0
    lose_journal: float = 0.0

    def delay(self, kernel: Kernel) -> float:
        dice = kernel.dice
        if self.slow and dice.random() < self.slow:
            return dice.random() * self.slow_ms
        return 0.2 + dice.random() * 2


class Database:
    """The tables, shared by all workers and the coordinator."""

    checks_fence = True
    checks_epoch = True
    checks_versions = True
    resolver_waits = True
    abort_writes_fence = True

    def __init__(self, kernel: Kernel, faults: Faults):
        self.kernel = kernel
        self.faults = faults
        self.rows: dict[str, list[Row]] = {}
        self.fences: dict[str, int] = {}
        self.epoch = 0
        self.executing: dict[str, Future] = {}
        self.raising: Future | None = None
        self.alarms: list[str] = []
        self.committed: list[tuple[int, str]] = []

    # --- reading -----------------------------------------------------------------------------------------------------

    def at(self, snapshot: int) -> dict[str, Row]:
        return {row_id: row for row_id, rows in self.rows.items() for row in rows if row.visible(snapshot)}

    def live(self, row_id: str) -> list[Row]:
        return [row for row in self.rows.get(row_id, ()) if row.deleted is None]

    # --- applying ----------------------------------------------------------------------------------------------------

    async def apply(self, plan: ApplyPlan, reply: Future):
        """One apply statement from its sending to its reply."""
        kernel, faults = self.kernel, self.faults
        late = kernel.chance(faults.late_apply)
        if late or kernel.chance(faults.lose_outcome):
            kernel.after(kernel.dice.random() * 300, lambda: reply.set(ApplyOutcome.FAILED))
        if kernel.chance(faults.lose):
            kernel.after(kernel.dice.random() * 1000, lambda: reply.set(ApplyOutcome.FAILED))
            return
        await kernel.sleep(kernel.dice.random() * 4000 if late else faults.delay(kernel))
        outcome = await self._execute(plan)
        kernel.note("apply", plan.sid, plan.txid, outcome.value)
        kernel.after(faults.delay(kernel), lambda: reply.set(outcome))

    async def _execute(self, plan: ApplyPlan) -> ApplyOutcome:
        kernel, faults = self.kernel, self.faults
        while self.raising is not None:
            await self.raising
        if self.checks_epoch and plan.epoch != self.epoch:
            return ApplyOutcome.FENCED
        while plan.sid in self.executing:
            await self.executing[plan.sid]
        if self.checks_fence and plan.sid in self.fences:
            return ApplyOutcome.FAILED
        mine = self.executing[plan.sid] = Future()
        await kernel.sleep(faults.delay(kernel))
        try:
            if kernel.chance(faults.fail_apply):
                return ApplyOutcome.FAILED
            return self._commit(plan)
        finally:
            if self.executing.get(plan.sid) is mine:
                del self.executing[plan.sid]
            mine.set()

    def _commit(self, plan: ApplyPlan) -> ApplyOutcome:
        writes = [write for _, writes in plan.writes for write in writes]
        new: list[Row] = []
        old: list[Row] = []
        for write in writes:
            live = self.live(write.id)
            if self.checks_versions:
                ended = [
                    row for row in live if (row.txid < plan.txid if write.seen is None else row.txid == write.seen)
                ]
                if (write.seen and not ended) or (not write.deletes and len(ended) < len(live)):
                    # The coordinator has validated: this second line of defence must never be needed.
                    self.alarms.append(f"{plan.sid} as {plan.txid} met another version of {write.id}")
                    return ApplyOutcome.FAILED
            else:
                ended = live
            old += ended
            if not write.deletes:
                new.append(Row(write.id, bytes(write.data).decode(), plan.txid))
        for row in old:
            row.deleted = plan.txid
        for row in new:
            self.rows.setdefault(row.id, []).append(row)
            if len(self.live(row.id)) != 1:
                self.alarms.append(f"{len(self.live(row.id))} live versions of {row.id}")
        self.fences[plan.sid] = plan.txid
        self.committed.append((plan.txid, plan.sid))
        return ApplyOutcome.APPLIED

    # --- the fence and the epoch -------------------------------------------------------------------------------------

    async def resolve(self, sid: str, txid: int, reply: Future):
        kernel, faults = self.kernel, self.faults
        if kernel.chance(faults.unreadable):
            kernel.after(kernel.dice.random() * 500, reply.set)
            if kernel.chance(0.5):
                return
        await kernel.sleep(faults.delay(kernel))
        while self.resolver_waits and sid in self.executing:
            await self.executing[sid]
        fence = self.fences.get(sid)
        if fence is None:
            fence = -txid
            if self.abort_writes_fence:
                self.fences[sid] = fence
        kernel.note("resolve", sid, txid, fence)
        kernel.after(faults.delay(kernel), lambda: reply.set(fence))

    async def take_over(self, at_least: int) -> tuple[int, int]:
        await self.kernel.sleep(self.faults.delay(self.kernel))
        raising = self.raising = Future()
        while self.executing:
            await next(iter(self.executing.values()))
        self.epoch = max(self.epoch + 1, at_least)
        self.raising = None
        raising.set()
        await self.kernel.sleep(self.faults.delay(self.kernel))
        highest = max((abs(txid) for txid in self.fences.values()), default=0)
        for rows in self.rows.values():
            highest = max([highest, *(max(row.txid, row.deleted or 0) for row in rows)])
        return self.epoch, highest


class Store:
    """One worker's connection: the Store port."""

    def __init__(self, database: Database, is_dead=lambda: False):
        self._database = database
        self._kernel = database.kernel
        self._is_dead = is_dead

    def warm(self):
        pass

    async def aclose(self):
        pass

    async def lookup(self, owner: str, name: str):
        return TABLE

    async def _there(self):
        if self._kernel.chance(self._database.faults.lose * 0.3):
            await self._kernel.sleep(50)
            raise DatabaseUnavailableError("connection lost")
        await self._kernel.sleep(self._database.faults.delay(self._kernel))

    async def read_row(self, _pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Version | None:
        await self._there()
        rows = [row for row in self._database.rows.get(row_id, ()) if row.visible(snapshot)]
        found = Version(row_id, rows[0].data, rows[0].txid, "") if rows else None
        await self._kernel.sleep(self._database.faults.delay(self._kernel))
        return found

    async def query(self, _pointer, wanted: Filter, snapshot: Snapshot, _page: Any, pending) -> list[Version]:
        await self._there()
        rows = {row_id: Version(row_id, r.data, r.txid, "") for row_id, r in self._database.at(snapshot).items()}
        for write in pending:
            rows.pop(write.id, None)
            if write.data is not None:
                rows[write.id] = Version(write.id, write.data, 0, "")
        contains = (wanted.contains or {}).items()
        found = [rows[row_id] for row_id in sorted(rows) if contains <= decode(rows[row_id].data).items()]
        await self._kernel.sleep(self._database.faults.delay(self._kernel))
        return found

    async def count(self, pointer, wanted: Filter, snapshot: Snapshot, pending) -> int:
        return len(await self.query(pointer, wanted, snapshot, None, pending))

    async def end_row(self, pointer, snapshot: Snapshot, pending, *, last: bool) -> Version | None:
        rows = await self.query(pointer, Filter(), snapshot, None, pending)
        return (rows[-1] if last else rows[0]) if rows else None

    async def apply(self, plan: ApplyPlan) -> ApplyOutcome:
        reply = Future()
        self._kernel.spawn(self._database.apply(plan, reply))
        if self._kernel.chance(self._database.faults.duplicate):  # a pooler or a driver that sends it again
            self._kernel.spawn(self._database.apply(plan, Future()))
        return await reply

    async def resolve(self, sid: str, owner: str, txid: int) -> int | None:
        reply = Future()
        self._kernel.spawn(self._database.resolve(sid, txid, reply))
        return await reply

    async def take_over(self, owner: str, at_least: int) -> tuple[int, int]:
        return await self._database.take_over(at_least)

    async def read_epoch(self, owner: str) -> int | None:
        await self._there()
        return self._database.epoch
