"""docs/explanation/transactions.md agrees with the tables of the code, and names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.core import limits
from kontract.core.errors import Code
from kontract.core.protocol.phases import COORDINATOR, TRANSACTION, CoordinatorStage, Phase, PhaseEvent, Turn

ROOT = Checkout.find(Path(__file__).parent).root
TEXT = (ROOT / "docs" / "explanation" / "transactions.md").read_text(encoding="utf-8")


def state_table(states, events, table):
    rows = [f"| | {' | '.join(event.value for event in events)} |", f"|{'---|' * (len(events) + 1)}"]
    for state in states:
        cells = [table[state, event].value if (state, event) in table else "-" for event in events]
        rows.append(f"| {state.value} | {' | '.join(cells)} |")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("title", "table"),
    [
        ("transaction", state_table(Phase, PhaseEvent, TRANSACTION)),
        ("coordinator", state_table(CoordinatorStage, Turn, COORDINATOR)),
    ],
)
def test_the_states_are_those_of_the_code(title, table):
    assert f"<!-- states: {title} -->\n{table}\n\n" in TEXT


def test_names_exist():
    for name in set(re.findall(r"`([A-Z]+_[A-Z_]+)`", TEXT)):
        assert hasattr(limits, name) or name in Code.__members__, name
    assert f"({limits.MAX_ATTEMPTS} unless" in TEXT
