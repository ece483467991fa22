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
stops rather than guess, and the shell starts a new one from the journal and the fences.
``docs/explanation/transactions.md`` shows these tables; ``tests/core/protocol/test_phases.py`` walks every pair.
"""

from __future__ import annotations

from enum import Enum


class ProtocolError(Exception):
    """Contradictory facts were reported, or a message arrived that the state does not allow."""


class Phase(Enum):
    """The phase of a transaction."""

    PREPARED = "prepared"
    DOUBTED = "doubted"
    COMMITTED = "committed"
    ABORTED = "aborted"


class PhaseEvent(Enum):
    """What a coordinator can learn about a transaction."""

    APPLIED = "applied"
    FAILED = "failed"
    OVERDUE = "overdue"
    FENCE_OURS = "fence_ours"
    FENCE_VOID = "fence_void"
    FENCE_UNREADABLE = "fence_unreadable"


TRANSACTION: dict[tuple[Phase, PhaseEvent], Phase] = {
    (Phase.PREPARED, PhaseEvent.APPLIED): Phase.COMMITTED,
    (Phase.PREPARED, PhaseEvent.FAILED): Phase.DOUBTED,
    (Phase.PREPARED, PhaseEvent.OVERDUE): Phase.DOUBTED,
    (Phase.DOUBTED, PhaseEvent.APPLIED): Phase.COMMITTED,
    (Phase.DOUBTED, PhaseEvent.FAILED): Phase.DOUBTED,
    (Phase.DOUBTED, PhaseEvent.OVERDUE): Phase.DOUBTED,
    (Phase.DOUBTED, PhaseEvent.FENCE_OURS): Phase.COMMITTED,
    (Phase.DOUBTED, PhaseEvent.FENCE_VOID): Phase.ABORTED,
    (Phase.DOUBTED, PhaseEvent.FENCE_UNREADABLE): Phase.DOUBTED,
    # Messages are repeated and reordered: an event that agrees with the outcome changes nothing.
    (Phase.COMMITTED, PhaseEvent.APPLIED): Phase.COMMITTED,
    (Phase.COMMITTED, PhaseEvent.FAILED): Phase.COMMITTED,
    (Phase.COMMITTED, PhaseEvent.OVERDUE): Phase.COMMITTED,
    (Phase.COMMITTED, PhaseEvent.FENCE_OURS): Phase.COMMITTED,
    (Phase.COMMITTED, PhaseEvent.FENCE_UNREADABLE): Phase.COMMITTED,
    (Phase.ABORTED, PhaseEvent.FAILED): Phase.ABORTED,
    (Phase.ABORTED, PhaseEvent.OVERDUE): Phase.ABORTED,
    (Phase.ABORTED, PhaseEvent.FENCE_VOID): Phase.ABORTED,
    (Phase.ABORTED, PhaseEvent.FENCE_UNREADABLE): Phase.ABORTED,
}


class CoordinatorStage(Enum):
    """The stage of the coordinator."""

    RECOVERING = "recovering"
    SERVING = "serving"
    FENCED = "fenced"


class Turn(Enum):
    """What changes the stage."""

    SETTLED = "settled"
    SUPERSEDED = "superseded"


COORDINATOR: dict[tuple[CoordinatorStage, Turn], CoordinatorStage] = {
    (CoordinatorStage.RECOVERING, Turn.SETTLED): CoordinatorStage.SERVING,
    (CoordinatorStage.SERVING, Turn.SETTLED): CoordinatorStage.SERVING,
    (CoordinatorStage.RECOVERING, Turn.SUPERSEDED): CoordinatorStage.FENCED,
    (CoordinatorStage.SERVING, Turn.SUPERSEDED): CoordinatorStage.FENCED,
    (CoordinatorStage.FENCED, Turn.SUPERSEDED): CoordinatorStage.FENCED,
}


def next_phase(phase: Phase, event: PhaseEvent) -> Phase:
    """Return the phase after ``event``; raises ProtocolError on a contradiction."""
    try:
        return TRANSACTION[phase, event]
    except KeyError:
        message = f"a transaction that is {phase.value} cannot meet {event.value}"
        raise ProtocolError(message) from None


def next_stage(stage: CoordinatorStage, turn: Turn) -> CoordinatorStage:
    """Return the stage after ``turn``; raises ProtocolError on a contradiction."""
    try:
        return COORDINATOR[stage, turn]
    except KeyError:
        message = f"a coordinator that is {stage.value} cannot meet {turn.value}"
        raise ProtocolError(message) from None
