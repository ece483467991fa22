"""What can go wrong, where, and who decides that it does.

A *boundary* is a moment at which something leaves one part of the system for another, or takes effect: a message, a
statement, its execution, its reply, a write to the journal, an answer decided, a task begun, an alarm. Each has a kind,
and :data:`FAULTS` says what may happen at each kind. At every boundary somebody is asked: :class:`Odds` throws dice,
:class:`Script` counts, and says what its plan has for that number.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from simulation.kernel import Kernel, Process

LATE_MS = 12_000
"""Past every deadline: APPLY_DEADLINE_MS, TRANSACTION_MS, and the patience of everybody who waits."""

OVERTAKEN_MS = 12
"""Longer than a whole transaction takes that nothing disturbs."""


class Fault(Enum):
    """One mishap."""

    LOST = "lost"
    TWICE = "twice"  # once more a little later
    AGAIN = "again"  # once more when everything is over
    LATE = "late"  # past every deadline; whoever waits for it has given up
    SLOW = "slow"  # past the deadline of the others, but whoever sent it waits
    OVERTAKEN = "overtaken"  # by what is sent after it
    FAILS = "fails"  # nothing of it has happened
    REFUSED = "refused"  # nothing of it has happened, and never will
    HALF = "half"  # the first part of it has happened, or all of it, and its author is told that it failed
    WORKER_BEFORE = "worker dies before"
    WORKER_AFTER = "worker dies after"
    COORDINATOR_BEFORE = "coordinator dies before"
    COORDINATOR_AFTER = "coordinator dies after"


F = Fault
_COORDINATOR = (F.COORDINATOR_BEFORE, F.COORDINATOR_AFTER)
_DEATHS = (*_COORDINATOR, F.WORKER_BEFORE, F.WORKER_AFTER)

FAULTS: dict[str, tuple[Fault, ...]] = {
    # a worker's message to the coordinator, and its answer
    "request": (F.LOST, F.TWICE, F.AGAIN, F.LATE, F.OVERTAKEN, *_DEATHS),
    "answer": (F.LOST, F.TWICE, F.LATE, F.OVERTAKEN, *_DEATHS),
    # the steps of the shell
    "journal": (F.FAILS, F.HALF, *_COORDINATOR),
    "decide": _COORDINATOR,
    "spawn": _COORDINATOR,
    "alarm": (F.LATE, *_COORDINATOR),
    # a worker's statements
    "read": (F.LOST, F.SLOW, F.OVERTAKEN, *_DEATHS),
    "read reply": (F.LOST, F.OVERTAKEN, *_DEATHS),
    "apply": (F.LOST, F.TWICE, F.AGAIN, F.LATE, F.SLOW, F.OVERTAKEN, *_DEATHS),
    "apply runs": (F.FAILS, F.REFUSED, F.SLOW, *_DEATHS),
    "apply reply": (F.LOST, F.SLOW, F.OVERTAKEN, *_DEATHS),
    "worker's fence": (F.LOST, F.TWICE, F.AGAIN, F.LATE, F.OVERTAKEN, *_DEATHS),
    "worker's fence reply": (F.LOST, F.OVERTAKEN, *_DEATHS),
    # the coordinator's statements
    "fence": (F.LOST, F.TWICE, F.AGAIN, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "fence reply": (F.LOST, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "take-over": (F.LOST, F.TWICE, F.AGAIN, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "take-over reply": (F.LOST, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "epoch": (F.LOST, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "epoch reply": (F.LOST, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "collect": (F.LOST, F.TWICE, F.AGAIN, F.LATE, F.OVERTAKEN, *_COORDINATOR),
    "collect reply": (F.LOST, F.LATE, F.OVERTAKEN, *_COORDINATOR),
}


class Fate(Protocol):
    """Who decides."""

    def at(self, kind: str, what: str) -> Fault | None:
        """What happens at this boundary."""

    def delay(self) -> float:
        """Milliseconds that a message or a step takes."""

    def within(self, most: float) -> float:
        """Some number of milliseconds up to ``most``."""


class Odds:
    """How likely each mishap is, from 0 to 1, and how long things take."""

    def __init__(self, kernel: Kernel):
        self._dice = kernel.dice
        self.happened: set[Fault] = set()
        self.calm()

    def calm(self):
        """From now on nothing goes wrong."""
        self.slow = self.slow_ms = 0.0
        self.kill_worker = 0.0
        self.lose_journal = 0.0
        self._table: dict[str, list[tuple[Fault, float]]] = {}

    def set(self, kind: str, fault: Fault, probability: float):
        assert fault in FAULTS[kind]
        self._table.setdefault(kind, []).append((fault, probability))

    def at(self, kind: str, _what: str) -> Fault | None:
        for fault, probability in self._table.get(kind, ()):
            if self._dice.random() < probability:
                self.happened.add(fault)
                return fault
        return None

    def delay(self) -> float:
        dice = self._dice
        if self.slow and dice.random() < self.slow:
            return dice.random() * self.slow_ms
        return 0.2 + dice.random() * 2

    def within(self, most: float) -> float:
        return self._dice.random() * most


PROFILE: dict[str, tuple[float, tuple[tuple[str, Fault, float], ...]]] = {
    "lose": (0.06, (("request", F.LOST, 1), ("answer", F.LOST, 1), ("apply", F.LOST, 1), ("read", F.LOST, 0.3))),
    "duplicate": (
        0.15,
        (("request", F.TWICE, 1), ("answer", F.TWICE, 1), ("apply", F.TWICE, 1), ("fence", F.TWICE, 1)),
    ),
    "late": (0.3, tuple((kind, F.LATE, 1) for kind in ("fence", "take-over", "epoch", "collect"))),
    "again": (0.1, (("request", F.AGAIN, 1), ("apply", F.AGAIN, 1), ("fence", F.AGAIN, 1))),
    "overtaken": (0.3, tuple((kind, F.OVERTAKEN, 1) for kind in ("request", "answer", "read", "apply"))),
    "crash_worker": (
        0.04,
        tuple(
            (kind, fault, 0.5)
            for kind in ("request", "answer", "apply", "apply reply")
            for fault in (F.WORKER_BEFORE, F.WORKER_AFTER)
        ),
    ),
    "fail_apply": (0.3, (("apply runs", F.FAILS, 0.8), ("apply runs", F.REFUSED, 0.2))),
    "lose_outcome": (0.3, (("apply reply", F.LOST, 1),)),
    "late_apply": (0.3, (("apply", F.LATE, 1),)),
    "slow_apply": (0.5, (("apply", F.SLOW, 1),)),
    "unreadable": (
        0.3,
        tuple(
            (kind, F.LOST, 0.5)
            for statement in ("worker's fence", "fence", "epoch", "take-over", "collect")
            for kind in (statement, f"{statement} reply")
        ),
    ),
    "crash_coordinator": (
        0.08,
        tuple(
            (kind, fault, 0.25)
            for kind in ("journal", "decide", "spawn", "answer")
            for fault in (F.COORDINATOR_BEFORE, F.COORDINATOR_AFTER)
        ),
    ),
    "fail_journal": (0.08, (("journal", F.FAILS, 0.5), ("journal", F.HALF, 0.5))),
}
"""Moods of a run: how bad it gets at most, and where, with which share."""


def bias(odds: Odds, kernel: Kernel, *, lose_journal: bool) -> Callable[[], None]:
    """Choose what this run suffers from; returns what lets it loose. Each run is bad in its own way."""
    dice = kernel.dice
    chosen = {name: dice.random() * most for name, (most, _) in PROFILE.items() if dice.random() < 0.4}
    slow = dice.random() * 0.3 if dice.random() < 0.4 else 0.0
    slow_ms = dice.choice((20, 200, 1500))
    kill_worker = dice.random() * 0.15 if dice.random() < 0.4 else 0.0
    lost = 0.0
    if lose_journal and dice.random() < 0.3:
        lost = 0.5
        chosen["crash_coordinator"] = max(chosen.get("crash_coordinator", 0.0), 0.05)

    def loose():
        for name, probability in chosen.items():
            for kind, fault, share in PROFILE[name][1]:
                odds.set(kind, fault, probability * share)
        odds.slow, odds.slow_ms, odds.kill_worker, odds.lose_journal = slow, slow_ms, kill_worker, lost

    return loose


class Script:
    """Counts boundaries while it is on, and lets the planned ones go wrong. All steps take the same time."""

    def __init__(self, kernel: Kernel, plan: dict[int, Fault], given: tuple[tuple[str, str, Fault], ...] = ()):
        self.on = False
        self.points: list[tuple[str, str]] = []
        self.happened: dict[int, Fault] = {}
        self.taken: set[int] = set()  # boundaries at which something given happens: the scenario, not a fault
        self._kernel = kernel
        self._plan = plan
        self._given = list(given)

    def at(self, kind: str, what: str) -> Fault | None:
        if not self.on:
            return None
        number = len(self.points)
        self.points.append((kind, what))
        for given in self._given:
            if given[:2] == (kind, what):
                self._given.remove(given)
                self.taken.add(number)
                self._kernel.note("given", number, kind, what, given[2].value)
                return given[2]
        fault = self._plan.get(number)
        if fault is not None:
            self.happened[number] = fault
        self._kernel.note("boundary", number, kind, what, fault and fault.value)
        return fault

    def delay(self) -> float:
        return 1.0

    def within(self, most: float) -> float:
        return most / 2


class Wires:
    """Carries things from one part of the system to another, as far as fate allows."""

    def __init__(self, kernel: Kernel, fate: Fate):
        self._kernel = kernel
        self.fate = fate

    def carry(
        self,
        kind: str,
        what: str,
        deliver: Callable[[], None],
        *,
        given_up: Callable[[], None] | None = None,
        worker: Process | None = None,
        crash: Callable[[], None] | None = None,
    ):
        """Call ``deliver`` after a while, once, twice or never.

        ``given_up``: what the sender is told when it waits in vain. ``worker`` and ``crash`` are who may die of it.
        """
        kernel, fate = self._kernel, self.fate
        fault = fate.at(kind, what)
        delay = fate.delay()
        if fault is None:
            kernel.after(delay, deliver)
            return
        if given_up is not None and fault in (F.LOST, F.LATE):
            kernel.after(fate.within(300), given_up)
        match fault:
            case F.LOST:
                return
            case F.TWICE:
                kernel.after(delay, deliver)
                kernel.after(fate.delay() * 3, deliver)
            case F.AGAIN:
                kernel.after(delay, deliver)
                kernel.after(LATE_MS, deliver)
            case F.LATE | F.SLOW:
                kernel.after(LATE_MS if isinstance(fate, Script) else fate.within(4000), deliver)
            case F.OVERTAKEN:
                kernel.after(OVERTAKEN_MS, deliver)
            case F.WORKER_BEFORE | F.COORDINATOR_BEFORE:
                kernel.after(delay, worker.die if fault is F.WORKER_BEFORE else crash)
                kernel.after(delay, deliver)
            case F.WORKER_AFTER | F.COORDINATOR_AFTER:
                # Whoever took it in has one step to act on it.
                die = worker.die if fault is F.WORKER_AFTER else crash
                kernel.after(delay, lambda: (deliver(), kernel.after(0, lambda: kernel.after(0, die))))
            case _:
                raise AssertionError(f"nothing is carried that {fault.value}")
