"""What a transaction costs the coordinator does not depend on what happened before it.

Counted in executed lines of the core, not in time: the same on every machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import kontract.core
from core.desk import Desk, key, predicate, write
from kontract.core import limits

CORE = str(Path(kontract.core.__file__).parent)


def lines(action) -> int:
    """How many lines of the core are executed by ``action``; each step of a loop or of a generator counts."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(CORE):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def transaction(desk: Desk, name: str) -> None:
    """Begin, read a row and a predicate, write, finish; then what a shell asks after every step."""
    snapshot = desk.begin(name).snapshot
    prepared = desk.prepare(
        name, write(name, {"n": 1}), write("log", ptr="other"),
        snapshot=snapshot, reads=[key("never written")], predicates=[predicate({"n": 2}, ptr="quiet")],
    )  # fmt: skip
    desk.finish(prepared.txid)
    desk.coordinator.next_tick()


def after_history(desk: Desk, length: int) -> None:
    for number in range(length):
        desk.commit(f"call-{number}", write(f"row-{number}", {"n": 2}))


def after_full_history(desk: Desk, length: int) -> None:
    after_history(desk, limits.WRITE_LOG_TRANSACTIONS + length)


def above_one_unfinished(desk: Desk, length: int) -> None:
    """The oldest transaction is in doubt, and others have finished above it: they wait for it to be settled."""
    desk.prepare("straggler", write("straggler", 1))
    after_history(desk, length)


def above_one_aborted(desk: Desk, length: int) -> None:
    desk.prepare("straggler", write("straggler", 1))
    for number in range(length):
        txid = desk.prepare(f"call-{number}", write(f"row-{number}", 1)).txid
        desk.finish(txid, applied=False)
        desk.resolved(txid, -txid)


@pytest.mark.parametrize("prepare", [after_history, after_full_history, above_one_unfinished, above_one_aborted])
def test_a_transaction_costs_the_same_after_many_others(monkeypatch, prepare):
    """Otherwise an owner becomes slower the longer its coordinator lives, or while one fence cannot be read."""
    monkeypatch.setattr(limits, "WRITE_LOG_TRANSACTIONS", 600)
    costs = []
    for length in (2, 500):
        desk = Desk()
        prepare(desk, length)
        costs.append(lines(lambda desk=desk: transaction(desk, "measured")))
    assert costs[0] == costs[1]
    assert costs[0] > 50  # something was counted


def test_beginning_and_preparing_cost_the_same_beside_many_unfinished():
    costs = []
    for others in (1, limits.PREPARED - 1):
        desk = Desk()
        for number in range(others):
            desk.prepare(f"call-{number}", write(f"row-{number}", 1))
        snapshot = desk.begin().snapshot
        costs.append(
            lines(lambda desk=desk, snapshot=snapshot: desk.prepare("measured", write("x", 1), snapshot=snapshot))
        )
    assert costs[0] == costs[1]


def test_a_predicate_costs_what_was_written_since_its_snapshot():
    """Not what was written before: a query on a busy table is compared with the last few commits."""
    costs = []
    for length in (2, 500):
        desk = Desk()
        after_history(desk, length)
        snapshot = desk.begin().snapshot
        desk.commit("newest", write("newest", {"n": 2}))
        costs.append(
            lines(
                lambda desk=desk, snapshot=snapshot: desk.prepare(
                    "measured", write("x", 1), snapshot=snapshot, predicates=[predicate({"n": 3})]
                )
            )
        )
    assert costs[0] == costs[1]
