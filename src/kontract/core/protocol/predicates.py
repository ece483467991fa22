"""May a row match a query's filter? The coordinator's own reading of PostgreSQL's ``jsonb @>``.

Validation must never miss a phantom, so this matcher may say yes too often but never no where PostgreSQL says yes. It
is compared with the database over generated pairs in ``tests/postgres/test_predicates_db.py``.

Where it says yes too often, on purpose:

- numbers are compared as exact values and as floats; PostgreSQL compares decimal digits, Python may have rounded them;
- a scalar matches an array that has it as an element at every depth (PostgreSQL: at the top only).
"""

from __future__ import annotations

from itertools import chain
from typing import Any


def may_contain(document: Any, wanted: Any) -> bool:
    """Return whether ``document @> wanted`` may hold. Both are decoded JSON values."""
    if isinstance(wanted, dict):
        return isinstance(document, dict) and all(
            key in document and may_contain(document[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(document, list) and _may_contain_items(document, wanted)
    if isinstance(document, list):
        return _scalar(wanted) in map(_scalar, document)
    return _scalar(document) == _scalar(wanted)  # which is a scalar


def _may_contain_items(document: list[Any], wanted: list[Any]) -> bool:
    """Return whether each wanted item is among the others, in any order and number: [2, 1] contains [1, 1]."""
    inner = (item for element in document if isinstance(element, list) for item in element)
    there = set(map(_scalar, chain(document, inner)))
    containers = [element for element in document if isinstance(element, (dict, list))]
    return all(
        any(may_contain(element, value) for element in containers)
        if isinstance(value, (dict, list))
        else _scalar(value) in there
        for value in wanted
    )


def _scalar(value: Any) -> tuple[str, Any] | None:
    """Return a key that is equal for scalars that may be equal; None for other values."""
    if isinstance(value, (dict, list)):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number", _as_float(value)
    return type(value).__name__, value  # Python says True == 1; PostgreSQL does not


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond the range of floats: all of them match each other
        return float("inf") if number > 0 else float("-inf")
