"""What exec refuses, and that what it refuses never reaches the database."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest

from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.core.messages import Began, Begin, Conflict, Key
from kontract.core.model.rows import RowType
from kontract.core.transaction import select
from kontract.core.transaction.storage import Table
from kontract.core.transaction.transaction import Call, RetryError, Transaction
from kontract.core.types import Epoch, Snapshot, TableKind, TablePointer, Version
from support.escapes import ESCAPES
from support.selects import ACCEPTED


class Spy:
    """Stands for the transaction and for the way to the table's pointer: nobody may ask for either."""

    def __init__(self):
        self.asked = []

    async def locate(self, rows, _need):
        self.asked.append(rows.name)

    async def select(self, pointer, selection):
        self.asked.append(selection)
        return ["{}"]


def table(spy):
    return Table("tasks", RowType("tasks"), spy, spy.locate, lambda: "new")


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(set(ESCAPES)) >= 150
    assert len(set(ESCAPES)) == len(ESCAPES)
    assert len(ACCEPTED) >= 30


@pytest.mark.parametrize("text", ESCAPES, ids=[f"{n}-{text[:50]!a}" for n, text in enumerate(ESCAPES)])
async def test_is_refused_before_anything_is_asked(text):
    """400 with a sentence, and the database has not heard of it."""
    spy = Spy()
    with pytest.raises(InvalidRequestError) as caught:
        await table(spy).exec(text)
    assert spy.asked == []
    assert len(caught.value.message) < 300
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("text", "params"), [case[:2] for case in ACCEPTED], ids=range(len(ACCEPTED)))
async def test_what_is_accepted_is_asked_in_our_own_words(text, params):
    """Tables, functions and types are written with where they come from; nothing else is a name."""
    spy = Spy()
    assert await table(spy).exec(text, params) == [{}]
    written = spy.asked[1].text(3)
    bare = re.sub(r"E?'(?:[^']|'')*'", "''", written)
    assert re.findall(r"(?:(?<!DISTINCT )FROM|JOIN) (?!\(SELECT )(\S+)", bare) == ['"kontract_view"'] * bare.count(
        "kontract_view"
    )
    for function in re.findall(r"([a-z_.]+)\(", bare):
        assert function.startswith("pg_catalog.")
    assert not re.search(r";|--|/\*|\$\$|\\", bare)
    numbers = {int(n) for n in re.findall(r"\$(\d+)", bare)}
    assert numbers == set(range(4, 4 + len(params)))


