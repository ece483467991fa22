"""What may be stored in a row: JSON objects that PostgreSQL's jsonb takes and gives back unchanged."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError

_encode = msgspec.json.Encoder().encode
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)


def check_depth(text: bytes, what: str, levels: int = limits.JSON_DEPTH) -> None:
    """Raise InvalidRequestError if JSON text is nested too deep, before anything decodes it.

    A decoder recurses in C, and in workerd its stack is small: 100,000 open brackets end the isolate for everybody.
    """
    if text.count(b"[") + text.count(b"{") <= levels:
        return
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        token = found[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > levels:
                raise _too_deep(what)
        elif token in (b"]", b"}"):
            depth -= 1


def _too_deep(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{what} is nested deeper than {limits.JSON_DEPTH} levels")


def check(value: Any, what: str) -> None:
    """Raise InvalidRequestError if jsonb would refuse or change ``value`` (decoded JSON). ``what`` names it."""
    _check(value, what, 1)


def _check(value: Any, where: str, depth: int) -> None:
    if depth > limits.JSON_DEPTH:
        raise _too_deep(where)
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            message = f"{where} is {value}, which JSON cannot hold; store null or a string instead"
            raise InvalidRequestError(message)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key, f"a key of {where}")
            _check(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check(item, f"{where}[{position}]", depth + 1)


def check_text(text: str, where: str) -> None:
    """Raise InvalidRequestError for text that PostgreSQL cannot store: NUL, or half of a surrogate pair."""
    if "\x00" in text:
        message = f"{where} contains a NUL character, which PostgreSQL cannot store"
        raise InvalidRequestError(message)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{where} contains half of a surrogate pair, which is not text"
        raise InvalidRequestError(message) from None


def check_id(row_id: Any, table: str) -> str:
    """Return a valid row id; raises InvalidRequestError otherwise."""
    if not isinstance(row_id, str) or not row_id:
        message = f"the id of a row of {table!r} must be a non-empty string, not {row_id!r:.100}"
        raise InvalidRequestError(message)
    check_text(row_id, f"the id of a row of {table!r}")
    if row_id.startswith("\x01"):
        message = f"the id of a row of {table!r} must not start with a control character"
        raise InvalidRequestError(message)
    if len(row_id.encode()) > limits.ROW_ID_BYTES:
        message = f"the id of a row of {table!r} is longer than {limits.ROW_ID_BYTES} bytes"
        raise InvalidRequestError(message)
    return row_id


def encode(document: dict[str, Any], what: str) -> str:
    """Encode a checked row value."""
    check(document, what)
    try:
        text = _encode(document).decode()
    except OverflowError:
        message = f"{what} holds an integer beyond 64 bits; store it as a string"
        raise InvalidRequestError(message) from None
    if len(text) > limits.WRITE_SET_BYTES:
        message = f"{what} is larger than {limits.WRITE_SET_BYTES} bytes"
        raise PayloadTooLargeError(message)
    return text


def part(text: str, field: str) -> str | None:
    """Return the JSON text of one field of an encoded row, digit for digit; None when it has no such field."""
    raw = _decode_parts(text).get(field)
    return None if raw is None else bytes(raw).decode()
