"""What a benchmark hands on: measured records, and beside them the table that it printed.

A benchmark is run by itself, or by all.py with `--records FILE`; then it writes its records there as JSON.
"""

from __future__ import annotations

import json
import operator
import statistics
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PRODUCT = "Kontract"
TIMES = "times"  # the unit of ratios

_AIMS = {"at least": operator.ge, "at most": operator.le, "exactly": operator.eq}


@dataclass(frozen=True)
class Record:
    """One figure. A ratio (``unit`` is TIMES) is that of the product to ``peer``.

    ``low`` and ``high`` are the least and the greatest of the rounds, or None where there was one round or where it was
    counted. ``aim``: one of the words above and a number, in the record's unit; empty where no aim was set. ``behind``:
    what the ratio was made of.
    """

    scenario: str
    value: float
    unit: str
    product: str = PRODUCT
    peer: str = ""
    low: float | None = None
    high: float | None = None
    aim: str = ""
    behind: str = ""

    def __post_init__(self) -> None:
        """Refuse an aim that cannot be judged."""
        if self.aim:
            is_met(self)


def is_met(record: Record) -> bool | None:
    """Whether the value reaches the aim; None where none was set."""
    if not record.aim:
        return None
    word, _, number = record.aim.rpartition(" ")
    return bool(_AIMS[word](record.value, float(number.replace(",", ""))))


def over_rounds(scenario: str, values: Sequence[float], unit: str, **more: str) -> Record:
    """The median of the rounds, with the least and the greatest."""
    spread = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Record(scenario, statistics.median(values), unit, low=spread[0], high=spread[1], **more)


def add_option(parser: ArgumentParser) -> None:
    """Let all.py ask for the records."""
    parser.add_argument("--records", type=Path, metavar="FILE", help="write what was measured here too, as JSON")


def write(path: Path | None, records: Iterable[Record]) -> None:
    """Write them, if a file was named."""
    if path is not None:
        path.write_text(json.dumps([asdict(record) for record in records]), encoding="utf-8")


def read(path: Path) -> list[dict[str, object]]:
    """Read what `write` wrote."""
    return [asdict(Record(**one)) for one in json.loads(path.read_text(encoding="utf-8"))]
