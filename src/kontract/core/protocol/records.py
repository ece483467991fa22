"""The output of a coordinator: its journal entries and the effects of a step.

A record is both the memory of a transaction and its change events: the new values are in it from prepare on.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from kontract.core.messages import Answer, Write
from kontract.core.protocol.idempotency import BRIEF
from kontract.core.protocol.phases import Phase

Ticket: TypeAlias = int | str
"""Names a caller who waits for an answer; given by the shell."""

FINISHED = (Phase.COMMITTED, Phase.ABORTED)


class Record(Struct):
    """A transaction in the journal, from prepare until its events and its idempotency key have expired."""

    txid: int
    sid: str
    call: str
    user: str
    phase: str
    prepared_at: int
    deadline: int
    writes: list[Write]
    number: int = 1
    idempotent: bool = False
    result: str | None = None
    settled_at: int = 0


def is_kept(record: Record) -> bool:
    """Whether a settled record is kept to answer repetitions of its call, for FENCE_RETENTION_MS."""
    return record.idempotent and not record.call.startswith(BRIEF)


class PutRecord(Struct, frozen=True):
    """Journal: a transaction has been prepared, or has been settled."""

    record: Record


class PutBlock(Struct, frozen=True):
    """Journal: txids up to and including this one may be in use."""

    last_txid: int


class PutOrder(Struct, frozen=True):
    """Journal: rows of the table ``ptr`` may have numbers up to and including ``last``.

    The numbers of all tables are known from the next PutBlock on.
    """

    ptr: str
    last: int


class Drop(Struct, frozen=True):
    """Journal: forget settled records below ``below_txid`` or settled before ``settled_before``.

    Records of idempotent calls stay until ``idempotent_before``; ended sessions go at ``now``, when they are due.
    Those in ``keep`` stay: they are witnesses (kontract.core.protocol.witnesses).
    """

    below_txid: int
    settled_before: int
    idempotent_before: int
    now: int
    keep: list[int] = []


class PutEnded(Struct, frozen=True):
    """Journal: ``session`` has been ended; to be forgotten after ``until``."""

    session: str
    until: int


JournalEntry: TypeAlias = PutRecord | PutBlock | PutOrder | PutEnded | Drop


class Resolve(Struct, frozen=True):
    """Read or write the fence ``sid`` of ``txid`` in PostgreSQL, then call :meth:`Coordinator.resolved`."""

    sid: str
    txid: int


class Effects(Struct):
    """What a shell must do after a call, in this order."""

    journal: list[JournalEntry] = []
    answers: list[tuple[Ticket, Answer]] = []
    published: list[Record] = []
    resolve: list[Resolve] = []
    check_epoch: bool = False
