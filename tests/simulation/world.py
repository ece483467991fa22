"""One run: clients, coordinators, network and database; the oracle judges what came out.

:class:`World` is what every run has. :class:`RandomWorld` lets a seed decide the workload, the kind of table, whether a
second coordinator takes over and whether the collection has work, the faults, and every step.
"""

from __future__ import annotations

import hashlib
import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kontract.coordination import callers, custody, host, outgoing, questions, reads, recovery, takeover
from kontract.coordination import shell as shells
from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits
from kontract.core.errors import Code, HttpError, NotFoundError
from kontract.core.protocol import collection
from kontract.core.protocol.collection import Collection
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.transaction import attempts
from kontract.core.transaction.attempts import Attempts, Repeated
from kontract.core.transaction.transaction import Call, RetryError, Transaction
from kontract.core.types import TableKind
from kontract.ports import DatabaseUnavailableError
from simulation import workloads
from simulation.cluster import OWNER, Journal, Link, Node, Worker
from simulation.database import Database, Store
from simulation.faults import LATE_MS, Fate, Odds, Wires, bias
from simulation.history import Attempt, Handle, judge
from simulation.kernel import Crashed, Kernel, Loop

ON_A_LOOP = (callers, custody, host, outgoing, reads, shells, takeover)
"""The modules of shells that use asyncio: here each has a simulated loop in its place."""

TOO_OLD = "the snapshot is too old"
HORIZON_MS = 300_000
QUIET_MS = LATE_MS + limits.APPLY_DEADLINE_MS + 2_000

SHORT = {
    "TRANSACTION_MS": 3_000,
    "LEASE_MS": 4_000,
    "EPOCH_TRUST_MS": 900,
    "RETENTION_MS": 5_000,
    "FENCE_RETENTION_MS": 40_000,
    "EVENT_LOG_MS": 20_000,
    "COLLECT_ROWS": 2,
    "COLLECT_STATEMENTS": 4,
    "COLLECT_PAUSE_MS": 300,
}
"""Limits of a run in which the collection has work. As in ``limits``, a lease outlasts a transaction, the retention a
lease and the trust in the epoch, and the retention of fences all that may come after a prepare, repeated calls too."""


class InvariantError(Exception):
    """A handler saw a state that no serial execution has."""


@dataclass(frozen=True)
class Variant:
    """The system under test, or a broken one."""

    coordinator: type[Coordinator] = Coordinator
    transaction: type[Transaction] = Transaction
    database: type[Database] = Database
    shell: type[CoordinatorShell] = CoordinatorShell
    journal: type[Journal] = Journal
    link: type[Link] = Link
    collection: type[Collection] = Collection
    takeover_gap: int = recovery.TAKEOVER_GAP
    limits: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def installed(self, kernel: Kernel, changed: dict[str, int]) -> Iterator[None]:
        """Make the core and the shell use this variant's classes, the simulated loop, and other limits."""
        changed = {**changed, **self.limits}
        patches = [
            (recovery, "Coordinator", self.coordinator),
            (attempts, "Transaction", self.transaction),
            (recovery, "TAKEOVER_GAP", self.takeover_gap),
            *((module, "asyncio", Loop(kernel)) for module in ON_A_LOOP),
            (questions, "SqlStore", lambda store: store),
            (shells, "Collection", self.collection),
            *((limits, name, value) for name, value in changed.items()),
        ]
        before = [(where, name, getattr(where, name)) for where, name, _ in patches]
        ages = dict(collection.AGE)
        for where, name, value in patches:
            setattr(where, name, value)
        collection.AGE[collection.CollectionStage.VERSIONS] = limits.RETENTION_MS
        collection.AGE[collection.CollectionStage.FENCES] = limits.FENCE_RETENTION_MS
        try:
            yield
        finally:
            for where, name, value in before:
                setattr(where, name, value)
            collection.AGE.update(ages)


