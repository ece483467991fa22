"""PostgreSQL as the protocol needs it: versions or plain rows, fences, the epoch row, statements that take their time.

A statement is sent, runs, and is answered; each of these may go wrong. An apply statement runs for a while: it starts
(epoch row FOR SHARE, fence inserted but not committed) and ends (all or nothing). What ``core/transaction/sql.py`` says
in SQL, :class:`Database` says in Python; ``tests/postgres`` compares the statements with a real server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from kontract.core import limits
from kontract.core.errors import ConflictError
from kontract.core.messages import Write
from kontract.core.statements import ApplyPlan
from kontract.core.types import Filter, Snapshot, TableKind, TablePointer, Version
from kontract.ports import ApplyOutcome, ApplyRefusedError, DatabaseUnavailableError, SnapshotTooOldError
from simulation.faults import Fault, Wires
from simulation.kernel import Future, Kernel, Process

decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Row:
    """One version of one row; in a plain table its only one."""

    id: str
    data: str
    txid: int
    deleted: int | None = None
    order: int = 0

    def visible(self, snapshot: int) -> bool:
        return self.txid <= snapshot and (self.deleted is None or self.deleted > snapshot)


class Commit(NamedTuple):
    """What an apply statement did, for the judges: ``current`` is the epoch in force at that moment.

    ``rows``: how many it wrote. None, but its fence, for an idempotent call that wrote nothing; no stream tells of it.
    """

    txid: int
    sid: str
    epoch: int
    current: int
    time: float
    rows: int


class StaleError(Exception):
    """A row is not as it was read: nothing is written."""


class Database:
    """The table, the fences and the epoch row, shared by all workers and coordinators."""

    checks_fence = True
    checks_epoch = True
    checks_versions = True
    resolver_waits = True
    abort_writes_fence = True
    refuses_old_snapshots = True
    compares_epochs = True
    sequence_follows = True
    looks_for_witnesses = True

    def __init__(self, kernel: Kernel, wires: Wires, kind: TableKind):
        self.kernel = kernel
        self.wires = wires
        self.table = TablePointer("things", "things", kind, 7)
        self.plain = kind is TableKind.PLAIN
        self.rows: dict[str, list[Row]] = {}
        self.sequence = 0  # of the column _order
        self.fences: dict[str, int] = {}
        self.results: dict[str, str | None] = {}
        self.epoch = 0
        self.executing: dict[str, Future] = {}
        self.sharing: dict[Future, None] = {}
        self.raising: Future | None = None
        self.life = 1  # servers that lost their place to an older copy take their connections with them
        self.past: list[tuple[Any, ...]] = []
        self.goes_back = False
        self.went_back_at: float | None = None
        self.left_epoch = 0
        self.lost: list[Commit] = []
        self.given = 0  # txids of before: who was prepared then may not have known what was lost
        self.must_notice = False
        self.noticed_at: float | None = None
        self.unnoticed: list[Commit] = []
        # For the judges; nothing is ever removed from these, unless the database goes back.
        self.alarms: list[str] = []
        self.commits: list[Commit] = []
        self.installed: dict[str, list[tuple[int, str | None]]] = {}
        self.collected = {"rows": 0, "fences": 0}

    # --- reading -----------------------------------------------------------------------------------------------------

    def at(self, snapshot: int) -> dict[str, Row]:
        return {row_id: row for row_id, rows in self.rows.items() for row in rows if row.visible(snapshot)}

    def live(self, row_id: str) -> list[Row]:
        return [row for row in self.rows.get(row_id, ()) if row.deleted is None]

    def refuse_old(self, snapshot: int, row_id: str | None = None):
        """A plain row newer than the snapshot has overwritten what the snapshot would show."""
        if not self.plain or not self.refuses_old_snapshots:
            return
        places = self.rows.values() if row_id is None else [self.rows.get(row_id, [])]
        if any(row.txid > snapshot for rows in places for row in rows):
            raise SnapshotTooOldError

    # --- applying ----------------------------------------------------------------------------------------------------

    async def apply(self, plan: ApplyPlan, worker: Process, crash: Callable[[], None]) -> ApplyOutcome:
        while self.raising is not None:
            await self.raising
        if self.checks_epoch and plan.epoch != self.epoch:
            return ApplyOutcome.FENCED
        if self.looks_for_witnesses and any(self.fences.get(sid, 0) <= 0 for sid in plan.witnesses):
            return ApplyOutcome.WENT_BACK
        shares = Future()  # the epoch row: whoever raises it waits for all who read it
        self.sharing[shares] = None
        try:
            return await self._apply(plan, worker, crash)
        finally:
            self.sharing.pop(shares, None)
            shares.set()

    async def _apply(self, plan: ApplyPlan, worker: Process, crash: Callable[[], None]) -> ApplyOutcome:
        while plan.sid in self.executing:
            await self.executing[plan.sid]
        if self.checks_fence and plan.sid in self.fences:
            raise ApplyRefusedError(None)
        mine = self.executing[plan.sid] = Future()
        fate, life = self.wires.fate, self.life
        fault = fate.at("apply runs", "apply")
        await self.kernel.sleep(limits.STATEMENT_MS - 500 if fault is Fault.SLOW else fate.delay())
        if fault in (Fault.WORKER_BEFORE, Fault.COORDINATOR_BEFORE):
            (worker.die if fault is Fault.WORKER_BEFORE else crash)()
        try:
            if life != self.life:
                return ApplyOutcome.FAILED
            if fault in (Fault.FAILS, Fault.REFUSED):
                raise ApplyRefusedError(None if fault is Fault.FAILS else ConflictError("there is such a row already"))
            self._commit(plan)
        finally:
            if self.executing.get(plan.sid) is mine:
                del self.executing[plan.sid]
            mine.set()
        self.kernel.note("apply", plan.sid, plan.txid)
        if fault in (Fault.WORKER_AFTER, Fault.COORDINATOR_AFTER):
            (worker.die if fault is Fault.WORKER_AFTER else crash)()
        return ApplyOutcome.APPLIED

    def _places(self, plan: ApplyPlan, writes: list[Write]) -> dict[str, int]:
        """The numbers of rows that may be new: the coordinator's, else the sequence's, in the order of execution."""
        new = [write.id for write in writes if write.may_insert]
        first = plan.order.get(self.table.ptr, self.sequence + 1)
        if new and (self.sequence_follows or not plan.order):
            self.sequence = max(self.sequence, first + len(new) - 1)
        return {row_id: first + n for n, row_id in enumerate(new)}

    def go_back(self, commits: int) -> list[Commit]:
        """Be as before the last few commits, but not before the first; returns what is lost."""
        kept = max(1, len(self.past) - commits)
        if kept >= len(self.past):
            return []
        state, self.past = self.past[kept], self.past[:kept]
        self.rows = {key: [replace(row) for row in rows] for key, rows in state[0].items()}
        self.fences, self.results, epoch, self.installed, count = dict(state[1]), dict(state[2]), *state[3:]
        lost, self.commits = self.commits[count:], self.commits[:count]
        self.left_epoch, self.epoch = self.epoch, epoch
        self.life += 1
        waited_for = [*self.executing.values(), *self.sharing, *([self.raising] if self.raising else [])]
        self.executing, self.sharing, self.raising = {}, {}, None
        for future in waited_for:
            future.set()
        self.lost += lost
        self.went_back_at = self.kernel.now
        self.kernel.note("went back", kept, [commit.sid for commit in lost])
        return lost

    def _remember(self):
        rows = {key: [replace(row) for row in rows] for key, rows in self.rows.items()}
        installed = {key: list(each) for key, each in self.installed.items()}
        self.past.append((rows, dict(self.fences), dict(self.results), self.epoch, installed, len(self.commits)))

    def _commit(self, plan: ApplyPlan):
        if self.goes_back:
            self._remember()
        writes = [write for _, writes in plan.writes for write in writes]
        places = self._places(plan, writes)
        step_of = self._plain if self.plain else self._versioned
        try:
            steps = [step_of(write, plan.txid, places.get(write.id, 0)) for write in writes]
        except StaleError:
            # The coordinator has validated: this second line of defence must never be needed.
            self.alarms.append(f"stale: {plan.sid} as {plan.txid} met other rows than it had read")
            raise ApplyRefusedError(None) from None
        for step in steps:
            step()
        for write in writes:
            data = None if write.deletes else bytes(write.data).decode()
            self.installed.setdefault(write.id, []).append((plan.txid, data))
            if len(self.live(write.id)) > 1:
                self.alarms.append(f"two live versions: of {write.id}")
        self.fences[plan.sid] = plan.txid
        self.results[plan.sid] = plan.result
        commit = Commit(plan.txid, plan.sid, plan.epoch, self.epoch, self.kernel.now, len(writes))
        if self.must_notice and plan.epoch <= self.left_epoch and plan.txid > self.given:
            self.unnoticed.append(commit)
        self.commits.append(commit)

    def _versioned(self, write: Write, txid: int, place: int) -> Callable[[], None]:
        live = self.live(write.id)
        ended = [row for row in live if (row.txid < txid if write.seen is None else row.txid == write.seen)]
        if not self.checks_versions:
            ended = live
        elif (write.seen and not ended) or (not write.deletes and len(ended) < len(live)):
            raise StaleError

        def step():
            for row in ended:
                row.deleted = txid
            if not write.deletes:
                order = ended[0].order if ended else place
                self.rows.setdefault(write.id, []).append(Row(write.id, bytes(write.data).decode(), txid, None, order))

        return step

    def _plain(self, write: Write, txid: int, place: int) -> Callable[[], None]:
        rows = self.rows.get(write.id, [])
        taken = [row for row in rows if self._takes(write, row, txid)] if self.checks_versions else rows
        if (write.seen and not taken) or (not write.deletes and len(taken) < len(rows)):
            raise StaleError

        def step():
            for row in taken:
                if write.deletes:
                    row.deleted = txid  # a tombstone: older snapshots still see the row
                else:
                    row.order = row.order if row.deleted is None else place
                    row.data, row.txid, row.deleted = bytes(write.data).decode(), txid, None
            if not write.deletes and not taken:
                self.rows[write.id] = [Row(write.id, bytes(write.data).decode(), txid, None, place)]

        return step

    @staticmethod
    def _takes(write: Write, row: Row, txid: int) -> bool:
        if row.txid >= txid or (row.deleted or 0) >= txid:
            return False
        if write.seen is None:
            return not write.deletes or row.deleted is None
        if write.seen == 0:
            return row.deleted is not None
        return row.deleted is None and row.txid == write.seen

    # --- the fence and the epoch -------------------------------------------------------------------------------------

    async def resolve(self, sid: str, txid: int) -> int:
        while self.resolver_waits and sid in self.executing:
            await self.executing[sid]
        fence = self.fences.get(sid)
        if fence is None:
            fence = -txid
            if self.abort_writes_fence:
                self.fences[sid] = fence
        self.kernel.note("resolve", sid, txid, fence)
        return fence

    async def raise_epoch(self, epoch: int, before: int) -> int | None:
        while self.raising is not None:
            await self.raising
        raising = self.raising = Future()
        while self.sharing:
            await next(iter(self.sharing))
        raised = self.epoch == before or not self.compares_epochs
        if raised:
            if self.went_back_at is not None and epoch > self.left_epoch:
                self.noticed_at = self.noticed_at or self.kernel.now
            self.epoch = epoch if self.compares_epochs else max(self.epoch + 1, epoch)
        self.raising = None
        raising.set()
        self.kernel.note("epoch", self.epoch, raised)
        return self.epoch if raised else None

    def highest_fence(self) -> int:
        return max((abs(txid) for txid in self.fences.values()), default=0)

    def highest_txid(self) -> int:
        highest = self.highest_fence()
        for rows in self.rows.values():
            highest = max([highest, *(max(row.txid, row.deleted or 0) for row in rows)])
        return highest

    # --- collection --------------------------------------------------------------------------------------------------

    def collect_versions(self, epoch: int, up_to: int) -> int | None:
        if epoch != self.epoch:
            return None
        dead = [row for rows in self.rows.values() for row in rows if row.deleted is not None and row.deleted <= up_to]
        for row in dead[: limits.COLLECT_ROWS]:
            self.rows[row.id].remove(row)
            if not self.rows[row.id]:
                del self.rows[row.id]
        return self._removed("rows", dead, up_to)

    def collect_fences(self, epoch: int, up_to: int) -> int | None:
        if epoch != self.epoch:
            return None
        old = [sid for sid, txid in self.fences.items() if abs(txid) <= up_to]
        for sid in old[: limits.COLLECT_ROWS]:
            del self.fences[sid]
        return self._removed("fences", old, up_to)

    def _removed(self, what: str, found: list[Any], up_to: int) -> int:
        count = min(len(found), limits.COLLECT_ROWS)
        self.collected[what] += count
        self.kernel.note("collect", what, up_to, count)
        return count


class Store:
    """A connection of a worker (or, without one, of a coordinator's shell), with the methods of ``SqlStore``."""

    failure = None  # it goes away without a word

    def __init__(self, database: Database, process: Process, crash: Callable[[], None], *, of_worker: bool):
        self._database = database
        self._kernel = database.kernel
        self._wires = database.wires
        self._process = process
        self._whom = {"worker": process if of_worker else None, "crash": crash}
        self._crash = crash
        self._fence = "worker's fence" if of_worker else "fence"

    async def _ask(self, kind: str, what: str, run: Callable[[], Any], lost: Any):
        """Send a statement. ``run`` executes it when it arrives; ``lost`` is what is learnt without its reply."""
        reply = Future()

        def give_up():
            if isinstance(lost, Exception):
                reply.set(error=lost)
            else:
                reply.set(lost)

        def answer(value, error=None):
            self._wires.carry(f"{kind} reply", what, lambda: reply.set(value, error), given_up=give_up, **self._whom)

        async def finish(running):
            try:
                answer(await running)
            except ApplyRefusedError as error:
                answer(None, error)

        def arrive():
            if life != self._database.life:
                give_up()
                return
            try:
                result = run()
            except SnapshotTooOldError as error:
                answer(None, error)
                return
            if hasattr(result, "send"):
                self._kernel.spawn(finish(result))
            else:
                answer(result)

        if not self._process.alive:
            return None
        life = self._database.life
        self._wires.carry(kind, what, arrive, given_up=give_up, **self._whom)
        return await reply

    is_open = False

    def warm(self):
        pass

    async def aclose(self):
        pass

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, what: str, run: Callable[[], Any]):
        return await self._ask("read", what, run, DatabaseUnavailableError("connection lost"))

    async def read_row(self, _pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Version | None:
        def run():
            self._database.refuse_old(snapshot, row_id)
            rows = [row for row in self._database.rows.get(row_id, ()) if row.visible(snapshot)]
            return Version(row_id, rows[0].data, rows[0].txid, "") if rows else None

        return await self._read("row", run)

    async def query(self, _pointer, wanted: Filter, snapshot: Snapshot, _page: Any, pending) -> list[Version]:
        def run():
            self._database.refuse_old(snapshot)
            rows = {row_id: Version(row_id, r.data, r.txid, "") for row_id, r in self._database.at(snapshot).items()}
            for write in pending:
                rows.pop(write.id, None)
                if write.data is not None:
                    rows[write.id] = Version(write.id, write.data, 0, "")
            contains = (wanted.contains or {}).items()
            return [rows[row_id] for row_id in sorted(rows) if contains <= decode(rows[row_id].data).items()]

        return await self._read("query", run)

    async def count(self, pointer, wanted: Filter, snapshot: Snapshot, pending) -> int:
        return len(await self.query(pointer, wanted, snapshot, None, pending))

    async def end_row(self, _pointer, snapshot: Snapshot, pending, *, last: bool) -> Version | None:
        def run():
            self._database.refuse_old(snapshot)
            own = {write.id for write in pending}
            there = [row for row_id, row in self._database.at(snapshot).items() if row_id not in own]
            there.sort(key=lambda row: (row.order, row.id))
            versions = [Version(row.id, row.data, row.txid, "") for row in there]
            versions += [Version(write.id, write.data, 0, "") for write in pending if write.data is not None]
            return versions[-1 if last else 0] if versions else None

        return await self._read("end", run)

    # --- committing --------------------------------------------------------------------------------------------------

    async def apply(self, plan: ApplyPlan) -> ApplyOutcome:
        def run():
            return self._database.apply(plan, self._process, self._crash)

        return await self._ask("apply", "apply", run, ApplyOutcome.FAILED)

    async def resolve(self, sid: str, _owner: str, txid: int) -> int | None:
        return await self._ask(self._fence, "resolve", lambda: self._database.resolve(sid, txid), None)

    async def committed(self, call: str) -> tuple[int, str | None] | None:
        def run():
            found = [sid for sid, txid in self._database.fences.items() if sid.startswith(f"{call}/") and txid > 0]
            return (self._database.fences[found[0]], self._database.results.get(found[0])) if found else None

        return await self._read("first", run)

    # --- what only a coordinator asks --------------------------------------------------------------------------------

    async def take_over(self, _owner: str, at_least: int) -> tuple[int, int]:
        gone = DatabaseUnavailableError("connection lost")
        before = await self._ask("take-over", "read", lambda: self._database.epoch, gone)
        return await self._raise(max(before + 1, at_least), before)

    async def claim(self, _owner: str, epoch: int) -> tuple[int, int]:
        gone = DatabaseUnavailableError("connection lost")
        before = await self._ask("take-over", "read", lambda: self._database.epoch, gone)
        if before >= epoch:
            return before, await self._ask("take-over", "highest", self._database.highest_txid, gone)
        return await self._raise(epoch, before)

    async def _raise(self, epoch: int, before: int) -> tuple[int, int]:
        gone = DatabaseUnavailableError("connection lost")
        raised = await self._ask("take-over", "raise", lambda: self._database.raise_epoch(epoch, before), gone)
        if raised is None:
            raise DatabaseUnavailableError("another coordinator has taken over at the same moment")
        return raised, await self._ask("take-over", "highest", self._database.highest_txid, gone)

    async def ended_sessions(self, _owner: str) -> dict[str, int]:
        return {}

    async def row_order(self, _owner: str) -> dict[str, int]:
        gone = DatabaseUnavailableError("connection lost")
        return {
            self._database.table.ptr: await self._ask("take-over", "numbers", lambda: self._database.sequence, gone)
        }

    async def standing(self, _owner: str, witnesses: list[str]) -> tuple[int, int] | None:
        def run():
            return self._database.epoch, sum(self._database.fences.get(sid, 0) <= 0 for sid in witnesses)

        return await self._ask("epoch", "read", run, None)

    async def note_loss(self, _owner: str, epoch: int, _now: int, note: str):
        self._database.kernel.note("loss", epoch, note)

    async def read_epoch(self, _owner: str) -> int | None:
        return await self._ask("epoch", "read", lambda: self._database.epoch, None)

    async def pointers(self, _owner: str) -> list[str]:
        return [self._database.table.ptr]

    async def _collect(self, what: str, run: Callable[[], Any]):
        return await self._ask("collect", what, run, DatabaseUnavailableError("connection lost"))

    async def collect_versions(self, _owner: str, epoch: int, _ptr: str, up_to: int) -> int | None:
        return await self._collect("versions", lambda: self._database.collect_versions(epoch, up_to))

    async def collect_fences(self, _owner: str, epoch: int, up_to: int) -> int | None:
        return await self._collect("fences", lambda: self._database.collect_fences(epoch, up_to))

    async def highest_fence(self, _owner: str) -> int:
        return await self._collect("highest", self._database.highest_fence)
