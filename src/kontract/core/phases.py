"""The two state machines of the coordinator, as tables.

A transaction, from the moment its prepare record is in the journal::

    PREPARED --APPLIED--> COMMITTED          the worker read the reply of a successful apply statement
    PREPARED --FAILED---> DOUBTED            the worker does not know, or read an error
    PREPARED --OVERDUE--> DOUBTED            its deadline passed, or others have waited for it
    DOUBTED  --FENCE_OURS-> COMMITTED        the fence in PostgreSQL carries this txid
    DOUBTED  --FENCE_VOID-> ABORTED          the fence says: never (and a late apply will meet it)

Only the fence decides. A worker may say "it is committed", because it read the database's reply; it can never say "it
is aborted": a statement that seemed to fail may have succeeded. So everything but APPLIED leads through DOUBTED, where
the resolver writes or reads the fence.

The coordinator itself::

    RECOVERING --SETTLED----> SERVING        every transaction found prepared in the journal has been resolved
    RECOVERING/SERVING --SUPERSEDED--> FENCED   the epoch row in PostgreSQL is not ours: stop for good

A pair that is not in a table is a contradiction (the fence said never, and somebody read a commit): this coordinator
ends rather than guess, and the shell starts another one from the journal and the fences.
``docs/explanation/transactions.md`` shows these tables; ``tests/core/test_phases.py`` walks every pair.
"""

from __future__ import annotations

from enum import Enum


class ProtocolError(Exception):
    """Two facts that exclude each other were reported, or a message came that the state does not allow."""


class Phase(Enum):
    """Where a transaction stands."""

    PREPARED = "prepared"
    DOUBTED = "doubted"
    COMMITTED = "committed"
    ABORTED = "aborted"


class Event(Enum):
    """What can be learnt about a transaction."""

    APPLIED = "applied"
    FAILED = "failed"
    OVERDUE = "overdue"
    FENCE_OURS = "fence_ours"
    FENCE_VOID = "fence_void"
    FENCE_UNREADABLE = "fence_unreadable"


TRANSACTION: dict[tuple[Phase, Event], Phase] = {
    (Phase.PREPARED, Event.APPLIED): Phase.COMMITTED,
    (Phase.PREPARED, Event.FAILED): Phase.DOUBTED,
    (Phase.PREPARED, Event.OVERDUE): Phase.DOUBTED,
    (Phase.DOUBTED, Event.APPLIED): Phase.COMMITTED,
    (Phase.DOUBTED, Event.FAILED): Phase.DOUBTED,
    (Phase.DOUBTED, Event.OVERDUE): Phase.DOUBTED,
    (Phase.DOUBTED, Event.FENCE_OURS): Phase.COMMITTED,
    (Phase.DOUBTED, Event.FENCE_VOID): Phase.ABORTED,
    (Phase.DOUBTED, Event.FENCE_UNREADABLE): Phase.DOUBTED,
    # Messages are repeated and overtake each other: news that agrees with the outcome changes nothing.
    (Phase.COMMITTED, Event.APPLIED): Phase.COMMITTED,
    (Phase.COMMITTED, Event.FAILED): Phase.COMMITTED,
    (Phase.COMMITTED, Event.OVERDUE): Phase.COMMITTED,
    (Phase.COMMITTED, Event.FENCE_OURS): Phase.COMMITTED,
    (Phase.COMMITTED, Event.FENCE_UNREADABLE): Phase.COMMITTED,
    (Phase.ABORTED, Event.FAILED): Phase.ABORTED,
    (Phase.ABORTED, Event.OVERDUE): Phase.ABORTED,
    (Phase.ABORTED, Event.FENCE_VOID): Phase.ABORTED,
    (Phase.ABORTED, Event.FENCE_UNREADABLE): Phase.ABORTED,
}


class Stage(Enum):
    """Where the coordinator stands."""

    RECOVERING = "recovering"
    SERVING = "serving"
    FENCED = "fenced"


class Turn(Enum):
    """What moves the coordinator."""

    SETTLED = "settled"
    SUPERSEDED = "superseded"


COORDINATOR: dict[tuple[Stage, Turn], Stage] = {
    (Stage.RECOVERING, Turn.SETTLED): Stage.SERVING,
    (Stage.SERVING, Turn.SETTLED): Stage.SERVING,
    (Stage.RECOVERING, Turn.SUPERSEDED): Stage.FENCED,
    (Stage.SERVING, Turn.SUPERSEDED): Stage.FENCED,
    (Stage.FENCED, Turn.SUPERSEDED): Stage.FENCED,
}


def next_phase(phase: Phase, event: Event) -> Phase:
    """Return the phase after ``event``; raises ProtocolError on a contradiction."""
    try:
        return TRANSACTION[phase, event]
    except KeyError:
        message = f"a transaction that is {phase.value} cannot meet {event.value}"
        raise ProtocolError(message) from None


def next_stage(stage: Stage, turn: Turn) -> Stage:
    """Return the stage after ``turn``; raises ProtocolError on a contradiction."""
    try:
        return COORDINATOR[stage, turn]
    except KeyError:
        message = f"a coordinator that is {stage.value} cannot meet {turn.value}"
        raise ProtocolError(message) from None
