"""Errors for callers about a SELECT that cannot run, from ``exec`` itself or from PostgreSQL."""

from __future__ import annotations

from typing import NoReturn

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError


def refusal(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"exec cannot run this SQL: {reason}")


def refuse(reason: str) -> NoReturn:
    raise refusal(reason) from None


TOO_LARGE = "KONTRACT_TOO_LARGE"
"""What a statement says that stops itself, by a cast that cannot succeed (:mod:`kontract.core.transaction.sql`)."""


def stop(size: str) -> str:
    """Return the SQL that ends a statement; ``size``: an integer of it, so that no planner works it out before."""
    return f"CAST('{TOO_LARGE} ' || {size} AS pg_catalog.int4)"


def too_large() -> PayloadTooLargeError:
    """Return the error for a SELECT that makes, or returns, too much."""
    return PayloadTooLargeError(
        f"exec cannot run this SQL: what it makes or returns is larger than {limits.SELECT_BYTES} bytes, or repeats a "
        "value too often; select fewer rows, or less of each"
    )


def explain(sqlstate: str) -> InvalidRequestError | None:
    """Return the message for the caller if the SELECT or its values caused PostgreSQL's error, else None."""
    known = {
        "22P02": "a value does not have the form that a cast in it needs",
        "22003": "a number in it is out of range",
        "22012": "it divides by zero",
        "22023": "a value in it is not a valid argument of its function",
        "21000": "a subquery in it that must return one row returns several",
        "42883": "an operator or function in it does not take values of these types; add casts",
        "42804": "the types of two values in it do not match; add casts",
        "42803": "a column in it must be in GROUP BY or inside an aggregate",
        "54001": "it is too complex",
    }
    if sqlstate in known:
        return refusal(known[sqlstate])
    # Missing tables and permissions are the operator's business.
    if sqlstate[:2] in ("21", "22", "54") or (sqlstate[:2] == "42" and sqlstate not in ("42P01", "42501", "42703")):
        return refusal(f"PostgreSQL cannot evaluate it (SQLSTATE {sqlstate})")
    return None