class World:
    """Everything in one run."""

    def __init__(self, seed: int, variant: Variant):
        self.variant = variant
        self.kernel = Kernel(seed)
        self.attempts: list[Attempt] = []
        self.tokens = itertools.count(1)
        self.wrong: list[str] = []
        self.answered: dict[str, str] = {}  # by idempotent call
        self.short = False
        self.alarmed = False
        self.pauses = 0.0

    def build(self, fate: Fate, kind: TableKind):
        """Set up network, database and the first coordinator."""
        self.wires = Wires(self.kernel, fate)
        self.database = self.variant.database(self.kernel, self.wires, kind)
        self.nodes: list[Node] = []
        self.join()

    def join(self) -> Node:
        """Add a coordinator with a journal of its own, still empty."""
        variant = self.variant
        node = Node(self.kernel, self.wires, self.database, variant.shell, variant.journal, alarmed=self.alarmed)
        self.nodes.append(node)
        return node

    # --- clients -----------------------------------------------------------------------------------------------------

    async def pause(self):
        """Slow readers exist."""
        if self.kernel.chance(self.pauses):
            await self.kernel.sleep(self.kernel.dice.random() * 1500)

    async def call(self, worker: Worker, node: Node, handler, expected, call: Call) -> bool:
        """Make one call; returns whether it committed."""
        link = self.variant.link(worker, node)
        mine: list[Attempt] = []
        answered, began = dict(self.answered), self.kernel.now
        seen = None

        def disturbed() -> bool:
            """Whether the database has gone back, and this call may be of before it was noticed."""
            back, noticed = self.database.went_back_at, self.database.noticed_at
            return back is not None and (noticed is None or began < noticed)

        async def run(transaction: Transaction) -> str:
            nonlocal seen
            link.finished_with = None
            began = self.kernel.now if transaction.snapshot is None else link.began_at
            attempt = Attempt(f"{call.id}#{next(self.tokens)}", began)
            mine.append(attempt)
            self.attempts.append(attempt)
            link.attempt = attempt
            try:
                seen = await handler(Handle(transaction, attempt, self.tokens, self.database.table, self.pause))
            except (AssertionError, LookupError, TypeError) as error:
                raise InvariantError(f"{attempt.id} met {error!r}") from error
            except RetryError as error:
                attempt.overtaken = error.reason == TOO_OLD
                raise
            finally:
                attempt.superseded = link.superseded
            return f'"{attempt.id}"'

        store = Store(self.database, worker.process, lambda: node.crash(node.process), of_worker=True)
        try:
            outcome = await Attempts(call, worker, link, store, 8).run(run, "call")
        except (HttpError, DatabaseUnavailableError) as error:
            if getattr(error, "error_code", None) is Code.COMMIT_UNKNOWN and mine:
                mine[-1].outcome = "unknown"
            if isinstance(error, NotFoundError) and call.id in answered:
                self.wrong.append(f"answers: {call.id} was answered with {answered[call.id]}, and then failed")
            self.kernel.note("failed", call.id, type(error).__name__, getattr(error, "error_code", None))
            return False
        except InvariantError as error:
            if not disturbed():
                self.wrong.append(f"invariant: {error}")
            return False
        except Crashed:
            if mine and mine[-1].prepared is not None:
                mine[-1].outcome = "unknown"
            raise
        repeated = isinstance(outcome, Repeated)
        answer = outcome.kept if repeated else outcome.result
        self.kernel.note("done", call.id, outcome.txid, repeated)
        if not disturbed() and call.idempotent and self.answered.setdefault(call.id, answer) != answer:
            self.wrong.append(f"answers: {call.id} got {self.answered[call.id]} and {answer}")
        if repeated:
            ours = {commit.txid for commit in self.database.commits if commit.sid.startswith(f"{call.id}/")}
            if outcome.txid not in ours and not disturbed():
                self.wrong.append(f"lost: {call.id} was told that it committed as {outcome.txid}")
            return True
        mine[-1].outcome = "ok"
        if outcome.txid is None or link.visible:
            mine[-1].end = self.kernel.now
        if expected is not None and not expected(seen) and not disturbed():
            self.wrong.append(f"invariant: {mine[-1].id} saw {seen}")
        return True

    def alone(self, handler, name: str, node: Node | None = None) -> bool:
        """Make a call in quiet times; returns whether it committed."""
        node = node or self.nodes[0]
        worker = Worker(self.kernel)
        call = Call(id=name, owner=OWNER, user="u")
        task = self.kernel.spawn(self.call(worker, node, handler, None, call), worker.process)
        self.kernel.run(lambda: task.ready, self.kernel.now + HORIZON_MS)
        return bool(task.ready and task.value)

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self):
        """Run, and judge."""
        with self.variant.installed(self.kernel, SHORT if self.short else {}):
            try:
                self.play()
                self.settle()
            except Exception:  # noqa: BLE001 - a defect is a finding like others
                self.wrong.append(f"defect: {traceback.format_exc()}")
            self.kernel.close()
        return self

    def play(self):
        """What the clients do."""
        raise NotImplementedError

    def settle(self):
        """Let everything come to rest without faults, then look at all of it."""
        kernel = self.kernel
        for quiet in (QUIET_MS, 2_000):  # mishaps that were on their way may still kill it in the first
            for node in self.nodes:
                if not node.alarmed or not node.journal.started:
                    node.wake()
            kernel.run(lambda: False, kernel.now + quiet)
        current = [node for node in self.nodes if node.journal.epoch == self.database.epoch]
        if len(current) != 1:
            self.wrong.append(f"stuck: {len(current)} coordinators are in charge")
            return
        applied = {commit.txid for commit in self.database.commits}
        unsettled = {txid for txid, record in current[0].journal.records.items() if not record.settled_at}
        if applied & unsettled or (not self.alarmed and (current[0].coordinator is None or unsettled)):
            self.wrong.append(f"stuck: transactions are left in doubt: {unsettled}")
        lists = [key for key in self.database.rows if key.startswith("list")]

        async def everything(h: Handle):
            for key in lists:
                await h.get(key)
            await h.where()

        async def probe(h: Handle):
            await h.put("probe", v=0)

        self.pauses_were, self.pauses = self.pauses, 0.0
        if not self.alone(everything, "everything", current[0]):
            self.wrong.append("stuck: the last reader did not succeed in quiet times")
        for number, node in enumerate(self.nodes):
            if node not in current and (self.alone(probe, f"probe{number}", node) or not _fenced(node)):
                self.wrong.append("alive: a superseded coordinator does not know it")
        self.wrong += judge(self.attempts, self.database, self.nodes)

    def digest(self) -> str:
        """A hash of every message, apply and outcome with its time."""
        return hashlib.sha256(repr(self.kernel.trace).encode()).hexdigest()


