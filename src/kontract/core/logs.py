"""Log lines: one JSON object each."""

from __future__ import annotations

from typing import Any

import msgspec


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
