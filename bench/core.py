"""How fast the coordinator's state machine is by itself, and whether its cost depends on what happened before.

Run: .venv/bin/python bench/core.py [--rounds N]

Each line is a rate of begin + prepare (one key read, one written) + finish, in a coordinator that has run all lines
above it: one transaction after the other, many prepared at a time, and above one that does not finish. Of several
rounds, each with a coordinator of its own, the median is shown.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import records
from msgspec import Raw
from page import figure
from records import TIMES, Record, over_rounds

from kontract.core import limits
from kontract.core.messages import Began, Begin, Finish, Key, Prepare, Prepared, Write
from kontract.core.protocol.coordinator import Coordinator

TRANSACTIONS = 20_000
AIM = "at least 50,000"  # cycles a second
FIRST = "after nothing"
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


def one_round() -> dict[str, float]:
    """Rates at growing history lengths, then with others unfinished."""
    coordinator = Coordinator(1, 0)
    coordinator.recover(0)
    rates = {FIRST: cycles(coordinator, TRANSACTIONS)}
    for history in range(1, 5):
        rates[f"after {history * TRANSACTIONS:,} transactions"] = cycles(coordinator, TRANSACTIONS)
    many = limits.PREPARED // 2
    rates[f"{many} prepared at a time"] = cycles(coordinator, TRANSACTIONS // many * many, many)
    straggler = prepare(coordinator, "straggler", 0)
    rates["above one that does not finish"] = cycles(coordinator, KEYS)
    coordinator.handle(1, Finish(straggler.txid, straggler.epoch, applied=True), 0)
    rates["after it has finished"] = cycles(coordinator, TRANSACTIONS)
    return rates


def measure(rounds: int) -> list[Record]:
    """Measure with a new coordinator each round."""
    found = [one_round() for _ in range(rounds)]
    product = "the coordinator by itself"
    measured = [over_rounds(FIRST, [one[FIRST] for one in found], "cycles a second", product=product, aim=AIM)]
    for what in found[0]:
        if what != FIRST:
            ratios = [one[what] / one[FIRST] for one in found]
            rate = f"{statistics.median(one[what] for one in found):,.0f} cycles a second"
            measured.append(over_rounds(what, ratios, TIMES, product=product, peer=FIRST, behind=rate))
    return measured


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    records.add_option(parser)
    options = parser.parse_args()
    measured = measure(options.rounds)
    print(f"CPython {platform.python_version()}, {platform.machine()}; begin + prepare + finish per second")
    for one in measured:
        print(f"  {one.scenario:<36} {figure(one):<36} {one.behind}")
    records.write(options.records, measured)


if __name__ == "__main__":
    main()
