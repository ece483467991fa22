"""JSON text from outside: checks before and during decoding.

Each check is one pass of compiled code over the text (``bytes.replace``, ``split``, ``translate``, ``count``, a
decoder), never a step of Python for each value: a body of 1 MiB must not keep a process from answering others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from kontract.core import limits
from kontract.core.errors import InvalidRequestError

T = TypeVar("T")

_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_ZEROS = bytes(48 if byte in b"0123456789." else byte for byte in range(256))
_MANY_ZEROS = b"0" * (limits.NUMBER_DIGITS + 2)  # with its point
_EXTREME = re.compile(rb"[eE][-+]?[0-9]{3}")
_STEPS = [1 if byte in b"[{" else -1 if byte in b"]}" else 0 for byte in range(256)]


def decode(text: bytes, decoder: Callable[[bytes], T], what: str = "the request body") -> T:
    """Check a text and return ``decoder(text)``; ``what`` names the text in messages.

    Raises InvalidRequestError for text that is not JSON, that :func:`check` refuses, or that has half of a surrogate
    pair. The caller has to
    explain msgspec's ValidationError (a wrong type).
    """
    check(text, what)
    return parse(text, decoder, what)


def parse(text: bytes, decoder: Callable[[bytes], T], what: str = "the request body") -> T:
    """Return ``decoder(text)`` for a checked text; raises the same as :func:`decode`."""
    try:
        return decoder(text)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{what} is not valid JSON: {error}") from None


def check(text: bytes, what: str = "the request body") -> bytes:
    """Return the text without its strings and white space.

    Raises InvalidRequestError for JSON text that is too much for a decoder, or that is ambiguous:

    - Deeper than JSON_DEPTH: see :func:`check_depth`.
    - More than JSON_VALUES values: each costs time and memory long after it was decoded.
    - A number of more than NUMBER_DIGITS digits: the time that an integer takes grows with their square.
    - More than JSON_UNUSUAL_NUMBERS with an exponent of three digits: a decoder takes microseconds for a float that is
      nearly too large or too small for one.
    - A duplicate name in an object. Its meaning differs from parser to parser (RFC 8259, section 4). Ours takes the
      last; something in front of the gateway may have checked the first.

    Text that is not JSON may pass. Up to its first error it is read like a decoder would.
    """
    unescaped = _unescaped(text)
    if unescaped.count(b'"') > 4 * limits.JSON_VALUES:  # two of a value, two of its name
        raise _too_many(what)
    joints = _joints(unescaped)
    if len(joints) > limits.JSON_DEPTH:  # what is shorter is below every limit; most calls are
        if _count(joints) > limits.JSON_VALUES:
            raise _too_many(what)
        _check_depth(joints, what, limits.JSON_DEPTH)
        _check_numbers(joints, what)
    if joints.count(b":") > 1:
        _check_names(text, what)
    return joints


def check_text(text: bytes, what: str = "the request body") -> None:
    """Raise InvalidRequestError for JSON text with a NUL character, which PostgreSQL cannot store."""
    if b"\\u0000" in text and b"\\u0000" in text.replace(b"\\\\", b""):
        raise InvalidRequestError(f"{what} contains a NUL character (\\u0000), which PostgreSQL cannot store")


def check_depth(text: bytes, what: str, levels: int = limits.JSON_DEPTH) -> None:
    """Raise InvalidRequestError if JSON text is nested too deep, before anything decodes it.

    A decoder recurses in C, and in workerd its stack is small: 100,000 open brackets end the isolate for everybody.
    """
    _check_depth(_joints(_unescaped(text)), what, levels)


def _check_depth(joints: bytes, what: str, levels: int) -> None:
    brackets = joints.translate(None, _NO_BRACKETS)
    if len(brackets) > levels and max(accumulate(map(_STEPS.__getitem__, brackets))) > levels:
        raise InvalidRequestError(f"{what} is nested deeper than {levels} levels")


def _check_numbers(joints: bytes, what: str) -> None:
    if _MANY_ZEROS in joints.translate(_ZEROS):
        message = f"{what} has a number of more than {limits.NUMBER_DIGITS} digits; send it as a string"
        raise InvalidRequestError(message)
    if len(_EXTREME.findall(joints)) > limits.JSON_UNUSUAL_NUMBERS:
        message = (
            f"{what} has more than {limits.JSON_UNUSUAL_NUMBERS} numbers with an exponent of three digits; round the "
            "tiny ones to 0, or send them in several calls"
        )
        raise InvalidRequestError(message)


def count(text: bytes) -> int:
    """Return the number of values in a JSON text; an empty array or object counts as two."""
    return _count(outside_of_strings(text))


def _count(joints: bytes) -> int:
    # A value is the first of its array or object, or follows a comma.
    return joints.count(b",") + joints.count(b"[") + joints.count(b"{") + 1


def outside_of_strings(text: bytes) -> bytes:
    """Return the text without its strings and white space, as :func:`check` does."""
    return _joints(_unescaped(text))


def _unescaped(text: bytes) -> bytes:
    """Return the text without escaped quotes, so that each quote begins or ends a string."""
    # Pairs first: what is left is one backslash before the character that it escapes.
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _joints(unescaped: bytes) -> bytes:
    """Return the text outside strings, without white space."""
    return b"".join(unescaped.split(b'"')[::2]).translate(None, b" \t\r\n")


def _check_names(text: bytes, what: str) -> None:
    objects: list[list[tuple[str, Any]]] = []
    try:
        json.loads(text.decode(), object_pairs_hook=objects.append, parse_int=str, parse_float=str)
    except ValueError:
        return  # the decoder says what is wrong
    if sum(map(len, objects)) == sum(map(len, map(dict, objects))):
        return
    for pairs in objects:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidRequestError(f"{what} has an object with the duplicate name {name!r:.100}")
            seen.add(name)


def _too_many(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{what} has more than {limits.JSON_VALUES} values; send them in several calls")
