"""docs/transactions.md agrees with the tables and the numbers of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.core import limits
from kontract.core.errors import Code
from kontract.core.phases import COORDINATOR, TRANSACTION, Event, Phase, Stage, Turn

ROOT = Checkout.find(Path(__file__).parent).root
TEXT = (ROOT / "docs" / "transactions.md").read_text(encoding="utf-8")

SHOWN = [
    "TRANSACTION_MS", "LEASE_MS", "STATEMENT_MS", "APPLY_DEADLINE_MS", "WAITERS_PATIENCE_MS", "RESOLVE_RETRY_MS",
    "VISIBILITY_WAIT_MS", "EPOCH_TRUST_MS", "RESERVATION_MS", "MAX_ATTEMPTS", "PREPARED", "WRITE_SET_BYTES",
    "READ_SET_ROWS", "QUERY_ROWS", "ROW_ID_BYTES", "WRITE_LOG_TRANSACTIONS", "POINTER_CACHE_MS", "RETENTION_MS",
    "FENCE_RETENTION_MS", "COLLECT_ROWS",
]  # fmt: skip


def state_table(states, events, table):
    rows = [f"| | {' | '.join(event.value for event in events)} |", f"|{'---|' * (len(events) + 1)}"]
    for state in states:
        cells = [table[state, event].value if (state, event) in table else "-" for event in events]
        rows.append(f"| {state.value} | {' | '.join(cells)} |")
    return "\n".join(rows)


def limits_table():
    rows = ["| Limit | Value | |", "|---|---|---|"]
    rows += [f"| `{name}` | {getattr(limits, name):,} | {reason(name)} |" for name in SHOWN]
    return "\n".join(rows)


def reason(name):
    """The docstring below the constant."""
    source = Path(limits.__file__).read_text(encoding="utf-8")
    return re.search(rf'^{name} = .*\n"""(.*?)"""', source, re.MULTILINE)[1].replace("``", "`")


@pytest.mark.parametrize(
    ("title", "table"),
    [
        ("transaction", state_table(Phase, Event, TRANSACTION)),
        ("coordinator", state_table(Stage, Turn, COORDINATOR)),
    ],
)
def test_the_states_are_those_of_the_code(title, table):
    assert f"<!-- states: {title} -->\n{table}\n\n" in TEXT


def test_the_limits_are_those_of_the_code():
    assert f"## Limits\n\n{limits_table()}\n" in TEXT


def test_names_exist():
    for name in set(re.findall(r"`([A-Z]+_[A-Z_]+)`", TEXT)):
        assert hasattr(limits, name) or name in Code.__members__, name
    assert f"({limits.MAX_ATTEMPTS} unless" in TEXT


def test_the_shown_table_is_plain_and_files_exist():
    assert "id TEXT PRIMARY KEY" in TEXT
    for path in re.findall(r"`(src/[\w/]+\.py)`", TEXT):
        assert (ROOT / path).is_file()


def test_it_is_short_in_width():
    """Tables aside, lines fit the editor's ruler."""
    assert [line for line in TEXT.splitlines() if len(line) > 120 and not line.startswith("|")] == []
