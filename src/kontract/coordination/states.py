"""The states of a shell around a coordinator, as a table.

::

    ASLEEP   --CALLED---> STARTING   somebody asks, and everybody who asks meanwhile waits for the same start
    STARTING --STARTED--> AWAKE      there is a coordinator that answers
    STARTING --FAILED---> ASLEEP     the database or the log does not answer: the next message tries again
    AWAKE    --LOST-----> ASLEEP     the coordinator is ahead of its journal, or the log goes on without it
    any      --OUTDATED-> OUTDATED   nodes with a newer version coordinate: this process has to be replaced
    any      --DEFECT---> BROKEN     an entry of the log could not be replayed: half of it must not be gone on with

The last two are for good, and only a node of several comes to them: a single process has nobody who would go on in its
place, so it starts again (LOST). ``tests/coordination/test_states.py`` walks every pair.
"""

from __future__ import annotations

from enum import Enum


class ShellState(Enum):
    """Where a shell stands."""

    ASLEEP = "asleep"
    STARTING = "starting"
    AWAKE = "awake"
    OUTDATED = "outdated"
    BROKEN = "broken"


class ShellEvent(Enum):
    """What happens to it."""

    CALLED = "called"
    STARTED = "started"
    FAILED = "failed"
    LOST = "lost"
    OUTDATED = "outdated"
    DEFECT = "defect"


TRANSITIONS: dict[tuple[ShellState, ShellEvent], ShellState] = {
    (ShellState.ASLEEP, ShellEvent.CALLED): ShellState.STARTING,
    (ShellState.ASLEEP, ShellEvent.OUTDATED): ShellState.OUTDATED,
    (ShellState.ASLEEP, ShellEvent.DEFECT): ShellState.BROKEN,
    (ShellState.STARTING, ShellEvent.STARTED): ShellState.AWAKE,
    (ShellState.STARTING, ShellEvent.FAILED): ShellState.ASLEEP,
    (ShellState.STARTING, ShellEvent.OUTDATED): ShellState.OUTDATED,
    (ShellState.STARTING, ShellEvent.DEFECT): ShellState.BROKEN,
    (ShellState.AWAKE, ShellEvent.LOST): ShellState.ASLEEP,
    (ShellState.AWAKE, ShellEvent.OUTDATED): ShellState.OUTDATED,
    (ShellState.AWAKE, ShellEvent.DEFECT): ShellState.BROKEN,
}

STOPPED = {
    ShellState.OUTDATED: (
        "nodes with a newer version of this application already coordinate; this one must be replaced"
    ),
    ShellState.BROKEN: "this node can no longer coordinate; see its log for the reason. Other nodes may be able to",
}
"""The final states, and the error for callers in each."""


class StoppedError(Exception):
    """This process does not coordinate this owner any more; the message says why."""


def next_state(state: ShellState, event: ShellEvent) -> ShellState:
    """Return the state after ``event``; anything that is not in the table is a defect."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        message = f"a shell that is {state.value} cannot meet {event.value}"
        raise AssertionError(message) from None
