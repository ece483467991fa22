"""What may be stored in a row: JSON objects that PostgreSQL's jsonb stores and returns unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError
from kontract.core.model import values

_encode = msgspec.json.Encoder().encode
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


TOO_DEEP = f"? is nested deeper than {limits.JSON_DEPTH} levels"


def check(value: Any, what: str) -> None:
    """Raise InvalidRequestError if jsonb would reject or change ``value`` (decoded JSON). ``what`` names it."""
    normal(value, what)


def normal(value: Any, what: str) -> Any:
    """Return a value of any type as decoded JSON in normal form (:mod:`kontract.core.model.values`).

    Raises InvalidRequestError for what jsonb cannot hold. ``what`` names the value.
    """
    try:
        made, digits = values.plain(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"{what} cannot be stored: {error}"
        raise InvalidRequestError(message) from None
    try:
        return _normal(made, digits, 1)
    except _FlawError as flaw:
        where = what + "".join(reversed(flaw.path[-PATH_STEPS:]))
        raise InvalidRequestError(flaw.text.replace("?", where, 1)) from None


PATH_STEPS = 8
"""How many steps of the path to a flaw a message shows: callers can make names long."""


class _FlawError(Exception):
    """A flaw; its path is collected while the exception propagates, because most documents have none."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.path: list[str] = []


def _normal(value: Any, digits: dict[int, str], depth: int) -> Any:
    if depth > limits.JSON_DEPTH:
        raise _FlawError(TOO_DEEP)
    if isinstance(value, str):
        _check_text(value, "?")
        return value
    if isinstance(value, (bool, int, msgspec.Raw)) or value is None:
        return value
    if isinstance(value, dict):
        if len(value) > _FEW and depth < limits.JSON_DEPTH:
            items = _flat(list(value.values()), digits)
            if items is not None and _is_text("".join(value)):
                return dict(zip(value, items, strict=True))
        made: dict[str, Any] = {}
        step = ""
        try:
            for key, item in value.items():
                step = ""
                _check_text(key, "a key of ?")
                step = f".{key:.40}"
                made[key] = _normal(item, digits, depth + 1)
        except _FlawError as flaw:
            flaw.path.append(step)
            raise
        return made
    if isinstance(value, (list, tuple)):
        items = _flat(value, digits) if len(value) > _FEW and depth < limits.JSON_DEPTH else None
        if items is not None:
            return items
        items = []
        try:
            for item in value:
                items.append(_normal(item, digits, depth + 1))
        except _FlawError as flaw:
            flaw.path.append(f"[{len(items)}]")
            raise
        return items
    return _scalar(value, digits)


_FEW = 8
"""Up to so many values are checked one by one, which is faster than checking them all at once."""

_FIXED = frozenset({bool, int, str, type(None)})
_is_float = partial(type.__instancecheck__, float)
_is_str = partial(type.__instancecheck__, str)


def _flat(items: Sequence[Any], digits: dict[int, str]) -> list[Any] | None:
    """Return scalars in normal form; None if some need a check of their own.

    It runs in compiled code except for values with a special spelling: a caller may send thousands, which must not
    block the process.
    """
    kinds = set(map(type, items))
    if not kinds <= values.SCALARS or (str in kinds and not _is_text("".join(filter(_is_str, items)))):
        return None
    if float in kinds and not digits and values.are_plain(list(filter(_is_float, items))):
        kinds.remove(float)
    if kinds <= _FIXED:
        return list(items)
    try:
        return [one if type(one) in _FIXED else _scalar(one, digits) for one in items]
    except _FlawError:
        return None


def _is_text(text: str) -> bool:
    try:
        _check_text(text, "")
    except _FlawError:
        return False
    return True


def _scalar(value: Any, digits: dict[int, str]) -> Any:
    try:
        if not isinstance(value, float):
            return values.spell(value)
        text = digits.get(id(value))
        if text is not None:
            values.check_digits(Decimal(text))
            return msgspec.Raw(text.encode())
    except values.UnspeakableError as error:
        raise _FlawError(str(error)) from None
    if not math.isfinite(value):
        raise _FlawError(f"? is {value}, which JSON cannot hold; store null or a string instead")
    return values.written(value)


def _check_text(text: str, where: str) -> None:
    if "\x00" in text:
        raise _FlawError(f"{where} contains a NUL character, which PostgreSQL cannot store")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _FlawError(f"{where} contains an unpaired surrogate, which is not valid text") from None


def check_text(text: str, where: str) -> None:
    """Raise InvalidRequestError for text that PostgreSQL cannot store: NUL, or an unpaired surrogate."""
    try:
        _check_text(text, where)
    except _FlawError as flaw:
        raise InvalidRequestError(flaw.text) from None


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
    """Encode a row that is in normal form."""
    try:
        text = _encode(document).decode()
    except ValueError:
        message = f"{what} has an integer of more than 4,300 digits; store it as a string"
        raise InvalidRequestError(message) from None
    if len(text) > limits.WRITE_SET_BYTES:
        message = f"{what} is larger than {limits.WRITE_SET_BYTES} bytes"
        raise PayloadTooLargeError(message)
    return text


def encode_json(value: Any) -> str:
    """Return a value in normal form as JSON."""
    return _encode(value).decode()


def parts(text: str) -> dict[str, msgspec.Raw]:
    """Return the fields of an encoded row as JSON text, digit for digit."""
    return _decode_parts(text)


def text_of(part: str | None) -> str | None:
    """Return the JSON text of a field as PostgreSQL's ``->>`` returns the field; None for null and for None."""
    if part is None or part == "null":
        return None
    return str(msgspec.json.decode(part)) if part.startswith('"') else part


def part(text: str, field: str) -> str | None:
    """Return the JSON text of one field of an encoded row, digit for digit; None when it has no such field."""
    raw = _decode_parts(text).get(field)
    return None if raw is None else bytes(raw).decode()
