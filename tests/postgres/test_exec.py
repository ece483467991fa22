"""exec and history over real tables of both kinds."""

from __future__ import annotations

import pytest

from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.core.statements import Pending
from kontract.core.transaction import select
from kontract.core.types import TableKind
from kontract.ports import SnapshotTooOldError
from support.selects import ACCEPTED, IDS, ROWS


async def ask(world, text, params=(), *, snapshot=1, pending=()):
    selection = select.parse(text, params, "tasks")
    return select.rows(await world.store.select(world.table, selection, snapshot, pending))


async def test_answers_are_those_computed_in_python(world):
    """Every SELECT that is accepted means in PostgreSQL what it says, whatever the parser made of it."""
    await world.insert(1, **ROWS)
    await world.sql.execute(f"INSERT INTO {world.other.ptr} VALUES ('canary', '{{}}', 1, NULL, 'x')")
    for text, params, expected in ACCEPTED:
        assert await ask(world, text, params) == expected, text


async def test_without_standard_conforming_strings(world):
    """A server on which a backslash escapes reads the same literals."""
    await world.insert(1, **ROWS)
    await world.sql.execute(
        "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || "
        "' SET standard_conforming_strings = off; ALTER DATABASE ' || quote_ident(current_database()) || "
        "' SET escape_string_warning = off'; END $$"
    )
    await world.store.aclose()  # connects anew, with the new setting
    assert await ask(world, "SELECT id FROM tasks WHERE data->>'title' = 'd\\elta \"q\"'") == [{"id": "d"}]
    assert await ask(world, "SELECT id FROM tasks WHERE id = '\\' OR id = ' OR TRUE OR id = '") == []


async def test_functions_of_the_same_name_are_not_called(world):
    """Somebody's own count(jsonb) or lower(text) in the search path changes nothing."""
    await world.insert(1, **ROWS)
    await world.sql.execute(
        "CREATE FUNCTION public.lower(double precision) RETURNS text LANGUAGE sql AS $$ SELECT 'leak' $$"
    )
    with pytest.raises(InvalidRequestError):
        await ask(world, "SELECT lower(1.5::double precision) AS x FROM tasks")


async def test_sees_the_snapshot_under_ones_own_writes(world):
    await world.insert(1, a={"n": 1}, b={"n": 2}, c={"n": 3})
    pending = [Pending("a", '{"n": 10}'), Pending("b", None), Pending("z", '{"n": 5}')]
    text = "SELECT id, (data->>'n')::int AS n, _txid FROM tasks ORDER BY id"
    assert await ask(world, text, pending=pending) == [
        {"id": "a", "n": 10, "_txid": 0}, {"id": "c", "n": 3, "_txid": 1}, {"id": "z", "n": 5, "_txid": 0},
    ]  # fmt: skip
    assert await ask(world, "SELECT sum((data->>'n')::int) FROM tasks WHERE id <> $1", ["c"], pending=pending) == [
        {"sum": 15}
    ]
    joined = "SELECT count(*) FROM tasks a JOIN tasks b ON a.id = b.id"
    assert await ask(world, joined, pending=pending) == [{"count": 3}]


async def test_older_snapshots_see_older_rows(versioned):
    world = versioned
    await world.insert(1, a={"n": 1})
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    assert await ask(world, "SELECT data FROM tasks", snapshot=1) == [{"data": {"n": 1}}]
    assert await ask(world, "SELECT data FROM tasks", snapshot=2) == [{"data": {"n": 2}}]
    assert await ask(world, "SELECT data FROM tasks", snapshot=0) == []


async def test_a_plain_table_says_when_it_cannot_show_the_snapshot(plain):
    """Also when the missing row makes the SELECT fail, and when the answer would be over the limit."""
    world = plain
    await world.insert(1, a={"n": 1})
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    with pytest.raises(SnapshotTooOldError):
        await ask(world, "SELECT id FROM tasks")
    with pytest.raises(SnapshotTooOldError):
        await ask(world, "SELECT 1 / count(*) AS x FROM tasks")
    assert await ask(world, "SELECT 1 / count(*) AS x FROM tasks", snapshot=2) == [{"x": 1}]


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("SELECT (data->>'t')::int AS x FROM tasks", []),
        ("SELECT $1::int AS x FROM tasks", ["secret"]),
        ("SELECT $1::jsonb AS x FROM tasks", ["{"]),
        ("SELECT 1 / 0 AS x FROM tasks", []),
        ("SELECT 9999999999 :: int AS x FROM tasks", []),
        ("SELECT id || (SELECT id FROM tasks) AS x FROM tasks", []),
        ("SELECT id FROM tasks WHERE data = 1", []),
        ("SELECT id, count(*) FROM tasks", []),
        ("SELECT id FROM tasks WHERE sum(1) = 1", []),
        ("SELECT id FROM tasks LIMIT $1", [-1]),
        ("SELECT sqrt(-1) AS x FROM tasks", []),
        ("SELECT coalesce(1, 'x') AS x FROM tasks", []),
        ("SELECT ARRAY['a', 1] AS x FROM tasks", []),
    ],
)
async def test_errors_of_the_expression_are_the_callers(world, text, params):
    """400 with a sentence: neither SQL nor data nor PostgreSQL's own words."""
    await world.insert(1, a={"t": "secret"}, b={"t": "secret"})
    with pytest.raises(InvalidRequestError) as caught:
        await ask(world, text, params)
    assert caught.value.__cause__ is None
    for word in ("secret", "SELECT", "tasks", "tbl_", "kontract_view"):
        assert word not in caught.value.message


