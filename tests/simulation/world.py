"""One run: a seed decides the workload, the faults and every step; the oracle judges what came out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kontract.core import attempts, recovery
from kontract.core.attempts import Attempts
from kontract.core.coordinator import Coordinator
from kontract.core.errors import Code, HttpError
from kontract.core.transaction import Call, Transaction
from kontract.ports import DatabaseUnavailableError
from simulation import workloads
from simulation.cluster import OWNER, Link, Shell, Worker
from simulation.database import Database, Faults, Store
from simulation.history import Attempt, Handle, judge
from simulation.kernel import Crashed, Kernel, Task

HORIZON_MS = 300_000


@dataclass(frozen=True)
class Variant:
    """The system under test, or a broken one."""

    coordinator: type[Coordinator] = Coordinator
    transaction: type[Transaction] = Transaction
    database: type[Database] = Database
    shell: type[Shell] = Shell
    link: type[Link] = Link
    takeover_gap: int = recovery.TAKEOVER_GAP

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make the core use this variant's classes."""
        before = recovery.Coordinator, attempts.Transaction, recovery.TAKEOVER_GAP
        recovery.Coordinator, attempts.Transaction = self.coordinator, self.transaction
        recovery.TAKEOVER_GAP = self.takeover_gap
        try:
            yield
        finally:
            recovery.Coordinator, attempts.Transaction, recovery.TAKEOVER_GAP = before


def profile(kernel: Kernel, *, lose_journal: bool) -> Faults:
    """Biased schedules: each run is bad in its own way."""
    dice = kernel.dice
    faults = Faults()
    for name, most in (
        ("lose", 0.06),
        ("duplicate", 0.15),
        ("slow", 0.3),
        ("fail_apply", 0.3),
        ("lose_outcome", 0.3),
        ("late_apply", 0.3),
        ("unreadable", 0.3),
        ("crash_coordinator", 0.08),
        ("crash_worker", 0.15),
    ):
        if dice.random() < 0.4:
            setattr(faults, name, dice.random() * most)
    faults.slow_ms = dice.choice((20, 200, 1500))
    if lose_journal and dice.random() < 0.3:
        faults.lose_journal = 0.5
        faults.crash_coordinator = max(faults.crash_coordinator, 0.05)
    return faults


