"""How long a call with many numbers holds the process: nobody else is answered meanwhile.

Each line is one JSON body within the limits, as large as they allow, and the processor time of what is done with it
without a pause: read it as arguments, write it as a row, encode it as a result. Beside each stands how often a call
that echoes text of as many bytes would fit in. Then reading such a row. Of several rounds the least is taken of each
step, because everything else that the machine does only adds.

Run: .venv/bin/python bench/holding.py [--rounds N]
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import records
from records import TIMES, Record, over_rounds

from kontract import primkey
from kontract.core import limits
from kontract.core.errors import HttpError
from kontract.core.model.rows import RowType
from kontract.core.model.signatures import Signature
from kontract.core.types import Version
from kontract.gateway.results import Result

LONGEST = 50  # ms that a call should hold a process at most
DICE = random.Random(1)


class Ctx:
    """Stands for the context, which no function here takes."""


def body(number: Callable[[], str], at_most: int = limits.JSON_VALUES - 10) -> bytes:
    """An array of so many numbers, or as many as fit."""
    numbers: list[str] = []
    size = 0
    while len(numbers) < at_most and size < limits.WRITE_SET_BYTES - 1000:
        numbers.append(number())
        size += len(numbers[-1]) + 1
    return f"[[{','.join(numbers)}]]".encode()


def digits(count: int) -> str:
    """So many digits without a zero."""
    return "".join(DICE.choices("123456789", k=count))


CASES: list[tuple[str, Any, bytes]] = [
    ("integers, list[int]", list[int], body(lambda: digits(6))),
    ("floats, Any", Any, body(lambda: repr(DICE.random()))),
    ("floats, list[float]", list[float], body(lambda: repr(DICE.random()))),
    ("floats written with 17 digits, list[float]", list[float], body(lambda: f"{DICE.random():.17f}")),
    ("integers of 19 digits, Any", Any, body(lambda: digits(19))),
    ("floats of 1e22, Any", Any, body(lambda: "1e22")),
    ("Decimals of 55 digits, list[Decimal]", list[Decimal], body(lambda: f"1.{digits(54)}")),
    ("numbers of 55 digits, Any", Any, body(lambda: f"1.{digits(54)}", limits.JSON_UNUSUAL_NUMBERS)),
    ("numbers of 55 digits, list[float] (refused)", list[float], body(lambda: f"1.{digits(54)}")),
    ("integers of 400 digits, Any", Any, body(lambda: digits(limits.NUMBER_DIGITS))),
    ("integers of 4,000 digits, Any (refused)", Any, body(lambda: digits(4000))),
    ("floats of 1e300, list[float]", list[float], body(lambda: "1.5e300", limits.JSON_UNUSUAL_NUMBERS)),
]


class Call:
    """What is done with the argument of a function that stores it and returns it."""

    def __init__(self, hint: Any) -> None:
        """Declare the function and the table."""

        async def function(a: Any) -> Any: ...

        function.__annotations__ = {"a": hint, "return": hint}
        self._signature, self._result = Signature(function, "f", Ctx), Result(function, "f")
        self._rows = RowType("t", msgspec.defstruct("Row", [("id", Annotated[str, primkey]), ("v", hint)]))

    def hold(self, text: bytes, rounds: int) -> tuple[float, float]:
        """Return the milliseconds of the call, and of reading the row."""
        spent, value = least(rounds, lambda: self._signature.read(text).take(None)["a"])
        if value is None:
            return spent, 0.0
        written, data = least(rounds, lambda: self._rows.encode({"v": value}, "a"))
        answered, _ = least(rounds, lambda: self._result.response(value))
        read = 0.0
        if data is not None:
            read, _ = least(rounds, lambda: self._rows.decode(Version("a", data, 1, "o")))
        return spent + written + answered, read

    def echo(self, text: bytes, rounds: int) -> float:
        """Return the milliseconds of a call that returns its argument."""
        spent, value = least(rounds, lambda: self._signature.read(text).take(None)["a"])
        return spent + least(rounds, lambda: self._result.response(value))[0]


def least(rounds: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the least processor time, and what came of it; None when it was refused."""
    spent, made = [], None
    for _ in range(rounds):
        before = time.process_time()
        try:
            made = work()
        except HttpError:
            made = None
        spent.append(1000 * (time.process_time() - before))
    return min(spent), made


def measure(rounds: int) -> list[Record]:
    """Measure every case."""
    measured = []
    for name, hint, text in CASES:
        call, read = Call(hint).hold(text, rounds)
        echo = Call(str).echo(msgspec.json.encode([text.decode()]), rounds)
        behind = f"{len(text):,} bytes"
        held = over_rounds(f"a call with {name}", [call], "ms", aim=f"at most {LONGEST}", behind=behind)
        beside = Record(held.scenario, call / echo, TIMES, peer="echo of as much text", behind=f"{echo:.1f} ms")
        measured += [held, beside]
        if read:
            measured.append(Record(f"reading a row of {name}", read, "ms", behind=behind))
    return measured


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    records.add_option(parser)
    options = parser.parse_args()
    measured = measure(options.rounds)
    print(f"CPython {platform.python_version()}, {platform.machine()}; ms of processor time")
    for one in measured:
        peer = f"{one.unit} {one.peer}" if one.peer else one.unit
        print(f"  {one.scenario:<64} {one.value:8.1f} {peer:<28} {one.behind}")
    records.write(options.records, measured)


if __name__ == "__main__":
    main()
