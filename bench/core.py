"""How fast the coordinator's state machine is by itself, and whether its cost depends on what happened before.

Run: .venv/bin/python bench/core.py

Each line is a rate of begin + prepare (one key read, one written) + finish, in a coordinator that has run all lines
above it: one transaction after the other, many prepared at a time, and above one that does not finish.
"""

from __future__ import annotations

import platform
import time

from msgspec import Raw

from kontract.core import limits
from kontract.core.coordinator import Coordinator
from kontract.core.messages import Began, Begin, Finish, Key, Prepare, Prepared, Write

ROUNDS = 20_000
KEYS = 1_000
DATA = Raw(b'{"n":1}')


def prepare(coordinator: Coordinator, row: str, now: int) -> Prepared:
    """Begin, and prepare a transaction that reads and writes one row."""
    (_, began) = coordinator.handle(1, Begin("c"), now).answers[0]
    assert isinstance(began, Began)
    write = Write("t", "t", row, 1, DATA)
    request = Prepare("c", [write], snapshot=began.snapshot, epoch=began.epoch, reads=[Key("t", row)])
    (_, prepared) = coordinator.handle(1, request, now).answers[0]
    assert isinstance(prepared, Prepared)
    return prepared


def cycles(coordinator: Coordinator, rounds: int, at_a_time: int = 1) -> float:
    """Run transactions, ``at_a_time`` of them prepared before the first of them finishes; return how many a second."""
    started = time.perf_counter()
    for first in range(0, rounds, at_a_time):
        prepared = [prepare(coordinator, f"row-{n % KEYS}", n) for n in range(first, first + at_a_time)]
        for one in prepared:
            coordinator.handle(1, Finish(one.txid, one.epoch, applied=True), first)
    return rounds / (time.perf_counter() - started)


def main() -> None:
    """Print rates at growing history lengths, then with others unfinished."""
    print(f"CPython {platform.python_version()}, {platform.machine()}; begin + prepare + finish per second")
    coordinator = Coordinator(1, 0)
    coordinator.recover(0)
    first = cycles(coordinator, ROUNDS)

    def show(what: str, rate: float) -> None:
        print(f"  {what:<36} {rate:>9,.0f}   ratio to the first: {rate / first:.2f}")

    show("after nothing", first)
    for history in range(1, 5):
        show(f"after {history * ROUNDS:,} transactions", cycles(coordinator, ROUNDS))
    many = limits.PREPARED // 2
    show(f"{many} prepared at a time", cycles(coordinator, ROUNDS // many * many, many))
    straggler = prepare(coordinator, "straggler", 0)
    show("above one that does not finish", cycles(coordinator, KEYS))
    coordinator.handle(1, Finish(straggler.txid, straggler.epoch, applied=True), 0)
    show("after it has finished", cycles(coordinator, ROUNDS))


if __name__ == "__main__":
    main()
