"""Normal forms of stored values, and numbers that keep their digits.

Equal values are stored as equal text, so that ``@>`` finds them and an index orders them:

- Decimal: a string with all digits, no exponent, no zeros at its end ("10.5"; 10.50 and 1.05E+1 are the same);
- datetime: UTC with six decimals and ``Z``; one without an offset is refused, because its instant is unknown;
- time: six decimals; one with an offset is refused, because such times have no order without a date;
- float: never -0.0, and whole ones keep a decimal point, so that jsonb gives back a float.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import partial
from itertools import chain, compress, repeat
from operator import itemgetter, ne
from typing import Any, Generic, Self, TypeVar

import msgspec

from kontract.core import limits
from kontract.core.incoming import outside_of_strings
from kontract.core.model.kinds import OPEN, holds, kind_of

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode_floats = msgspec.json.Decoder(list[float]).decode

NATIVE = (Decimal, datetime, time)
"""What :func:`plain` leaves unchanged, for :func:`spell`."""

_LONG = re.compile(rb"[0-9](?:[0-9.]{15}|[eE])")
"""Found in every JSON text that has a number which a float may be unable to hold (and in others)."""

_LONG_NUMBER = re.compile(rb"-?(?:[0-9.]{16,}+(?:[eE][-+]?[0-9]+)?|[0-9.]++[eE][-+]?[0-9]+)")

_FLOAT = re.compile(rb"(?<![0-9.])-?[0-9]++(?:\.[0-9]++(?:[eE][-+]?[0-9]++)?|[eE][-+]?[0-9]++)")

_WHOLE_WITH_EXPONENT = 1e16
"""From here on Python writes floats with an exponent, which jsonb turns into the digits of an integer."""


class Number(float):
    """A JSON number with more digits than a float holds, where no type was declared for it.

    It computes as the nearest float, and is written with its original digits.
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


SCALARS = frozenset({bool, int, float, str, type(None), Number, *NATIVE})
"""Types of decoded values that hold no others."""


def are_scalars(items: Iterable[Any]) -> bool:
    """Return whether all values are scalars, without a loop in Python."""
    return SCALARS.issuperset(map(type, items))


def are_held(items: Collection[Any]) -> bool:
    """Return whether all are scalars, and floats can hold all numbers among them; False: perhaps not."""
    kinds = set(map(type, items))
    if not kinds <= SCALARS or Number in kinds:
        return False
    if int not in kinds:
        return True
    integers: list[int] = list(filter(_is_integer, items))
    return min(integers) >= -_EXACT and max(integers) <= _EXACT


_is_integer = partial(type.__instancecheck__, int)

_EXACT = 2**53
"""A float holds every integer up to here."""


def is_held(value: float, text: str) -> bool:
    """Return whether the float read from ``text``, written with as many digits, is ``text`` again."""
    return (len(text) <= 15 and "e" not in text and "E" not in text) or not _unheld([text.encode()], [value])


def unheld(joints: bytes, *, integers: bool = False) -> tuple[str, ...]:
    """Return the numbers of a JSON text that a float cannot hold; ``joints`` is the text outside strings.

    ``integers``: whether integers count, because they may stand for a float.

    Compiled code checks all of them: many numbers must not block the process.
    """
    if not _LONG.search(joints):
        return ()
    tokens = (_LONG_NUMBER if integers else _FLOAT).findall(joints)
    text = b"[%s]" % b",".join(tokens)
    try:
        found = _decode_floats(text)
        written = _encode(found)  # as most programs write them
    except msgspec.DecodeError:  # out of range
        try:
            found = list(map(float, tokens))
        except ValueError:  # not JSON, as its decoder will say
            return ()
        written = b""
    if written == text:
        return ()
    others = list(map(ne, tokens, written[1:-1].split(b","))) if written else repeat(True)
    left = list(compress(tokens, others))
    return tuple(map(bytes.decode, _unheld(left, list(compress(found, others)))))


def _unheld(tokens: Sequence[bytes], found: Sequence[float]) -> list[bytes]:
    """Return the texts that differ from their float written with as many digits."""
    wanted = _digits(tokens)
    written = "%.*g " * len(found) % tuple(chain.from_iterable(zip(map(len, wanted), found, strict=True)))
    return list(compress(tokens, map(ne, wanted, _digits(written.encode().split()))))


def _digits(tokens: Iterable[bytes]) -> list[bytes]:
    """Return the digits of numbers from the first to the last that is not zero."""
    mantissas = map(itemgetter(0), map(bytes.partition, map(bytes.lower, tokens), repeat(b"e")))
    return list(map(bytes.strip, b" ".join(mantissas).translate(None, b"-.").split(b" "), repeat(b"0")))


def hook(value: Any) -> Any:
    """Encode what msgspec does not know: a Number, as its digits."""
    if type(value) is Number:
        return msgspec.Raw(value.text.encode())
    message = f"Encoding objects of type {type(value).__name__} is unsupported"
    raise TypeError(message)


def check_finite(value: Any) -> None:
    """Raise ValueError for NaN and infinity anywhere in a value, which msgspec would write as null."""
    json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=str), allow_nan=False)


