"""How much a SELECT of exec may make: refused before PostgreSQL makes it, or stopped while it does."""

from __future__ import annotations

import json

import pytest

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError
from kontract.core.transaction import select


async def ask(world, text, params=()):
    selection = select.parse(text, params, "tasks")
    return select.rows(await world.store.select(world.table, selection, 1, ()))


def times(count: int, text: str, between: str = ", ") -> str:
    return between.join([text] * count)


def columns(count: int, text: str) -> str:
    return ", ".join(f"{text} AS a{n}" for n in range(count))


def nested(expression: str, levels: int) -> str:
    """SELECTs around one another, each of which makes its column of that of the one inside."""
    source = "(SELECT $1 AS x FROM tasks) AS s0"
    for level in range(1, levels):
        source = f"(SELECT {expression} AS x FROM {source}) AS s{level}"
    return f"{expression} AS x FROM {source}"


TWENTY = f"concat({times(20, 'x')})"
TWENTY_OF_IT = f"concat({times(20, '$1')})"

GROWN = {
    "nested concat": (f"SELECT {nested(TWENTY, 3)}", "x" * 12_000),
    "inside of something small": (f"SELECT length({TWENTY}) AS n, {nested('concat(x, x, x)', 3)}", "x" * 900_000),
    "in a condition": (f"SELECT id FROM tasks WHERE id = {TWENTY_OF_IT} || {TWENTY_OF_IT}", "x" * 900_000),
    "||": (f"SELECT {times(38, '$1', ' || ')} AS y FROM tasks", "x" * 950_000),
    "|| of columns": (f"SELECT {nested(times(10, 'x', ' || '), 3)}", "x" * 40_000),
    "concat_ws": (f"SELECT {columns(2, 'concat_ws($1, ' + times(19, 'id') + ')')} FROM tasks", "x" * 990_000),
    "objects": (f"SELECT jsonb_build_object({times(20, '$1, $1')}) AS y FROM tasks", "x" * 500_000),
    "arrays": (f"SELECT ARRAY[{times(20, '$1')}] AS y FROM tasks", "x" * 900_000),
    "quoted again and again": (f"SELECT {'to_jsonb(CAST(' * 12}$1{' AS text))' * 12} AS y FROM tasks", '"' * 9_000),
    "columns of one row": (f"SELECT {columns(60, '$1')} FROM tasks", "x" * 900_000),
    "the other case": (f"SELECT concat({times(20, 'upper($1)')}) AS y FROM tasks", "ǰ" * 300_000),
    "minus a name": ("SELECT " + columns(40, "(CAST($1 AS jsonb) - 'x')") + " FROM tasks", json.dumps(["x" * 900_000])),
}  # fmt: skip


@pytest.mark.parametrize("which", GROWN)
def test_what_grows_of_parameters_is_refused_before_it_is_sent(which):
    """Their lengths are known, and how often they are repeated; 12 KB became 192 MB once."""
    text, large = GROWN[which]
    with pytest.raises(PayloadTooLargeError, match="what it makes or returns is larger"):
        select.parse(text, [large], "tasks")
    select.parse(text, ["{}"], "tasks")


@pytest.mark.parametrize("json_text", ["[1e100000]", "[1E+131071, 2]", '{"a": -3.5e0100}', '{"a\\"": 1e999}', "1e-500"])
def test_numbers_that_would_be_written_with_many_digits_are_refused(json_text):
    """jsonb keeps ten characters of them, and writes a hundred thousand."""
    for text, params in (
        ("SELECT CAST($1 AS jsonb) AS x FROM tasks", [json_text]),
        (f"SELECT CAST('{json_text}' AS jsonb) AS x FROM tasks", []),
    ):
        with pytest.raises(InvalidRequestError, match="exponent of three digits"):
            select.parse(text, params, "tasks")


@pytest.mark.parametrize("json_text", ["[1e99]", '{"id": "3e512a", "b": "\\"1e100000"}', "[1.5, -2e+10]", "null"])
def test_other_json_is_taken(json_text):
    """Text in it may look like such a number."""
    select.parse("SELECT CAST($1 AS jsonb) AS x FROM tasks", [json_text], "tasks")


STOPPED = {
    "rows": "SELECT data FROM tasks",
    "one column of them": "SELECT data->>'text' AS x FROM tasks ORDER BY id DESC",
    "string_agg": "SELECT length(string_agg(data->>'text', ',')) AS x FROM tasks",
    "its separator": "SELECT length(string_agg(id, data->>'text')) AS x FROM tasks",
    "array_agg": "SELECT cardinality(array_agg(data->>'text')) AS x FROM tasks",
    "jsonb_agg": "SELECT jsonb_array_length(jsonb_agg(data ORDER BY id)) AS x FROM tasks",
    "jsonb_object_agg": "SELECT jsonb_typeof(jsonb_object_agg(id, data)) AS x FROM tasks",
    "with FILTER": "SELECT length(string_agg(data->>'text', ',') FILTER (WHERE id > '')) AS x FROM tasks",
    "of groups": "SELECT id, length(string_agg(data->>'text', ',')) AS x FROM tasks GROUP BY id",
    "in HAVING": "SELECT count(*) AS n FROM tasks HAVING length(string_agg(data->>'text', ',')) > 1",
    "in ORDER BY": "SELECT count(*) AS n FROM tasks ORDER BY length(string_agg(data->>'text', ','))",
    "of a subquery": "SELECT length(x) AS n FROM (SELECT string_agg(data->>'text', ',') AS x FROM tasks) AS s",
    "joined to itself": "SELECT length(string_agg(a.id, ',')) AS n FROM tasks AS a JOIN tasks AS b ON TRUE "
                        "JOIN tasks AS c ON TRUE JOIN tasks AS d ON TRUE",
    "row by row": "SELECT (SELECT length(string_agg(b.data->>'text', ',')) FROM tasks AS b WHERE b.id >= a.id) AS n "
                  "FROM tasks AS a",
    "copies of a row": f"SELECT length(concat(x, x, x, x, x, x)) AS n FROM (SELECT concat({times(20, 'data')}) AS x "
                       "FROM tasks) AS s",
    "numbers": "SELECT CAST(CAST('1e131000' AS numeric) AS text) AS x FROM tasks AS a JOIN tasks AS b ON TRUE",
    "digits of a row": "SELECT CAST(data->>'number' AS jsonb) AS x FROM tasks",
    "digits made up": "SELECT CAST('[' || 1 || 'e' || '100000]' AS jsonb) AS x FROM tasks",
}  # fmt: skip


