"""What the application declares: ``@backend`` functions, ``@table`` rows, ``@middleware``, field permissions.

A decorator only attaches its arguments to the object; ``kontract build`` and :mod:`kontract.core.model.signatures`
check signatures, compose chains and find duplicates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct

from kontract.core import limits
from kontract.core.model import perms

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=type)

BACKEND = "__kontract_backend__"
TABLE = "__kontract_table__"
MIDDLEWARE = "__kontract_middleware__"


class _PrimaryKey:
    """Marks the struct field that holds the row's id."""

    def __repr__(self) -> str:
        return "primkey"


primkey = _PrimaryKey()


RowId = Annotated[str, Meta(min_length=1, max_length=limits.ROW_ID_BYTES // 4, pattern=r"^[^\x00\x01]")]
"""The id of a row as an argument: text that every table accepts as an id."""


class FieldPerm(Struct, frozen=True):
    """Marks what callers may do with a field."""

    bits: int


def perm(bits: int) -> FieldPerm:
    """Mark what callers may do with a field: with ``perm(perms.R__)`` they can read but not write it."""
    return FieldPerm(int(bits))


class BackendMeta(Struct, frozen=True):
    """The arguments of ``@backend``."""

    name: str | None
    ugroup: str | None
    perm: int
    egroup: str | None
    public: bool
    isolation: str
    max_attempts: int


class TableMeta(Struct, frozen=True):
    """The arguments of ``@table``. ``rows``: "all" or "own" (only the rows that the user created)."""

    name: str
    rows: str
    stream: bool


class MiddlewareMeta(Struct, frozen=True):
    """The arguments of ``@middleware``."""

    prefixurl: str | None
    egroup: str | None
    endpoints: tuple[str, ...] | None


def backend(
    *,
    name: str | None = None,
    ugroup: str | None = None,
    perm: int = perms.ALL,
    egroup: str | None = None,
    public: bool = False,
    isolation: Literal["serializable", "snapshot"] = "serializable",
    max_attempts: int = limits.MAX_ATTEMPTS,
) -> Callable[[F], F]:
    """Make an async function callable as ``POST /call/<name>`` and ``/rpc/<name>``, as one transaction.

    ``perm``: what the function may do; without the W or X bit it runs read-only and never conflicts. ``public``:
    callable without a token. ``isolation="snapshot"`` gives up serializability for fewer conflicts. ``max_attempts``:
    how many attempts a call gets before the conflict is reported (409). The function's docstring is its API
    documentation.
    """
    meta = BackendMeta(name, ugroup, int(perm), egroup, public, isolation, max_attempts)

    def mark(function: F) -> F:
        setattr(function, BACKEND, meta)
        return function

    return mark


def table(name: str, *, rows: Literal["all", "own"] = "all", stream: bool = True) -> Callable[[S], S]:
    """Declare the rows of the logical table ``name``: a msgspec Struct with one ``primkey`` field of type str.

    ``rows="own"``: users see and change only the rows that they created. ``stream=False``: callers cannot stream its
    changes with ``GET /stream``, which shows every row that these rules let them see.
    """
    meta = TableMeta(name, rows, stream)

    def mark(struct: S) -> S:
        setattr(struct, TABLE, meta)
        return struct

    return mark


def middleware(
    *, prefixurl: str | None = None, egroup: str | None = None, endpoints: list[str] | None = None
) -> Callable[[F], F]:
    """Run ``async def f(ctx, call_next)`` around the functions that match the given URL prefix, group and names."""
    meta = MiddlewareMeta(prefixurl, egroup, tuple(endpoints) if endpoints is not None else None)

    def mark(function: F) -> F:
        setattr(function, MIDDLEWARE, meta)
        return function

    return mark
