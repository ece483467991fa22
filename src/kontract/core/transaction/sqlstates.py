"""The meaning of PostgreSQL's errors: whose fault each is, the message for the caller, and whether to retry.

One table for everybody: the apply statement (:func:`refusal`), all other statements (:func:`to_http_error`), and the
pools, which drop connections that are of no use any more (:func:`ends_connection`). It lists the exact code or else its
class (PostgreSQL documentation, appendix A). Codes of no class there come from a trigger or function of the user's own.

``message`` is for callers. PostgreSQL's own sentence names tables, values and roles, so it stays in the log.
"""

from __future__ import annotations

import re
from enum import Enum

from msgspec import Struct

from kontract.core.errors import Code, ConflictError, HttpError, ReadOnlyError
from kontract.core.transaction.select import TOO_LARGE
from kontract.core.transaction.sql import FENCED, STALE, WENT_BACK


class Fix(Enum):
    """Who can do something about an error."""

    CALLER = "caller"
    """The values will never be accepted."""

    OPERATOR = "operator"
    """The database or the application has to be changed first: a retry is pointless."""

    RETRY = "retry"
    """It is temporary: another attempt may succeed."""


class Meaning(Struct, frozen=True):
    """The meaning of an error. ``ends_connection``: the connection cannot be used any more."""

    fix: Fix
    code: Code
    message: str
    ends_connection: bool = False


def _caller(message: str, code: Code = Code.INVALID_REQUEST) -> Meaning:
    return Meaning(Fix.CALLER, code, message)


def _operator(message: str, code: Code = Code.INTERNAL, *, ends_connection: bool = False) -> Meaning:
    return Meaning(Fix.OPERATOR, code, message, ends_connection)


def _retry(message: str, code: Code = Code.UNAVAILABLE, *, ends_connection: bool = False) -> Meaning:
    return Meaning(Fix.RETRY, code, message, ends_connection)


_DEFECT = _operator("unexpected error; the log has the details under this request id")
_TRIGGER = _caller("a trigger or function of the database refuses this")
_BROKEN_TRIGGER = _operator("a trigger or function of the database failed; the log has its message")
_CONSTRAINT = _caller("a constraint of the database refuses these values")
_VALUES = _caller("an index or a generated column of the database cannot take these values")
_NO_WRITES = _operator(
    "the database accepts no writes now: it is read-only, or a standby", Code.UNAVAILABLE, ends_connection=True
)
_SCHEMA = _operator("the database is not as this application needs it; run: kontract migrate", Code.UNAVAILABLE)
_NOT_LET_IN = _operator("the database rejects the gateway's login", Code.UNAVAILABLE, ends_connection=True)
_AWAY = _retry("the database does not answer", ends_connection=True)
_GOING = _retry("the database is shutting down or starting", ends_connection=True)
_RESOURCES = _retry("the database is out of resources", ends_connection=True)
_BROKEN = _operator("the database has failed", Code.UNAVAILABLE, ends_connection=True)
_CROWDED = _retry("the database could not run this at the moment")
_SESSION = _retry("the database has ended this connection", ends_connection=True)

CLASSES: dict[str, Meaning] = {
    "00": _DEFECT,  # successful completion, warning, no data: none of these is an error
    "01": _DEFECT,
    "02": _DEFECT,
    "03": _DEFECT,  # SQL statement not yet complete
    "08": _AWAY,  # connection exception
    "09": _BROKEN_TRIGGER,  # triggered action exception
    "0A": _DEFECT,  # feature not supported
    "0B": _DEFECT,  # invalid transaction initiation
    "0F": _DEFECT,  # locator exception
    "0L": _DEFECT,  # invalid grantor
    "0P": _DEFECT,  # invalid role specification
    "0Z": _BROKEN_TRIGGER,  # diagnostics exception
    "10": _DEFECT,  # XQuery error
    "20": _BROKEN_TRIGGER,  # case not found
    "21": _BROKEN_TRIGGER,  # cardinality violation
    "22": _VALUES,  # data exception
    "23": _CONSTRAINT,  # integrity constraint violation
    "24": _BROKEN_TRIGGER,  # invalid cursor state
    "25": _SESSION,  # invalid transaction state: somebody left a transaction open on a pooler's connection
    "26": _SESSION,  # invalid SQL statement name
    "27": _BROKEN_TRIGGER,  # triggered data change violation
    "28": _NOT_LET_IN,  # invalid authorization specification
    "2B": _DEFECT,  # dependent privilege descriptors still exist
    "2D": _BROKEN_TRIGGER,  # invalid transaction termination
    "2F": _BROKEN_TRIGGER,  # SQL routine exception
    "34": _BROKEN_TRIGGER,  # invalid cursor name
    "38": _BROKEN_TRIGGER,  # external routine exception
    "39": _BROKEN_TRIGGER,  # external routine invocation exception
    "3B": _BROKEN_TRIGGER,  # savepoint exception
    "3D": _operator("the database does not exist", Code.UNAVAILABLE, ends_connection=True),  # invalid catalog name
    "3F": _SCHEMA,  # invalid schema name
    "40": _CROWDED,  # transaction rollback: serialization failure, deadlock
    "42": _DEFECT,  # syntax error or access rule violation
    "44": _CONSTRAINT,  # WITH CHECK OPTION violation
    "53": _RESOURCES,  # insufficient resources
    "54": _DEFECT,  # program limit exceeded
    "55": _CROWDED,  # object not in prerequisite state: in use, locked
    "57": _GOING,  # operator intervention
    "58": _BROKEN,  # system error
    "72": _CROWDED,  # snapshot failure
    "F0": _BROKEN,  # configuration file error
    "HV": _DEFECT,  # foreign data wrapper error
    "P0": _BROKEN_TRIGGER,  # PL/pgSQL error
    "XX": _retry("unexpected error; the log has the details under this request id", Code.INTERNAL),  # internal error
}

