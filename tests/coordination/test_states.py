"""The states of a shell are a table: every pair is either there or a defect, and the code turns in no other way."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import pytest

from kontract import coordination
from kontract.coordination.states import STOPPED, TRANSITIONS, ShellEvent, ShellState, next_state

S, E = ShellState, ShellEvent

# Written out, not derived: a change of the table must be made twice, on purpose.
MOVES = {
    (S.ASLEEP, E.CALLED): S.STARTING,
    (S.STARTING, E.STARTED): S.AWAKE,
    (S.STARTING, E.FAILED): S.ASLEEP,
    (S.AWAKE, E.LOST): S.ASLEEP,
    **{(state, E.OUTDATED): S.OUTDATED for state in (S.ASLEEP, S.STARTING, S.AWAKE)},
    **{(state, E.DEFECT): S.BROKEN for state in (S.ASLEEP, S.STARTING, S.AWAKE)},
}


@pytest.mark.parametrize(("state", "event"), list(product(ShellState, ShellEvent)))
def test_every_state_meets_every_event(state, event):
    if (state, event) in MOVES:
        assert next_state(state, event) is MOVES[state, event]
    else:
        with pytest.raises(AssertionError, match=rf"{state.value} cannot meet {event.value}"):
            next_state(state, event)


def test_what_is_for_good_is_never_left():
    """A node that has replayed half of an entry, or met a newer version, decides nothing any more."""
    assert set(STOPPED) == {S.OUTDATED, S.BROKEN}
    assert [state for state, _ in TRANSITIONS if state in STOPPED] == []


def test_the_state_is_set_in_one_place():
    """Whoever assigned it elsewhere would pass the table by."""
    assigned = []
    for path in Path(coordination.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []
            assigned += [
                path.name for target in targets if isinstance(target, ast.Attribute) and target.attr == "state"
            ]
    assert assigned == ["host.py", "host.py"], "where it begins, and in Host._turn"