def _fenced(node: Node) -> bool:
    return node.coordinator is not None and node.coordinator.stage is CoordinatorStage.FENCED


class RandomWorld(World):
    """A run that a seed decides."""

    def __init__(self, seed: int, variant: Variant, *, lose_journal: bool):
        super().__init__(seed, variant)
        kernel, dice = self.kernel, self.kernel.dice
        self.odds = Odds(kernel)
        self.loose = bias(self.odds, kernel, lose_journal=lose_journal)
        self.rival = dice.random() < 0.25
        self.short = dice.random() < 0.25
        self.alarmed = dice.random() < 0.5
        self.build(self.odds, TableKind.PLAIN if dice.random() < 0.3 else TableKind.VERSIONED)
        self.calls = itertools.count(1)
        self.busy = 0
        workload = dice.choice(workloads.WORKLOADS)
        if seed % 7 == 5:  # so that all other seeds are what they were before there was a queue
            workload = workloads.queue
        self.opened, self.next_call = workload(dice)

    def join(self) -> Node:
        node = super().join()
        node.loses_journal = lambda: self.kernel.chance(self.odds.lose_journal)
        return node

    def play(self):
        kernel, dice = self.kernel, self.kernel.dice
        if not self.alone(self.opened, "opened"):
            self.wrong.append("stuck: the first call did not succeed in quiet times")
        self.loose()
        if self.short:
            self.pauses = dice.choice((0.0, 0.1, 0.5))
        if self.rival:
            kernel.after(dice.random() * dice.choice((5, 50, 2000)), lambda: self.join().wake())
        self.busy = dice.randint(2, 4)
        for _ in range(self.busy):
            kernel.spawn(self.client(dice.randint(2, 5)))
        kernel.run(lambda: not self.busy, kernel.now + HORIZON_MS)
        if self.busy:
            self.wrong.append(f"stuck: {self.busy} clients are not done")
        self.odds.calm()
        if self.rival:
            kernel.run(lambda: len(self.nodes) > 1, kernel.now + 2000)

    async def client(self, calls: int):
        """Make calls one after the other, at one's own pace; repeat idempotent ones that failed."""
        kernel, dice = self.kernel, self.kernel.dice
        worker = Worker(kernel)
        paces = (3, 3, 30, 300)
        if self.short:
            paces = (3, 30, 3_000, 40_000 if dice.random() < 0.3 else 10_000)
        for _ in range(calls):
            await kernel.sleep(dice.random() * dice.choice(paces))
            n = next(self.calls)
            handler, expected = self.next_call(n)
            idempotent = dice.random() < 0.2 and expected is None
            call = Call(id=f"call{n}", owner=OWNER, user="u", idempotent=idempotent)
            for _trial in range(3 if idempotent else 1):
                node = self.nodes[-1] if dice.random() < 0.6 else self.nodes[0]
                task = kernel.spawn(self.call(worker, node, handler, expected, call), worker.process)
                if kernel.chance(self.odds.kill_worker):
                    kernel.after(dice.random() * 30, lambda w=worker, t=task: t.ready or w.process.die())
                await task
                if not worker.process.alive:
                    worker = Worker(kernel)
        self.busy -= 1


