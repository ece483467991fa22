"""Server-sent events, in UTF-8 (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import Any

from kontract.gateway.http import encode_json

RETRY_MS = 1_000
"""How long clients should wait before they reconnect, in ms."""

HEARTBEAT = b": heartbeat\n\n"

OPENING = b"retry: %d\n\n" % RETRY_MS


def event(data: Any, *, name: str = "", id: str = "") -> bytes:  # noqa: A002 - the standard's word
    """Return one event. ``data`` is written as JSON, which has no line break; a name or id with one is a defect."""
    if "\n" in name or "\r" in name or "\n" in id or "\r" in id or "\0" in id:
        message = "an event's name and id have one line"
        raise ValueError(message)
    head = (f"event: {name}\n" if name else "") + (f"id: {id}\n" if id else "")
    return b"%sdata: %s\n\n" % (head.encode(), encode_json(data))