async def test_the_number_of_rows_is_bounded(world):
    many = {f"r{n:04}": {} for n in range(limits.QUERY_ROWS + 1)}
    await world.insert(1, **many)
    with pytest.raises(InvalidRequestError, match="more than 1000 rows"):
        await ask(world, "SELECT id FROM tasks")
    assert len(await ask(world, "SELECT id FROM tasks LIMIT 1000")) == 1000
    assert await ask(world, "SELECT count(*) FROM tasks") == [{"count": 1001}]


async def test_values_that_json_or_python_cannot_hold(world):
    """Deep JSON would end an isolate, huge numbers are no numbers: both are refused, not fatal."""
    await world.insert(1, a={})
    deep = "[" * 3000 + "]" * 3000
    with pytest.raises(InvalidRequestError, match="nested"):
        await ask(world, "SELECT $1::jsonb AS x FROM tasks", [deep])
    with pytest.raises(InvalidRequestError):
        await ask(world, "SELECT $1::jsonb AS x FROM tasks", ["1e5000"])
    assert await ask(world, "SELECT $1::double precision AS x FROM tasks", ["NaN"]) == [{"x": "NaN"}]


async def test_a_long_statement_runs(world):
    await world.insert(1, **ROWS)
    conditions = " OR ".join(f"id = ${n}" for n in range(1, 101))
    found = await ask(world, f"SELECT id FROM tasks WHERE {conditions} ORDER BY id", [*IDS, *["no"] * (100 - len(IDS))])
    assert [row["id"] for row in found] == IDS


async def test_history_of_a_row(versioned):
    """Oldest first; a version's end is told only when the snapshot knows of it."""
    world = versioned
    await world.insert(1, a={"n": 1}, b={})
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    await world.applied(3, world.write("a", seen=2))
    await world.applied(5, world.write("a", {"n": 5}, seen=0))

    async def history(snapshot):
        return [(v.txid, end, v.data) for v, end in await world.store.history(world.table, "a", snapshot)]

    assert await history(0) == []
    assert await history(1) == [(1, None, '{"n": 1}')]
    assert await history(2) == [(1, 2, '{"n": 1}'), (2, None, '{"n": 2}')]
    assert await history(4) == [(1, 2, '{"n": 1}'), (2, 3, '{"n": 2}')]
    assert await history(5) == [(1, 2, '{"n": 1}'), (2, 3, '{"n": 2}'), (5, None, '{"n": 5}')]
    assert await world.store.history(world.table, "nobody", 5) == []


async def test_history_of_a_plain_row_is_the_version_it_has(plain):
    world = plain
    await world.insert(1, a={"n": 1}, b={"n": 1})
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    assert [(v.txid, end) for v, end in await world.store.history(world.table, "a", 2)] == [(2, None)]
    assert [(v.txid, end) for v, end in await world.store.history(world.table, "b", 1)] == [(1, None)]
    with pytest.raises(SnapshotTooOldError):
        await world.store.history(world.table, "a", 1)
    await world.applied(3, world.write("a", seen=2))
    assert [(v.txid, end) for v, end in await world.store.history(world.table, "a", 3)] == [(2, 3)]
    assert world.table.kind is TableKind.PLAIN


async def test_history_is_bounded(versioned):
    """Of a row with more versions than a query may return, the newest ones."""
    world = versioned
    await world.sql.execute(
        f"INSERT INTO {world.table.ptr} (id, data, _txid, _deleted_txid, _owner) "
        "SELECT 'a', '{}', n, n + 1, 'ann' FROM generate_series(1, 1100) AS n"
    )
    versions = await world.store.history(world.table, "a", 2000)
    assert [v.txid for v, _ in versions] == list(range(101, 1101))
