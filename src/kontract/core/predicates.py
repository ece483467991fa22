"""May a row match a query's filter? The coordinator's own reading of PostgreSQL's ``jsonb @>``.

Validation must never miss a phantom, so this matcher may say yes too often but never no where PostgreSQL says yes. It
is compared with the database over generated pairs in ``tests/postgres/test_predicates_db.py``.

Where it says yes too often, on purpose:

- numbers are compared as exact values and as floats; PostgreSQL compares decimal digits, Python may have rounded them;
- a scalar matches an array that has it as an element at every depth (PostgreSQL: at the top only).
"""

from __future__ import annotations

from typing import Any


def may_contain(document: Any, wanted: Any) -> bool:
    """Whether ``document @> wanted`` may hold. Both are decoded JSON values."""
    if isinstance(wanted, dict):
        return isinstance(document, dict) and all(
            key in document and may_contain(document[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        # Order and repetition do not matter: [1, 1] is contained in [2, 1].
        return isinstance(document, list) and all(
            any(may_contain(element, value) for element in document) for value in wanted
        )
    if isinstance(document, list):
        return any(_same_scalar(element, wanted) for element in document)
    return _same_scalar(document, wanted)


def _same_scalar(left: Any, right: Any) -> bool:
    if isinstance(left, (dict, list)) or isinstance(right, (dict, list)):
        return False
    if isinstance(left, bool) or isinstance(right, bool):  # Python says True == 1; PostgreSQL does not
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right or _as_float(left) == _as_float(right)
    return type(left) is type(right) and bool(left == right)


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond the range of floats: let all of them match each other
        return float("inf") if number > 0 else float("-inf")