class World:
    """Everything in one run."""

    def __init__(self, seed: int, variant: Variant, *, lose_journal: bool):
        self.seed = seed
        self.variant = variant
        self.kernel = Kernel(seed)
        self.faults = Faults()
        self.coming = profile(self.kernel, lose_journal=lose_journal)
        self.database = variant.database(self.kernel, self.faults)
        self.shell = variant.shell(self.kernel, self.faults, self.database)
        self.attempts: list[Attempt] = []
        self.tokens = itertools.count(1)
        self.calls = itertools.count(1)
        self.wrong: list[str] = []
        self.busy = 0
        dice = self.kernel.dice
        self.opened, self.next_call = dice.choice(workloads.WORKLOADS)(dice)

    # --- clients -----------------------------------------------------------------------------------------------------

    async def call(self, worker: Worker, handler, expected, call: Call):
        link = self.variant.link(worker, self.shell)
        mine: list[Attempt] = []

        async def run(transaction: Transaction) -> str:
            link.finished_with = None
            began = self.kernel.now if transaction.snapshot is None else link.began_at
            attempt = Attempt(f"{call.id}#{next(self.tokens)}", began)
            mine.append(attempt)
            self.attempts.append(attempt)
            link.attempt = attempt
            answer = await handler(Handle(transaction, attempt, self.tokens))
            if expected is not None:
                run.seen = answer
            return "null"

        run.seen = None
        tries = Attempts(call, worker, link, Store(self.database), 8)
        try:
            outcome = await tries.run(run, "call")
        except (HttpError, DatabaseUnavailableError) as error:
            if getattr(error, "error_code", None) is Code.COMMIT_UNKNOWN and mine:
                mine[-1].outcome = "unknown"
            self.kernel.note("failed", call.id, type(error).__name__)
            return False
        except Crashed:
            if mine and mine[-1].prepared is not None:
                mine[-1].outcome = "unknown"
            raise
        self.kernel.note("done", call.id, outcome.txid, outcome.replayed)
        if outcome.replayed:
            if outcome.txid not in {txid for txid, sid in self.database.committed if sid.startswith(f"{call.id}/")}:
                self.wrong.append(f"lost: {call.id} was told that it committed as {outcome.txid}")
            return True
        mine[-1].outcome = "ok"
        if outcome.txid is None or link.visible:
            mine[-1].end = self.kernel.now
        if expected is not None and not expected(run.seen):
            self.wrong.append(f"invariant: {mine[-1].id} saw {run.seen}")
        return True

    async def client(self, calls: int):
        """Make calls one after the other, at one's own pace; repeat idempotent ones that failed."""
        kernel = self.kernel
        worker = Worker(kernel)
        for _ in range(calls):
            await kernel.sleep(kernel.dice.random() * kernel.dice.choice((3, 3, 30, 300)))
            n = next(self.calls)
            handler, expected = self.next_call(n)
            idempotent = kernel.dice.random() < 0.2 and expected is None
            call = Call(id=f"call{n}", owner=OWNER, user="u", idempotent=idempotent)
            for _trial in range(3 if idempotent else 1):
                task = kernel.spawn(self.call(worker, handler, expected, call))
                if kernel.chance(self.faults.crash_worker):
                    kernel.after(kernel.dice.random() * 30, lambda w=worker, t=task: self._kill(w, t))
                await task.end
                if worker.dead:
                    worker = Worker(kernel)
        self.busy -= 1

    def _kill(self, worker: Worker, task: Task):
        if not task.ended:
            worker.dead = True
            task.kill()

    # --- the run -----------------------------------------------------------------------------------------------------

    def _alone(self, handler):
        n = next(self.calls)
        task = self.kernel.spawn(
            self.call(Worker(self.kernel), handler, None, Call(id=f"call{n}", owner=OWNER, user="u"))
        )
        self.kernel.run(lambda: task.ended, self.kernel.now + HORIZON_MS)
        if not self.attempts or self.attempts[-1].outcome != "ok":
            self.wrong.append(f"stuck: {handler.__name__} did not succeed in quiet times")

    def run(self) -> World:
        with self.variant.installed():
            self._run()
        return self

    def _run(self):
        kernel, dice = self.kernel, self.kernel.dice
        self._alone(self.opened)
        calm = Faults()
        for name in Faults.__dataclass_fields__:
            setattr(self.faults, name, getattr(self.coming, name))
        clients = dice.randint(2, 5)
        self.busy = clients
        for _ in range(clients):
            kernel.spawn(self.client(dice.randint(2, 5)))
        kernel.run(lambda: not self.busy, kernel.now + HORIZON_MS)
        if self.busy:
            self.wrong.append(f"stuck: {self.busy} clients are not done")
        for name in Faults.__dataclass_fields__:
            setattr(self.faults, name, getattr(calm, name))
        kernel.spawn(self.shell.wake())
        kernel.run(lambda: False, kernel.now + 12_000)
        coordinator = self.shell.coordinator
        if coordinator is None or coordinator.unfinished:
            self.wrong.append("stuck: transactions are left in doubt")
        lists = [key for key in self.database.rows if key.startswith("list")]

        async def everything(h: Handle):
            for key in lists:
                await h.get(key)
            await h.where()

        self._alone(everything)
        journal = None if self.shell.journals_lost else self.shell.journal.records
        self.wrong += judge(self.attempts, self.database, journal)
        if not self.shell.journals_lost:
            self.wrong += [f"contradiction: {what}" for what in self.shell.contradictions]

    def digest(self) -> str:
        """A hash of every message, apply and outcome with its time."""
        return hashlib.sha256(repr(self.kernel.trace).encode()).hexdigest()


def simulate(seed: int, variant: Variant | None = None, *, lose_journal: bool = True) -> World:
    """Run one seed."""
    return World(seed, variant or Variant(), lose_journal=lose_journal).run()
