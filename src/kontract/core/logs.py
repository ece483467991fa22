"""Log lines: one JSON object each."""

from __future__ import annotations

from typing import Any

import msgspec

LEVELS = ("debug", "info", "warning", "error")
"""What may be said of a line, the least first."""


def from_level(level: str) -> frozenset[str]:
    """Return the levels of the lines that are written when this is the least of them; raises ValueError."""
    return frozenset(LEVELS[LEVELS.index(level) :])


def line(level: str, event: str, fields: dict[str, Any]) -> str:
    """Return a line without fields that are None. It never fails: logging must not break a request."""
    said = {"level": level, "event": event, **fields}
    if None in fields.values():
        said = {name: value for name, value in said.items() if value is not None}
    try:
        return msgspec.json.encode(said, enc_hook=repr).decode()
    except (TypeError, ValueError, RecursionError):
        plain = {str(name): ascii(value) for name, value in fields.items()}
        return msgspec.json.encode({"level": level, "event": event, **plain}).decode()