async def test_what_grows_of_rows_is_stopped_while_it_does(world):
    """PostgreSQL counts itself: nothing of it arrives, and nothing is made of more than the limit."""
    await world.insert(1, **{f"r{n:03}": {"text": "x" * 300_000, "number": "1e100000"} for n in range(32)})
    for which, text in STOPPED.items():
        with pytest.raises(PayloadTooLargeError, match="what it makes or returns is larger"):
            pytest.fail(f"{which}: {await ask(world, text)!r:.100}")
    assert await ask(world, "SELECT sum(length(data->>'text')) AS n FROM tasks") == [{"n": 9_600_000}]
    assert len(await ask(world, "SELECT left(data->>'text', 10) AS x FROM tasks")) == 32
    assert await ask(world, "SELECT length(string_agg(data->>'text', ',')) AS n FROM tasks WHERE id < 'r010'") == [
        {"n": 3_000_009}
    ]


async def test_aggregates_answer_as_before(world):
    """With groups, filters, orders, subqueries and casts around and inside of them."""
    await world.insert(1, a={"n": 1, "t": "x"}, b={"n": 2, "t": "y"}, c={"n": 1, "t": None})
    for text, expected in {
        "SELECT string_agg(data->>'t', ',' ORDER BY id DESC) AS x FROM tasks": [{"x": "y,x"}],
        "SELECT data->>'n' AS n, jsonb_agg(id ORDER BY id) AS ids FROM tasks GROUP BY data->>'n' ORDER BY 1": [
            {"n": "1", "ids": ["a", "c"]}, {"n": "2", "ids": ["b"]},
        ],
        "SELECT array_agg(DISTINCT data->>'n') AS x FROM tasks WHERE id <> $1": [{"x": ["1"]}],
        "SELECT jsonb_object_agg(id, data->'n') FILTER (WHERE id < 'c') AS x FROM tasks": [{"x": {"a": 1, "b": 2}}],
        "SELECT string_agg(t, '') AS x FROM (SELECT data->>'t' AS t FROM tasks WHERE id = 'a') AS s": [{"x": "x"}],
        "SELECT (SELECT string_agg(b.id, '') FROM tasks AS b WHERE b.id > a.id) AS x FROM tasks AS a WHERE id = 'a'": [
            {"x": "bc"}
        ],
        "SELECT string_agg(id, '') AS x FROM tasks WHERE id = 'none'": [{"x": None}],
        "SELECT CAST(max(data->>'n') AS jsonb) AS x FROM tasks": [{"x": 2}],
        "SELECT CAST(concat('[', string_agg(id, ','), ']') AS text) AS x FROM tasks": [{"x": "[a,b,c]"}],
        "SELECT CAST(data->>'n' AS jsonb) AS x, count(*) AS c FROM tasks GROUP BY 1 ORDER BY 2": [
            {"x": 2, "c": 1}, {"x": 1, "c": 2},
        ],
        "SELECT concat(data->>'t', data->>'t', data->>'t') AS x FROM tasks WHERE id = 'a'": [{"x": "xxx"}],
        "SELECT id FROM tasks WHERE data @> CAST($1 AS jsonb)": [{"id": "b"}],
    }.items():  # fmt: skip
        params = {True: ["b"], False: []}["$1" in text] if "@>" not in text else ['{"n": 2}']
        assert await ask(world, text, params) == expected, text


def test_an_aggregate_of_another_query_is_refused():
    """PostgreSQL would make it of the rows around, where nothing counts them."""
    with pytest.raises(InvalidRequestError, match="string_agg in a subquery must use columns of that subquery"):
        select.parse("SELECT (SELECT string_agg(a.id, ',') FROM tasks AS b LIMIT 1) AS x FROM tasks AS a", [], "tasks")


async def test_the_answer_may_have_all_its_bytes(world, monkeypatch):
    """At the limit, and a byte above it."""
    await world.insert(1, a={"t": "x" * 100}, b={"t": "x" * 100})
    text = "SELECT data->>'t' AS t FROM tasks"
    size = 2 * len('{"t": ""}') + 200
    for most, good in ((size, True), (size - 1, False)):
        monkeypatch.setattr(limits, "SELECT_BYTES", most)
        if good:
            assert len(await ask(world, text)) == 2
        else:
            with pytest.raises(PayloadTooLargeError):
                await ask(world, text)


def test_one_value_may_have_its_bytes(monkeypatch):
    """What is refused is reckoned from how often a parameter is repeated."""
    monkeypatch.setattr(limits, "SELECT_VALUE_BYTES", 10_000)
    select.parse(f"SELECT concat({times(5, '$1')}) AS y FROM tasks", ["x" * 1_000], "tasks")
    with pytest.raises(PayloadTooLargeError):
        select.parse(f"SELECT concat({times(11, '$1')}) AS y FROM tasks", ["x" * 1_000], "tasks")
