"""May a row pass a comparison, or lie in part of an order? The coordinator's own reading of PostgreSQL's comparisons.

As in :mod:`kontract.core.protocol.predicates`, the answer may be yes too often, never no where PostgreSQL says yes.
``tests/postgres/test_ranges_db.py`` compares both over generated values of every type.

Values are compared as :data:`kontract.core.transaction.sql.compared` makes PostgreSQL compare them. One that is not of
its type, which rows of others may hold, may pass everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from operator import eq, ge, gt, le, lt
from typing import Any

from kontract.core.types import Bound, Order, RowPosition, Span

_NULL = object()
_UNKNOWN = object()


def may_pass(row_id: str, document: Mapping[str, Any], bounds: Iterable[Bound]) -> bool:
    """Whether all comparisons may hold for a row; ``document``: decoded, with Decimals for its fractions."""
    return all(_passes(_stored(bound.field, bound.order, row_id, document), bound) for bound in bounds)


def may_lie_in(row_id: str, document: Mapping[str, Any], span: Span) -> bool:
    """Whether a row may stand in this part of an order."""
    here = (_stored(span.field, span.order, row_id, document), row_id)
    if span.after is not None and not _may_precede(_position(span.after, span.order), here, span):
        return False
    return span.until is None or not _precedes(_position(span.until, span.order), here, span)


def is_value(order: Order, text: str | None) -> bool:
    """Whether a text can be compared; None, which is null, can."""
    return text is None or _read(order, text) is not _UNKNOWN


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "in": eq, "<": lt, "<=": le, ">": gt, ">=": ge}


def _passes(value: Any, bound: Bound) -> bool:
    if value is _UNKNOWN:
        return True
    if value is _NULL:
        return False
    holds = _OPERATORS[bound.op]
    asked = [_read(bound.order, text) for text in bound.values]
    return any(one is _UNKNOWN or holds(value, one) for one in asked)


def _may_precede(first: tuple[Any, str], second: tuple[Any, str], span: Span) -> bool:
    """Whether ``first`` comes strictly before ``second``, or nobody can tell."""
    return first[0] is _UNKNOWN or second[0] is _UNKNOWN or _precedes(first, second, span)


def _precedes(first: tuple[Any, str], second: tuple[Any, str], span: Span) -> bool:
    """Whether ``first`` certainly comes strictly before ``second``."""
    if first[0] is _UNKNOWN or second[0] is _UNKNOWN:
        return False
    if first[0] is not second[0] and (first[0] is _NULL or second[0] is _NULL):
        ahead = first[0] is _NULL
    elif first[0] is second[0] or first[0] == second[0]:
        if first[1] == second[1]:
            return False
        ahead = first[1] < second[1]
    else:
        ahead = first[0] < second[0]
    return ahead is not span.descending


def _position(place: RowPosition, order: Order) -> tuple[Any, str]:
    return _NULL if place.value is None else _read(order, place.value), place.id


def _stored(field: str, order: Order, row_id: str, document: Mapping[str, Any]) -> Any:
    """Return what a row's value compares as; _NULL where there is none."""
    if not field:
        return row_id
    value = document.get(field)
    if value is None:
        return _NULL
    if order is Order.BOOLEAN:
        return value if isinstance(value, bool) else _UNKNOWN
    if order is Order.NUMBER and isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return value
    return _read(order, value) if isinstance(value, str) else _UNKNOWN


def _read(order: Order, text: str) -> Any:
    """Return what a text compares as; _UNKNOWN where that is not certain. It never raises: nodes replay this."""
    try:
        return _READERS[order](text)
    except (ValueError, OverflowError, InvalidOperation):
        return _UNKNOWN


def _number(text: str) -> Decimal:
    found = Decimal(text)
    if not found.is_finite():
        raise InvalidOperation
    return found


_FINER = re.compile(r"\.[0-9]{7}")
"""PostgreSQL rounds to microseconds what Python cuts off."""


def _instant(text: str) -> datetime:
    if _FINER.search(text):
        raise ValueError(text)
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _time(text: str) -> time:
    found = time.fromisoformat(text)
    if found.tzinfo is not None or _FINER.search(text):
        raise ValueError(text)
    return found


def _boolean(text: str) -> bool:
    return text == "true"


_READERS: dict[Order, Callable[[str], Any]] = {
    Order.TEXT: str,
    Order.NUMBER: _number,
    Order.BOOLEAN: _boolean,
    Order.INSTANT: _instant,
    Order.TIME: _time,
}
