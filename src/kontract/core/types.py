"""Distinct types for distinct numbers, and the rows that carry them."""

from __future__ import annotations

from enum import Enum
from typing import Any, NewType

from msgspec import Struct

Txid = NewType("Txid", int)
"""A transaction's place in the commit order of its owner: a positive integer below 2**53, exact in JavaScript."""

Snapshot = NewType("Snapshot", int)
"""``S``: every transaction with ``T <= S`` has finished, so what a reader sees at ``S`` never changes."""

Epoch = NewType("Epoch", int)
"""The incarnation of the owner's coordinator that gave a txid; a row of ``trxs`` holds the one that may commit."""


class Isolation(Enum):
    """What prepare checks. SNAPSHOT skips the read checks, and with them serializability."""

    SERIALIZABLE = "serializable"
    SNAPSHOT = "snapshot"


class TableKind(Enum):
    """VERSIONED keeps every version until it is collected; PLAIN has one row per id."""

    VERSIONED = "versioned"
    PLAIN = "plain"


class TablePointer(Struct, frozen=True):
    """The physical table of an owner's logical table: a row of ``storage`` and facts from the catalog.

    ``just_adopted``: a versioned table that was plain a moment ago. It is still read like a plain one, because it lacks
    the versions of snapshots that may be in use. ``only``: the user whose rows the caller may see and change; None for
    all. ``last_order``: the last number from its sequence. ``order_limit``: the highest number in its column
    ``_order``; further rows share it.
    """

    name: str
    ptr: str
    kind: TableKind
    permissions: int
    just_adopted: bool = False
    only: str | None = None
    last_order: int = 0
    order_limit: int = 2**31 - 1

    def shows(self, version: Version | None) -> bool:
        """Whether the row exists and the caller may see it."""
        return version is not None and self.only in (None, version.owner)


class Version(Struct, frozen=True):
    """One version of a row as PostgreSQL returned it.

    ``data``: JSON text without the id; empty if it was too large to return.
    """

    id: str
    data: str
    txid: int
    owner: str


class Order(Enum):
    """How PostgreSQL compares values of a declared field that jsonb has as text or in several spellings."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    INSTANT = "instant"
    TIME = "time"


class Bound(Struct, frozen=True, array_like=True):
    """One comparison that rows must pass: ``field op value``, as values of ``order`` compare. Null passes none.

    ``field``: its JSON name; empty for the row's id. ``op``: ``<``, ``<=``, ``>``, ``>=`` or ``=`` with one value, or
    ``in`` with any number of them. ``values``: as text, as PostgreSQL's ``->>`` returns them.
    """

    field: str
    order: Order
    op: str
    values: tuple[str, ...]


class RowPosition(Struct, frozen=True, array_like=True):
    """Where a row stands in an order: the text of its field, None when that is null or absent, and its id."""

    value: str | None
    id: str


class Span(Struct, frozen=True, omit_defaults=True):
    """Part of an order, from ``after`` (exclusive) to ``until`` (inclusive); None: from its beginning, to its end.

    ``field``: as in :class:`Bound`. Null comes first, and rows with equal values are in order of their ids.
    """

    field: str = ""
    order: Order = Order.TEXT
    descending: bool = False
    after: RowPosition | None = None
    until: RowPosition | None = None


class Filter(Struct, frozen=True):
    """What a query asks of rows: containment of ``contains`` (PostgreSQL's ``@>``), comparisons, and one id if given.

    ``typed``: the fields of ``contains`` that PostgreSQL compares by their type in place of containment. ``spelled``:
    those whose values have several spellings in JSON. ``bounds``: all of them hold.
    """

    contains: dict[str, Any] | None = None
    id: str | None = None
    typed: tuple[tuple[str, Order], ...] = ()
    spelled: frozenset[str] = frozenset()
    bounds: tuple[Bound, ...] = ()

    def certain(self) -> dict[str, Any]:
        """Return what every matching row contains as text, whichever release wrote it; commits are checked against it.

        A node of an older release that runs beside this one may commit a row with other spellings of decimals.
        """
        return {name: value for name, value in (self.contains or {}).items() if name not in self.spelled}


EVERY_ROW = Filter()