class BackWorld(RandomWorld):
    """A run in which the database goes back in time, as by a failover to a standby that lagged."""

    def __init__(self, seed: int, variant: Variant):
        super().__init__(seed, variant, lose_journal=False)
        self.rival = False
        self.database.goes_back = True

    def play(self):
        self.kernel.after(self.kernel.dice.random() * self.kernel.dice.choice((50, 300, 3_000)), self.back)
        super().play()

    def back(self):
        """Lose some commits; those who depend on one that was acknowledged must notice."""
        database, node = self.database, self.nodes[0]
        given = max([node.journal.last_txid, *node.journal.records], default=0)
        if node.coordinator is not None:
            given = node.coordinator._next_txid - 1
        known = {record.sid for record in node.journal.records.values() if record.phase == "committed"}
        lost = database.go_back(self.kernel.dice.randint(1, 6))
        database.given, database.must_notice = given, any(commit.sid in known for commit in lost)
        self.answered.clear()

    def settle(self):
        """Let it be noticed, by somebody who writes."""

        async def probe(h: Handle):
            await h.put("noticed", v=0)

        for number in range(5):
            self.kernel.run(lambda: False, self.kernel.now + QUIET_MS)
            if self.alone(probe, f"noticed{number}"):
                break
        super().settle()


def back(seed: int, variant: Variant | None = None) -> BackWorld:
    """Run one seed of a database that goes back."""
    return BackWorld(seed, variant or Variant()).run()


def simulate(seed: int, variant: Variant | None = None, *, lose_journal: bool = True) -> RandomWorld:
    """Run one seed."""
    return RandomWorld(seed, variant or Variant(), lose_journal=lose_journal).run()


def run_seed(seed: int) -> RandomWorld:
    """Run one seed of the long test: half of the seeds never lose a journal."""
    return simulate(seed, lose_journal=seed % 2 == 1)


def failures(first: int, count: int) -> list[tuple[int, list[str]]]:
    """Run ``count`` seeds; return those that fail with what is wrong."""
    return [(seed, wrong) for seed in range(first, first + count) if (wrong := run_seed(seed).wrong)]
