"""What PostgreSQL's errors mean."""

from __future__ import annotations

import re

from kontract.core.errors import Code, ConflictError, HttpError, InvalidRequestError, PayloadTooLargeError
from kontract.core.select import TOO_LARGE
from kontract.core.sql import FENCED, STALE


def verdict(sqlstate: str, message: str) -> str | None:
    """Return FENCED, STALE or TOO_LARGE if PostgreSQL's error is one that a statement raised on purpose, else None."""
    if sqlstate == "22P02":
        for word in (FENCED, STALE, TOO_LARGE):
            if word in message:
                return word
    return None


OWN_CONSTRAINT = re.compile(r"\w*(?:_pkey|_live)[0-9]*", re.ASCII)
"""Names of the keys that the protocol itself checks; PostgreSQL numbers them when there would be two of one name."""


def refusal(sqlstate: str, constraint: str) -> HttpError | None:
    """Return what a caller is told of an error that comes from the written values, None when a retry may help.

    A table may have constraints, unique indexes and expression indexes of the user's own. What they refuse they refuse
    every time (SQLSTATE classes 22, 23 and 54), except where the clash is with the protocol's own keys.
    """
    named = f"constraint {constraint!r}" if constraint else "a constraint"
    if sqlstate in ("23505", "23P01"):
        if OWN_CONSTRAINT.fullmatch(constraint):
            return None
        return ConflictError(f"{named} of the database: there is such a row already", code=Code.ALREADY_EXISTS)
    if sqlstate.startswith("23"):
        return InvalidRequestError(f"{named} of the database refuses these values")
    if sqlstate == "54000":
        return PayloadTooLargeError("a value is larger than an index of the database takes")
    if sqlstate.startswith("22"):
        return InvalidRequestError("an index or a generated column of the database cannot take these values")
    return None
