"""What HTTP allows in a header field (RFC 9110, sections 5.1 and 5.5), and how much of it this system passes on.

A line break in a value would become a separate header at the next hop, so everything from outside and from functions is
checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kontract.core import limits

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


def fits(name: bytes, value: bytes) -> bool:
    """Return whether this field can be sent: a name in lower case, a value in ISO 8859-1."""
    return (
        _NAME.fullmatch(name) is not None and len(value) <= limits.HEADER_BYTES and _VALUE.fullmatch(value) is not None
    )


def encode(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a field as bytes, the name in lower case; ValueError for one that cannot be sent."""
    field = name.lower().encode("ascii", "replace"), value.encode("iso-8859-1", "replace")
    if not fits(*field) or field[1].decode("iso-8859-1") != value:
        message = f"the header {name!r:.100} cannot be sent"
        raise ValueError(message)
    return field


def put(headers: dict[str, str], name: str, value: str) -> None:
    """Set a field and replace any of that name in any case: names are case-insensitive (section 5.1)."""
    lowered = name.lower()
    for known in [known for known in headers if known.lower() == lowered]:
        del headers[known]
    headers[name] = value


def put_default(headers: dict[str, str], name: str, value: str) -> None:
    """Set a field unless there is one of that name in any case."""
    if _name_in(headers, name) is None:
        headers[name] = value


def add(headers: dict[str, str], name: str, values: str) -> None:
    """Add members to a field whose value is a list (section 5.6.1), each once.

    If a function has filled the field up to HEADER_BYTES, they are left out, so that the answer can be sent.
    """
    known = _name_in(headers, name)
    if known is None:
        headers[name] = values
        return
    there = {member.strip().lower() for member in headers[known].split(",")}
    new = [member.strip() for member in values.split(",") if member.strip().lower() not in there]
    joined = ", ".join([headers[known], *new])
    if "*" not in there and len(joined) <= limits.HEADER_BYTES:  # "*" is everything
        headers[known] = joined


def _name_in(headers: Mapping[str, str], name: str) -> str | None:
    lowered = name.lower()
    for known in headers:
        if known.lower() == lowered:
            return known
    return None


def check(headers: Mapping[str, str]) -> None:
    """Raise ValueError unless a function may return these headers."""
    if not headers:
        return
    if len(headers) > limits.HANDLER_HEADERS:
        message = f"{len(headers)} headers are more than the limit of {limits.HANDLER_HEADERS}"
        raise ValueError(message)
    if len(dict(encode(name, value) for name, value in headers.items())) < len(headers):
        message = "a header appears twice, in different case"
        raise ValueError(message)
