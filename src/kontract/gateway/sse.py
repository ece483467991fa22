"""Server-sent events, as text (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import Any

from kontract.gateway.http import encode_json

RETRY_MS = 1_000
"""How long clients should wait before they reconnect, in ms."""

HEARTBEAT = ": heartbeat\n\n"

OPENING = f"retry: {RETRY_MS}\n\n"


def event(data: Any, *, name: str = "", id: str = "") -> str:  # noqa: A002 - the standard's word
    """Return one event. ``data`` is written as JSON, which has no line break; a name or id with one is a defect."""
    if "\n" in name or "\r" in name or "\n" in id or "\r" in id or "\0" in id:
        message = "an event's name and id have one line"
        raise ValueError(message)
    lines = [f"event: {name}"] if name else []
    if id:
        lines.append(f"id: {id}")
    lines.append(f"data: {encode_json(data).decode()}")
    return "\n".join(lines) + "\n\n"
