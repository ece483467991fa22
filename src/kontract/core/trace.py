"""W3C Trace Context (Recommendation, level 1): which trace a request belongs to.

A header from outside is accepted only if it follows every rule; then it is only hexadecimal digits, so it may appear in
a log line and in an SQL comment.
"""

from __future__ import annotations

import re

from msgspec import Struct

PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)

IDS_BYTES = 24
"""Random bytes that :func:`begin` takes: 16 for a trace, 8 for the span."""


class Trace(Struct, frozen=True):
    """The span of a request: 32 hexadecimal digits of its trace, 16 of its own, and whether a tracer records."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The header for requests that this one makes: this span is their parent."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def begin(traceparent: str | None, ids: bytes) -> Trace:
    """Return the span of a request: in the trace of a valid ``traceparent``, else in a new one nobody records."""
    span_id = ids[16:24].hex()
    known = parse(traceparent) if traceparent is not None else None
    if known is None:
        return Trace(ids[:16].hex(), span_id, sampled=False)
    return Trace(known[0], span_id, known[1])


def parse(traceparent: str) -> tuple[str, bool] | None:
    """Return trace id and sampled flag; None if invalid (section 3.2: versions, lengths, zeros, case)."""
    found = PARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    # A later version may append fields after a dash; version 00 has none, and ff is forbidden.
    if version == "ff" or (version == "00" and more is not None):
        return None
    if trace_id == "0" * 32 or parent_id == "0" * 16:
        return None
    return trace_id, bool(int(flags, 16) & 1)
