"""SQL as text: identifiers are checked, and nothing of a caller is ever part of a statement."""

from __future__ import annotations

import re

import pytest
from msgspec import Raw

from kontract.core import limits
from kontract.core.messages import Write
from kontract.core.statements import ApplyPlan, Pending, Statement, Window
from kontract.core.transaction import fences, sql, sqlstates
from kontract.core.types import Filter, TableKind, TablePointer

EVIL = "evil'; DROP TABLE trxs; --"
KINDS = pytest.mark.parametrize("kind", list(TableKind))


def pointer(kind: TableKind, ptr: str = "tbl_1") -> TablePointer:
    return TablePointer("tasks", ptr, kind, 7)


def everything(kind: TableKind) -> list[Statement]:
    """Every statement there is, fed with hostile values."""
    table, wanted, pending = pointer(kind), Filter({EVIL: EVIL}, EVIL), [Pending(EVIL, f'{{"a":"{EVIL}"}}')]
    writes = [
        Write(EVIL, "tbl_1", EVIL, seen, data, owner=EVIL)
        for seen in (None, 0, 4)
        for data in (Raw(f'{{"a":"{EVIL}"}}'.encode()), Raw(b"null"))
    ]
    return [
        sql.lookup(EVIL, EVIL),
        sql.read_row(table, EVIL, 5),
        *(
            sql.query(table, wanted, 5, Window(order, descending, after, 10, EVIL), own)
            for order in (None, EVIL)
            for descending in (False, True)
            for after in (None, EVIL)
            for own in ((), pending)
        ),
        sql.end_row(table, 5, pending, last=True),
        sql.count(table, wanted, 5, pending),
        sql.apply(ApplyPlan(EVIL, EVIL, EVIL, 6, 1, [(table, writes), (pointer(kind, "tbl_2"), writes)])),
        fences.resolve(EVIL, EVIL, 6),
        fences.raise_epoch(EVIL, 1, 0),
        fences.read_epoch(EVIL),
        fences.highest_fence(EVIL),
        fences.pointers(EVIL),
    ]


@KINDS
def test_no_value_is_part_of_a_statement(kind):
    """Filters, ids, field names, users, sids and rows are parameters, everywhere."""
    for statement in everything(kind):
        assert "evil" not in statement.text
        assert any("evil" in str(value) for value in statement.params)


@KINDS
def test_every_parameter_is_used_and_cast(kind):
    """Drivers that send text and drivers that send binary must mean the same: $n::type, without a gap."""
    for statement in everything(kind):
        used = {int(n) for n in re.findall(r"\$(\d+)", statement.text)}
        assert used == set(range(1, len(statement.params) + 1))
        assert re.findall(r"\$\d+(?!\d|::)", statement.text) == []


@pytest.mark.parametrize(
    "name", ["", "1a", "a b", 'a"b', "a;b", "a.b", "täb", "a\n", "x" * 64, "a-b", "a'b", "a$b", "pg_class\x00"]
)
@KINDS
def test_identifiers_that_are_refused(name, kind):
    """A pointer in storage is data; what is not a plain name never becomes part of a statement."""
    with pytest.raises(ValueError, match="is not a table name"):
        sql.quote(name)
    bad = pointer(kind, name)
    for build in (
        lambda: sql.read_row(bad, "x", 1),
        lambda: sql.query(bad, Filter(), 1, Window()),
        lambda: sql.count(bad, Filter(), 1),
        lambda: sql.end_row(bad, 1, (), last=True),
        lambda: sql.apply(ApplyPlan("s", "o", "u", 1, 1, [(bad, [])])),
        lambda: fences.highest_txid([name]),
    ):
        with pytest.raises(ValueError, match="is not a table name"):
            build()


@pytest.mark.parametrize("name", ["a", "_a", "TBL_1", "x" * 63, "select"])
def test_identifiers_are_quoted(name):
    """So that case and keywords mean what is written."""
    assert sql.quote(name) == f'"{name}"'


@KINDS
def test_the_shape_of_a_statement_does_not_depend_on_its_values(kind):
    """Poolers and PostgreSQL see few texts: a commit of nine rows reads like one of sixteen."""
    made = {}
    for number in (1, 2, 3, 4, 9, 16, 1000, 1024):
        writes = [Write("t", "tbl_1", str(n)) for n in range(number)]
        made[number] = sql.apply(ApplyPlan(f"s{number}", f"o{number}", "u", number, 1, [(pointer(kind), writes)]))
        assert made[number].timeout_ms == limits.STATEMENT_MS
    texts = {number: statement.text for number, statement in made.items()}
    assert (texts[3], texts[9], texts[1000]) == (texts[4], texts[16], texts[1024])
    assert len(set(texts.values())) == 5


@pytest.mark.parametrize(
    ("rows", "bound"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024), (1024, 1024), (1025, 2048)]
)
def test_a_list_is_bounded_by_the_next_power_of_two(rows, bound):
    """Never by less than it has: the rows beyond would not be written."""
    assert sql.at_most(rows) == bound


@KINDS
def test_one_statement_each(kind):
    """No session state, no transaction block: nothing that a transaction pooler would break."""
    for statement in everything(kind):
        assert ";" not in statement.text
        assert not re.search(r"\b(BEGIN|COMMIT|SET LOCAL|PREPARE|LISTEN|pg_advisory)\b", statement.text, re.IGNORECASE)


@KINDS
def test_what_hyperdrive_may_cache(kind):
    """Snapshot reads may be cached for ever because they carry the snapshot; everything else names now() or writes."""
    for statement in everything(kind):
        writes = "INSERT" in statement.text
        snapshot = 6 in statement.params and not writes
        assert writes or snapshot or "now()" in statement.text


def test_the_verdict_is_read_from_the_errors_raised_on_purpose_only():
    """The same word in another error, for example in a caller's data, means nothing."""
    assert sqlstates.verdict("22P02", 'invalid input syntax for type integer: "KONTRACT_FENCED 3"') == sql.FENCED
    assert sqlstates.verdict("22P02", 'invalid input syntax for type integer: "KONTRACT_STALE ..."') == sql.STALE
    assert sqlstates.verdict("22P02", "invalid input syntax for type json") is None
    assert sqlstates.verdict("23505", "KONTRACT_FENCED") is None
