"""Distinct types for distinct numbers, and the rows that carry them."""

from __future__ import annotations

from enum import Enum
from typing import Any, NewType

from msgspec import Struct

Txid = NewType("Txid", int)
"""A transaction's place in the commit order of its owner: a positive integer below 2**53, which JavaScript can hold."""

Snapshot = NewType("Snapshot", int)
"""``S``: every transaction with ``T <= S`` has finished, so what a reader sees at ``S`` never changes."""

Epoch = NewType("Epoch", int)
"""Which incarnation of the owner's coordinator gave a txid; a row of ``trxs`` holds the one that may commit."""


class Isolation(Enum):
    """What prepare checks. SNAPSHOT skips the read checks, and with them serializability."""

    SERIALIZABLE = "serializable"
    SNAPSHOT = "snapshot"


class TableKind(Enum):
    """VERSIONED keeps every version until it is collected; PLAIN is the one-row-per-id layout of the document."""

    VERSIONED = "versioned"
    PLAIN = "plain"


class TablePointer(Struct, frozen=True):
    """Where a logical table of one owner lives: a row of ``storage`` and what the catalog says of it.

    ``just_adopted``: a versioned table that was plain a moment ago. It is still read like a plain one, because somebody
    may hold a snapshot whose versions it does not have. ``only``: the user whose rows alone the caller may see and
    change; None for all. ``last_order``: the last number that its sequence had given. ``order_limit``: the highest one
    that its column ``_order`` takes; rows beyond share it.
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
        """Whether there is such a row for the caller."""
        return version is not None and self.only in (None, version.owner)


class Version(Struct, frozen=True):
    """One version of a row as PostgreSQL returned it.

    ``data``: JSON text without the id; empty when it was too much to return.
    """

    id: str
    data: str
    txid: int
    owner: str


class Order(Enum):
    """How PostgreSQL compares the values of a declared field, which are text to jsonb or of several spellings."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    INSTANT = "instant"
    TIME = "time"


class Filter(Struct, frozen=True):
    """What a query asks of rows: containment of ``contains`` (PostgreSQL's ``@>``) and, if given, one id.

    ``typed``: the fields of ``contains`` that PostgreSQL compares by their type in place of containment. ``spelled``:
    those whose values have several spellings in JSON.
    """

    contains: dict[str, Any] | None = None
    id: str | None = None
    typed: tuple[tuple[str, Order], ...] = ()
    spelled: frozenset[str] = frozenset()

    def certain(self) -> dict[str, Any]:
        """Return what every row that is found contains as text, whichever release wrote it: commits are checked by it.

        A node of an older release, beside this one, may commit a row whose decimals are spelled otherwise.
        """
        return {name: value for name, value in (self.contains or {}).items() if name not in self.spelled}


EVERY_ROW = Filter()
