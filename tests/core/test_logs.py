"""Log lines: whatever is told, the line is written."""

from __future__ import annotations

import json

import pytest

from kontract.core import logs


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


LOOP: list = []
LOOP.append(LOOP)


def test_a_level_is_written_with_all_above_it():
    assert logs.from_level("debug") == set(logs.LEVELS)
    assert logs.from_level("error") == {"error"}
    with pytest.raises(ValueError):
        logs.from_level("all")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text\n\x00 with \u2028 lines", "text\n\x00 with \u2028 lines"),
        (5, 5),
        ({"a": [1]}, {"a": [1]}),
        (Odd(), "<odd>"),
        ([Odd()], ["<odd>"]),
        ("\ud800", "'\\ud800'"),
        ({"\ud800": 1}, "{'\\ud800': 1}"),
        (LOOP, "[[...]]"),
        (float("nan"), None),
    ],
)
def test_a_line_is_one_line_of_json(value, told):
    """Nobody can write a second line into the log, and no request fails because of what is told of it."""
    line = logs.line("info", "request", {"value": value, "nothing": None, "n": 1})
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["event"]) == ("info", "request")
    assert said["value"] == told
