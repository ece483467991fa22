"""How fast the coordinator's state machine is by itself, and whether its cost depends on the length of history.

Run: .venv/bin/python bench/core.py
"""

from __future__ import annotations

import platform
import time

from msgspec import Raw

from kontract.core.coordinator import Coordinator
from kontract.core.messages import Began, Begin, Finish, Key, Prepare, Prepared, Write

ROUNDS = 20_000
DATA = Raw(b'{"n":1}')


def cycles(coordinator: Coordinator, rounds: int, keys: int) -> float:
    """Run begin, prepare (one key read, one written) and finish; return cycles per second."""
    started = time.perf_counter()
    for number in range(rounds):
        row = f"row-{number % keys}"
        (_, began) = coordinator.handle(1, Begin("c"), number).answers[0]
        assert isinstance(began, Began)
        write = Write("t", "t", row, 1, DATA)
        prepare = Prepare("c", [write], snapshot=began.snapshot, reads=[Key("t", row)])
        (_, prepared) = coordinator.handle(1, prepare, number).answers[0]
        assert isinstance(prepared, Prepared)
        coordinator.handle(1, Finish(prepared.txid, applied=True), number)
    return rounds / (time.perf_counter() - started)


def main() -> None:
    """Print rates at growing history lengths."""
    print(f"CPython {platform.python_version()}, {platform.machine()}; begin + prepare + finish per second")
    coordinator = Coordinator(1, 0)
    coordinator.recover(0)
    rates = []
    for history in range(5):
        rate = cycles(coordinator, ROUNDS, 1_000)
        rates.append(rate)
        print(f"  after {history * ROUNDS:>7,} transactions: {rate:>9,.0f}   ratio to the first: {rate / rates[0]:.2f}")


if __name__ == "__main__":
    main()
