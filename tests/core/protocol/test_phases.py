"""The two state machines are tables: every pair is either there or an error."""

from __future__ import annotations

from itertools import product

import pytest

from kontract.core.protocol.phases import (
    COORDINATOR,
    TRANSACTION,
    CoordinatorStage,
    Phase,
    PhaseEvent,
    ProtocolError,
    Turn,
)
from kontract.core.protocol.phases import next_phase as after
from kontract.core.protocol.phases import next_stage as stage_after

# Written out, not derived: a change of the table must be made twice, on purpose.
CONTRADICTIONS = {
    (Phase.PREPARED, PhaseEvent.FENCE_OURS),
    (Phase.PREPARED, PhaseEvent.FENCE_VOID),
    (Phase.PREPARED, PhaseEvent.FENCE_UNREADABLE),
    (Phase.COMMITTED, PhaseEvent.FENCE_VOID),
    (Phase.ABORTED, PhaseEvent.APPLIED),
    (Phase.ABORTED, PhaseEvent.FENCE_OURS),
}


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, PhaseEvent)))
def test_every_phase_meets_every_event(phase, event):
    """A transaction moves as the table says or the coordinator is told of a contradiction."""
    if (phase, event) in CONTRADICTIONS:
        with pytest.raises(ProtocolError, match=rf"{phase.value} cannot meet {event.value}"):
            after(phase, event)
    else:
        assert after(phase, event) is TRANSACTION[phase, event]


@pytest.mark.parametrize("event", list(PhaseEvent))
def test_an_outcome_is_final(event):
    """Nothing turns a committed transaction into another thing, nor an aborted one."""
    for outcome in (Phase.COMMITTED, Phase.ABORTED):
        assert TRANSACTION.get((outcome, event), outcome) is outcome


def test_only_the_fence_aborts():
    """No report of a worker and no clock makes a transaction aborted: a failed statement may have succeeded."""
    into_aborted = {event for (phase, event), to in TRANSACTION.items() if to is Phase.ABORTED is not phase}
    assert into_aborted == {PhaseEvent.FENCE_VOID}
    into_committed = {event for (phase, event), to in TRANSACTION.items() if to is Phase.COMMITTED is not phase}
    assert into_committed == {PhaseEvent.APPLIED, PhaseEvent.FENCE_OURS}


@pytest.mark.parametrize(("stage", "turn"), list(product(CoordinatorStage, Turn)))
def test_every_stage_meets_every_turn(stage, turn):
    """A fenced coordinator never serves again; every other pair is in the table."""
    if (stage, turn) == (CoordinatorStage.FENCED, Turn.SETTLED):
        with pytest.raises(ProtocolError, match="fenced cannot meet settled"):
            stage_after(stage, turn)
    else:
        assert stage_after(stage, turn) is COORDINATOR[stage, turn]
        assert stage_after(stage, Turn.SUPERSEDED) is CoordinatorStage.FENCED