@pytest.mark.parametrize(
    "params",
    [
        "abc", b"abc", {"a": 1}, {1}, None, 7, [[1]], [{}], [b"x"], [object()], [float("nan")], [float("inf")], [2**63],
        [-(2**63) - 1], ["\x00"], ["\ud800"], [], [1, 2], ["a"] * 101, ["x" * 1_000_001],
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", ascii(value))[:30],
)  # fmt: skip
async def test_parameters_that_cannot_be_bound(params):
    spy = Spy()
    with pytest.raises(InvalidRequestError):
        await table(spy).exec("SELECT id FROM tasks WHERE id = $1", params)
    assert spy.asked == []


@pytest.mark.parametrize("text", [None, 7, b"SELECT id FROM tasks", ["SELECT id FROM tasks"]], ids=repr)
async def test_sql_that_is_no_text(text):
    with pytest.raises(InvalidRequestError, match="must be text"):
        await table(Spy()).exec(text)


def test_types_of_parameters_are_those_of_python():
    parsed = select.parse(
        "SELECT $1 AS a, $2 AS b, $3 AS c, $4 AS d, $5 AS e FROM tasks", ["x", 1, 1.5, True, None], "tasks"
    )
    assert re.findall(r"CAST\(CAST\(\$(\d+) AS pg_catalog.text\) AS pg_catalog.(\w+)\)", parsed.text(10)) == [
        ("11", "text"), ("12", "int8"), ("13", "float8"), ("14", "bool"), ("15", "text"),
    ]  # fmt: skip
    assert parsed.values() == ["x", "1", "1.5", "true", None]


def test_a_bool_is_not_taken_for_the_integer_it_equals():
    """True == 1 in Python: a cache by value would mix them up."""
    text = "SELECT $1 AS x FROM tasks"
    assert "int8" in select.parse(text, [1], "tasks").text(0)
    assert "bool" in select.parse(text, [True], "tasks").text(0)


def test_names_of_tables_that_are_no_identifiers():
    for name in ("my tasks", "Tasks", "a.b", 'a"b', "select"):
        quoted = '"' + name.replace('"', '""') + '"'
        assert "kontract_view" in select.parse(f"SELECT id FROM {quoted}", [], name).text(0)
        with pytest.raises(InvalidRequestError):
            select.parse(f'SELECT id FROM "x{quoted[1:]}', [], name)


def test_the_same_text_on_another_table_is_checked_again():
    select.parse("SELECT id FROM tasks", [], "tasks")
    with pytest.raises(InvalidRequestError, match="FROM accounts only"):
        select.parse("SELECT id FROM tasks", [], "accounts")


def test_too_many_rows():
    with pytest.raises(InvalidRequestError, match="LIMIT"):
        select.rows(["{}"] * (limits.QUERY_ROWS + 1))


class Coordinator:
    """Answers begin, and keeps what prepare says."""

    def __init__(self):
        self.prepared = None

    async def ask(self, request):
        if isinstance(request, Begin):
            return Began(Snapshot(7), Epoch(1))
        self.prepared = request
        return Conflict("tbl", "a", 8)


class Store:
    """Has one row, and keeps what it was asked."""

    def warm(self):
        pass

    async def select(self, pointer, selection, snapshot, pending):
        self.asked = (snapshot, [p.id for p in pending])
        return ['{"n":1}']

    async def history(self, pointer, row_id, snapshot):
        return [(Version(row_id, '{"n":1}', 3, "ann"), 5), (Version(row_id, '{"n":2}', 5, "ann"), None)]


async def test_what_was_read_is_validated():
    """exec reads the whole table, history its row: a change of either is a conflict for whoever writes on top of it."""
    coordinator, store = Coordinator(), Store()
    call = Call(id="c", owner="o", user="ann")
    transaction = Transaction(call, 1, coordinator, store, None, asyncio.Lock)

    async def locate(rows, _need):
        return TablePointer(rows.name, "tbl", TableKind.VERSIONED, 7)

    tasks = Table("tasks", RowType("tasks"), transaction, locate, lambda: "new")
    await tasks.set("own", {})
    assert await tasks.exec("SELECT (data->>'n')::int AS n FROM tasks") == [{"n": 1}]
    assert store.asked == (7, ["own"])
    assert await tasks.history("a") == [
        {"txid": 3, "deleted_txid": 5, "value": {"n": 1, "id": "a"}},
        {"txid": 5, "deleted_txid": None, "value": {"n": 2, "id": "a"}},
    ]
    with pytest.raises(RetryError):
        await transaction.commit()
    assert coordinator.prepared.reads == [Key("tbl", "a")]
    assert [(p.ptr, bytes(p.contains), p.whole) for p in coordinator.prepared.predicates] == [("tbl", b"{}", True)]


@pytest.mark.parametrize("sqlstate", ["08006", "57014", "42P01", "42501", "53200", "XX000", "40001"])
def test_errors_that_are_not_the_callers(sqlstate):
    assert select.explain(sqlstate) is None


@pytest.mark.parametrize("sqlstate", ["22P02", "22012", "42883", "21000", "22P05", "54000"])
def test_errors_that_are(sqlstate):
    assert isinstance(select.explain(sqlstate), InvalidRequestError)


def test_sqlglot_is_not_imported_before_it_is_needed():
    """It takes more than a second in workerd, and most Workers never call exec."""
    code = "import sys, kontract.gateway.app, kontract.core.transaction.storage; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