EXACT: dict[str, Meaning] = {
    "25006": _NO_WRITES,  # read_only_sql_transaction: also by default_transaction_read_only, and on a standby
    "25P04": _retry("the database took too long", Code.DEADLINE_EXCEEDED, ends_connection=True),  # transaction_timeout
    "23505": _caller("a constraint of the database: there is such a row already", Code.ALREADY_EXISTS),
    "23P01": _caller("a constraint of the database: there is such a row already", Code.ALREADY_EXISTS),
    "42501": _operator("the database does not allow this to the gateway's role; run: kontract doctor"),
    "42P01": _operator("a table of this application is missing; run: kontract migrate", Code.UNAVAILABLE),
    "42703": _SCHEMA,  # undefined_column
    "42P05": _SESSION,  # duplicate_prepared_statement: see 26000
    "53100": _operator("the database's disk is full", Code.UNAVAILABLE),
    "54000": _caller("a value is too large for an index of the database", Code.PAYLOAD_TOO_LARGE),
    "53300": _retry("the database takes no more connections", ends_connection=True),
    "53400": _operator("a limit set in the database does not allow this", Code.UNAVAILABLE),  # temp_file_limit
    # object_not_in_prerequisite_state itself: also what a database says that is closed to connections
    "55000": _operator("the database is not in a state to do this", Code.UNAVAILABLE, ends_connection=True),
    "55P02": _DEFECT,  # cant_change_runtime_param
    "55P04": _DEFECT,  # unsafe_new_enum_value_usage
    "57014": _retry("the database took too long", Code.DEADLINE_EXCEEDED),  # query_canceled: statement_timeout
    "57P04": _operator("the database was dropped", Code.UNAVAILABLE, ends_connection=True),
    "P0001": _TRIGGER,  # raise_exception: RAISE EXCEPTION without a code of its own
    "XX001": _operator("the database's files are damaged", Code.UNAVAILABLE),
    "XX002": _operator("an index of the database is damaged", Code.UNAVAILABLE),
}
"""Codes that are something else than their class."""


def meaning(sqlstate: str) -> Meaning:
    """Return what an error means."""
    return EXACT.get(sqlstate) or CLASSES.get(sqlstate[:2]) or _TRIGGER


def ends_connection(sqlstate: str) -> bool:
    """Whether a connection that has said this is to be closed: another one may find a server that does the work."""
    return meaning(sqlstate).ends_connection


def to_http_error(sqlstate: str, constraint: str = "") -> HttpError:
    """Return the error for the caller."""
    known = meaning(sqlstate)
    message = known.message
    if constraint:
        message = message.replace("a constraint", f"constraint {constraint!r}", 1)
    headers = {"Retry-After": "1"} if known.code is Code.UNAVAILABLE else None
    if known is _NO_WRITES:
        return ReadOnlyError(message, headers=headers)
    if known.code is Code.ALREADY_EXISTS:
        return ConflictError(message, code=known.code)
    return HttpError(message, code=known.code, headers=headers)


# --- of the apply statement ------------------------------------------------------------------------------------------


def verdict(sqlstate: str, message: str) -> str | None:
    """Return FENCED, STALE, WENT_BACK or TOO_LARGE if a statement raised PostgreSQL's error on purpose, else None."""
    if sqlstate == "22P02":
        for word in (FENCED, STALE, WENT_BACK, TOO_LARGE):
            if word in message:
                return word
    return None


OWN_CONSTRAINT = re.compile(r"\w*(?:_pkey|_live)[0-9]*", re.ASCII)
"""Names of the keys that the protocol itself checks; PostgreSQL numbers them when there would be two of one name."""


def refusal(sqlstate: str, constraint: str) -> HttpError | None:
    """Return the error for a commit that no other attempt can save; None if another attempt may succeed.

    A table may have constraints, indexes and triggers of the user's own. What they refuse they refuse every time,
    except where the clash is with the protocol's own keys. The same holds for what only the operator can change.
    """
    if sqlstate in ("23505", "23P01") and OWN_CONSTRAINT.fullmatch(constraint):
        return None
    return None if meaning(sqlstate).fix is Fix.RETRY else to_http_error(sqlstate, constraint)
