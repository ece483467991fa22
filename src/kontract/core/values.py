"""Normal forms of stored values, and numbers that keep their digits.

Equal values are stored as equal text, so that ``@>`` finds them and an index orders them:

- Decimal: a string with all digits, no exponent, no zeros at its end ("10.5"; 10.50 and 1.05E+1 are the same);
- datetime: UTC with six decimals and ``Z``; one without an offset is refused, because nobody knows which instant it is;
- time: six decimals; one with an offset is refused, because such times have no order without a date;
- float: never -0.0, and whole ones keep a decimal point, so that jsonb gives back a float.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any, Self

import msgspec

from kontract.core import limits

NATIVE = (Decimal, datetime, time)
"""What :func:`plain` leaves as it is, for :func:`spell`."""

LONG = re.compile(rb"[0-9.]{16}|[0-9.][eE]")
"""Found in every JSON text that has a number which a float may be unable to hold (and in others)."""

_LONG_NUMBER = re.compile(r"-?(?:[0-9.]{16,}(?:[eE][-+]?[0-9]+)?|[0-9.]+[eE][-+]?[0-9]+)")

_SIGNIFICANT = re.compile(r"[1-9](?:[0-9.]*[1-9])?")

_WHOLE_WITH_EXPONENT = 1e16
"""From here on Python writes floats with an exponent, which jsonb turns into the digits of an integer."""


class Number(float):
    """A JSON number with more digits than a float holds, where no type was declared for it.

    It computes as the nearest float, and is written with the digits that it came with.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """``text``: as it stands in JSON."""
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __repr__(self) -> str:
        """All digits."""
        return self.text

    __str__ = __repr__


def number(text: str) -> float:
    """Return a JSON number of no declared type: a float, or a Number when a float does not hold it."""
    value = float(text)
    return value if is_held(value, text) else Number(text)


def is_held(value: float, text: str) -> bool:
    """Whether the float that ``text`` was read as, written with as many digits, is ``text`` again."""
    # Quickly, because a caller may send thousands: most are written as Python and JavaScript write floats.
    if (len(text) <= 15 and "e" not in text and "E" not in text) or repr(value) == text:
        return True
    if not math.isfinite(value):
        return False
    significant = _SIGNIFICANT.search(re.split("[eE]", text)[0] if value == 0 else text)
    if significant is None:  # zero
        return True
    digits = significant[0].replace(".", "")
    if value == 0 or len(digits) > limits.NUMBER_DIGITS:
        return False
    return f"{value:.{len(digits) - 1}e}".partition("e")[0].replace(".", "").removeprefix("-") == digits


def all_held(joints: bytes) -> bool:
    """Whether a float holds each number of a JSON text, of which ``joints`` is what is outside of strings.

    The numbers are mostly compared in compiled code: many of them must not keep a process from answering others.
    """
    tokens = _LONG_NUMBER.findall(joints.decode("ascii", "replace"))
    found = list(map(float, tokens))
    odd = [(value, text) for value, text, same in zip(found, tokens, map(repr, found), strict=True) if same != text]
    return all(is_held(value, text) for value, text in odd)


def hook(value: Any) -> Any:
    """Encode what msgspec does not know: a Number, as its digits."""
    if type(value) is Number:
        return msgspec.Raw(value.text.encode())
    message = f"Encoding objects of type {type(value).__name__} is unsupported"
    raise TypeError(message)


def check_finite(value: Any) -> None:
    """Raise ValueError for NaN and infinity anywhere in a value, which msgspec would write as null."""
    json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=str), allow_nan=False)


decode = msgspec.json.Decoder(float_hook=number).decode
"""Decode JSON of no declared type; no number loses a digit."""


def plain(value: Any) -> tuple[Any, dict[int, str]]:
    """Return ``value`` as dicts, lists, scalars and :data:`NATIVE`, and the digits of Numbers in it.

    msgspec lets no class of ours through, so a float stands for each Number, known by its ``id`` while that lives.
    """
    digits: dict[int, str] = {}

    def stand_in(one: Any) -> Any:
        if type(one) is not Number:
            return hook(one)
        instead = float(one) * 1.0  # one of its own, whose id nothing else has
        digits[id(instead)] = one.text
        return instead

    return msgspec.to_builtins(value, builtin_types=NATIVE, str_keys=True, enc_hook=stand_in), digits


def with_numbers(value: Any, digits: dict[int, str]) -> Any:
    """Return what :func:`plain` made with the Numbers themselves in place of what stands for them."""
    if not digits:
        return value
    if isinstance(value, dict):
        return {key: with_numbers(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_numbers(item, digits) for item in value]
    return Number(digits[id(value)]) if id(value) in digits else value


def has_numbers(value: Any) -> bool:
    """Whether there is a Number in a value of dicts, lists and scalars."""
    if isinstance(value, dict):
        return any(map(has_numbers, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_numbers, value))
    return type(value) is Number


def has_spellings(value: Any) -> bool:
    """Whether a value as :func:`plain` returns it holds something that others may spell otherwise in JSON."""
    if isinstance(value, dict):
        return any(map(has_spellings, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_spellings, value))
    return isinstance(value, (Decimal, datetime, time))


class UnspeakableError(ValueError):
    """A value that has no normal form; the sentence says why, with a question mark for its place."""


def spell(value: Decimal | datetime | time) -> str:
    """Return the normal text of a value; raises UnspeakableError."""
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, datetime):
        return _datetime(value)
    if value.tzinfo is not None:
        message = "? is a time with an offset, which has no order; use a datetime, or a time without an offset"
        raise UnspeakableError(message)
    return value.isoformat("microseconds")


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        message = f"? is {value}, which is no number"
        raise UnspeakableError(message)
    check_digits(value)
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").removesuffix(".")
    return "0" if text in ("-0", "") else text


def check_digits(value: Decimal) -> None:
    """Raise UnspeakableError for a number that would take very many digits without an exponent."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and max(value.adjusted() + 1, 0) - min(exponent, 0) > limits.NUMBER_DIGITS:
        message = f"? has more than {limits.NUMBER_DIGITS} digits when it is written without an exponent"
        raise UnspeakableError(message)


def _datetime(value: datetime) -> str:
    if value.utcoffset() is None:
        message = "? is a datetime without an offset, so nobody knows which instant it is; send 2026-01-31T12:00:00Z"
        raise UnspeakableError(message)
    try:
        return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    except OverflowError:
        message = "? is outside of the years 1 to 9999 in UTC"
        raise UnspeakableError(message) from None


def written(value: float) -> float | msgspec.Raw:
    """Return a finite float as it is stored."""
    if abs(value) >= _WHOLE_WITH_EXPONENT:
        return msgspec.Raw(f"{Decimal(repr(value)):f}.0".encode())
    return value or 0.0
