"""What a filter may ask of a field besides a value: ``kontract.where``."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, inspect

from kontract.core.model import documents, typed
from kontract.core.model.kinds import Kind, alternatives
from kontract.core.types import Bound, Order


class Condition(Struct, frozen=True):
    """Comparisons of one field that all have to hold: ``{"starts_at": ge(monday) & lt(sunday)}``.

    ``parts``: operators (``<``, ``<=``, ``>``, ``>=``, ``in``, ``prefix``), each with its values. No row whose field is
    null or absent passes one.
    """

    parts: tuple[tuple[str, tuple[Any, ...]], ...]

    def __and__(self, other: Condition) -> Condition:
        """Ask for both."""
        if not isinstance(other, Condition):
            return NotImplemented
        return Condition((*self.parts, *other.parts))

    def __bool__(self) -> bool:
        """Refuse ``and``, ``or`` and ``not``, which would drop one side."""
        message = "a condition is neither true nor false: join two with &, and ask for them in a filter"
        raise TypeError(message)


def ge(value: Any) -> Condition:
    """Match values that are ``value`` or greater."""
    return Condition(((">=", (value,)),))


def gt(value: Any) -> Condition:
    """Match values that are greater than ``value``."""
    return Condition(((">", (value,)),))


def le(value: Any) -> Condition:
    """Match values that are ``value`` or less."""
    return Condition((("<=", (value,)),))


def lt(value: Any) -> Condition:
    """Match values that are less than ``value``."""
    return Condition((("<", (value,)),))


def between(first: Any, last: Any) -> Condition:
    """Match values from ``first`` to ``last``, both included."""
    return ge(first) & le(last)


def one_of(*values: Any) -> Condition:
    """Match any of ``values``; without any it matches nothing."""
    return Condition((("in", values),))


def prefix(text: str) -> Condition:
    """Match texts that begin with ``text``, letter for letter."""
    return Condition((("prefix", (text,)),))


_SURROGATES = 0xD800, 0xDFFF
_LAST = 0x10FFFF


def after_prefix(text: str) -> str | None:
    """Return the first text, in the order of code points, after all that begin with ``text``; None: there is none."""
    for at in range(len(text), 0, -1):
        code = ord(text[at - 1]) + 1
        if code == _SURROGATES[0]:
            code = _SURROGATES[1] + 1
        if code <= _LAST:
            return text[: at - 1] + chr(code)
    return None


def bounds_of(condition: Condition, field: str, order: Order, kind: Kind, name: str) -> list[Bound]:
    """Return the comparisons that a condition on a field of a declared type means.

    ``field``: its JSON name, empty for the id; ``name``: as callers know it. Raises msgspec.ValidationError for a value
    that the type does not have.
    """
    found = []
    for op, given in condition.parts:
        if op == "prefix":
            found += _prefix(field, order, kind, name, given[0])
        else:
            found.append(Bound(field, order, op, tuple(_text(kind, value, name) for value in given)))
    return found


def _prefix(field: str, order: Order, kind: Kind, name: str, text: Any) -> list[Bound]:
    if not isinstance(text, str) or not any(isinstance(one, inspect.StrType) for one in alternatives(kind)):
        message = f"{name}: prefix() is for text, and takes text, not {text!r:.100}"
        raise msgspec.ValidationError(message)
    end = after_prefix(text)
    first = Bound(field, order, ">=", (_text(kind, text, name),))
    return [first] if end is None else [first, Bound(field, order, "<", (end,))]


def _text(kind: Kind, value: Any, name: str) -> str:
    """Return a value as PostgreSQL's ``->>`` returns the field that holds it."""
    made = documents.normal(typed.comparable(kind, value, name), name)
    return made if isinstance(made, str) else documents.encode_json(made)