class Decoder(Generic[T]):
    """Decodes JSON to a type; in untyped places, numbers that a float cannot hold become Numbers."""

    def __init__(self, hint: Any = Any) -> None:
        """Prepare what can be prepared."""
        self._hint = hint
        self._decode: Callable[[bytes | str], T] = msgspec.json.Decoder(hint).decode
        self.is_open = _is_open(hint)
        """Whether there may be such numbers."""

    def decode(self, text: bytes | str) -> T:
        """Return the value; raises what msgspec raises."""
        if not self.is_open:
            return self._decode(text)
        raw = text.encode() if isinstance(text, str) else bytes(text)
        if not _LONG.search(raw):
            return self._decode(raw)
        joints = outside_of_strings(raw)
        return self.decode_with(raw, joints, unheld(joints))

    def decode_with(self, text: bytes, joints: bytes, odd: Sequence[str], at_most: int | None = None) -> T:
        """Return the value of a text for which the numbers that a float cannot hold are known.

        Raises TooManyNumbersError for more than ``at_most`` Numbers.
        """
        if not self.is_open or not odd:
            return self._decode(text)
        made = _Reader(joints, odd, at_most)
        decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(self._hint, float_hook=made.__getitem__)
        return decoder.decode(text)


def _is_open(hint: Any) -> bool:
    try:
        kind = kind_of(hint)
    except TypeError:  # what is annotated with something that has no hash
        kind = msgspec.inspect.type_info(hint)
    return holds(kind, OPEN)


class TooManyNumbersError(Exception):
    """There are too many untyped numbers that a float cannot hold."""


class _Reader(dict[str, float]):
    """Converts the numbers of a text. Python code runs only for those that a float cannot hold."""

    def __init__(self, joints: bytes, odd: Sequence[str], at_most: int | None) -> None:
        held = set(map(bytes.decode, _FLOAT.findall(joints))).difference(odd)
        super().__init__(zip(held, map(float, held), strict=True))
        self._left = at_most

    def __missing__(self, text: str) -> float:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise TooManyNumbersError
        return Number(text)


decode = Decoder[Any]().decode
"""Decodes JSON without a declared type; no number loses a digit."""


def plain(value: Any) -> tuple[Any, dict[int, str]]:
    """Return ``value`` as dicts, lists, scalars and :data:`NATIVE`, and the digits of Numbers in it.

    msgspec passes none of our classes through, so a float stands for each Number, recognized by its ``id`` while it
    lives.
    """
    digits: dict[int, str] = {}

    def stand_in(one: Any) -> Any:
        if type(one) is not Number:
            return hook(one)
        instead = float(one) * 1.0  # a new one, whose id nothing else has
        digits[id(instead)] = one.text
        return instead

    return msgspec.to_builtins(value, builtin_types=NATIVE, str_keys=True, enc_hook=stand_in), digits


def with_numbers(value: Any, digits: dict[int, str]) -> Any:
    """Return the result of :func:`plain` with the Numbers put back."""
    if not digits:
        return value
    if isinstance(value, dict):
        return {key: with_numbers(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_numbers(item, digits) for item in value]
    return Number(digits[id(value)]) if id(value) in digits else value


def has_numbers(value: Any) -> bool:
    """Return whether a value of dicts, lists and scalars has a Number."""
    return _has((Number,), value)


def has_spellings(value: Any) -> bool:
    """Return whether a result of :func:`plain` has something with several spellings in JSON."""
    return _has(NATIVE, value)


def _has(wanted: tuple[type, ...], value: Any) -> bool:
    if not isinstance(value, (dict, list, tuple)):
        return type(value) in wanted
    items = value.values() if isinstance(value, dict) else value
    kinds = set(map(type, items))
    return not kinds.isdisjoint(wanted) or (not kinds <= SCALARS and any(_has(wanted, item) for item in items))


class UnspeakableError(ValueError):
    """A value without a normal form; the message says why, with a question mark for its place."""


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
    text = check_decimal(value)
    if "E" in text:
        text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").removesuffix(".")
    return "0" if text in ("-0", "") else text


def check_decimal(value: Decimal) -> str:
    """Return the text of a Decimal; raises UnspeakableError for NaN, infinity and as :func:`check_digits`."""
    text = str(value)
    if not value.is_finite():
        message = f"? is {text:.20}, which is not a number"
        raise UnspeakableError(message)
    if len(text) > limits.NUMBER_DIGITS or "E" in text:
        check_digits(value)
    return text


def are_short(decimals: Collection[Decimal]) -> bool:
    """Return whether all of them are certainly fine; compiled code checks thousands at once."""
    found = list(map(str, decimals))
    return max(map(len, found)) <= limits.NUMBER_DIGITS // 2 and _FAR.search(",".join(found)) is None


_FAR = re.compile("[NI]|E[+-][0-9]{3}")
"""In the text of a Decimal: NaN, infinity, or a hundred digits or more up to the point."""


def check_digits(value: Decimal) -> None:
    """Raise UnspeakableError for a number that would take very many digits without an exponent."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and max(value.adjusted() + 1, 0) - min(exponent, 0) > limits.NUMBER_DIGITS:
        message = f"? has more than {limits.NUMBER_DIGITS} digits when it is written without an exponent"
        raise UnspeakableError(message)


def _datetime(value: datetime) -> str:
    if value.utcoffset() is None:
        message = (
            "? is a datetime without an offset, so its instant is unknown; send, for example, 2026-01-31T12:00:00Z"
        )
        raise UnspeakableError(message)
    try:
        return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    except OverflowError:
        message = "? is outside the years 1 to 9999 in UTC"
        raise UnspeakableError(message) from None


def are_plain(floats: Sequence[float]) -> bool:
    """Return whether all of these are stored as msgspec writes them."""
    return (
        all(map(math.isfinite, floats))
        and min(floats) > -_WHOLE_WITH_EXPONENT
        and max(floats) < _WHOLE_WITH_EXPONENT
        and 0.0 not in floats
    )


def written(value: float) -> float | msgspec.Raw:
    """Return the stored text of a finite float."""
    if abs(value) >= _WHOLE_WITH_EXPONENT:
        digits, _, exponent = repr(value).partition("e+")
        whole, _, fraction = digits.partition(".")
        return msgspec.Raw(f"{whole}{fraction.ljust(int(exponent), '0')}.0".encode())
    return value or 0.0
