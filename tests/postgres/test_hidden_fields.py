"""Hidden fields and older rows over a real database: one rule for every way by which stored JSON reaches a caller."""

from __future__ import annotations

import json
import random

import pytest

from kontract import Context, backend
from kontract.core.model.rows import row_type
from kontract.core.transaction import select, sql
from kontract.core.types import Version
from support.api import apis
from support.listening import listen
from support.older_rows import Card, Node, Person, document

SEED = 20261130
ROWS = 400

VISA = {"brand": "visa", "number": "4111", "limit": 9, "gone": "4111"}
OLDER = {"name": "Ann", "pin": "1234", "card": VISA, "cards": [VISA], "gone": "4111", "age": {"pin": "1234"}}
SEEN = {"name": "Ann", "card": {"brand": "visa", "limit": 9}, "cards": [{"brand": "visa", "limit": 9}]}
SECRETS = ("1234", "4111", "number", "pin", "gone")


async def test_exec_sees_of_a_row_what_events_show_of_it(world):
    """The rule in SQL against the rule in Python, over rows that fit their struct and rows that do not."""
    rng = random.Random(SEED)
    documents = {f"r{n:03}": document(rng) for n in range(ROWS)}
    await world.insert(1, **documents)
    selection = select.parse("SELECT id, data FROM people", [], "people", Person)
    found = select.rows(await world.store.select(world.table, selection, 1, ()))
    rows, whole = row_type(Person), 0
    assert len(found) == ROWS
    for row in found:
        stored = documents[row["id"]]
        shown = rows.shown(Version(row["id"], json.dumps(stored), 1, "ann"))
        assert shown == {**row["data"], "id": row["id"]}, stored
        whole += shown == {**stored, "id": row["id"]}
    assert 0 < whole < ROWS / 2, "some rows are shown whole, and most are not"


async def test_a_type_that_contains_itself_has_an_end_in_sql(world):
    """What it hides is hidden at every level; the levels that SQL does not reach are left out."""
    tree = {
        "name": "a",
        "secret": "s",
        "inner": [{"name": "b", "secret": "s", "inner": [{"name": "c", "secret": "s"}]}],
    }
    await world.insert(1, t=tree)
    selection = select.parse("SELECT data FROM tree", [], "tree", Node)
    [row] = select.rows(await world.store.select(world.table, selection, 1, ()))
    assert row == {"data": {"name": "a", "inner": []}}


ASKED = {
    "SELECT data FROM people": SEEN,
    "SELECT data->'card' AS x FROM people": SEEN["card"],
    "SELECT data->'card'->>'number' AS x FROM people": None,
    "SELECT (data->'card')->>'number' AS x FROM people": None,
    "SELECT data#>>'{card,number}' AS x FROM people": None,
    "SELECT jsonb_extract_path_text(data, 'card', 'number') AS x FROM people": None,
    "SELECT data->'cards'->0->>'number' AS x FROM people": None,
    "SELECT p.data->>$1 AS x FROM people AS p": None,
    "SELECT d->>'pin' AS x FROM (SELECT data AS d FROM people) AS s": None,
    "SELECT data->>'gone' AS x FROM people": None,
    "SELECT count(*) AS x FROM people WHERE data->'card'->>'number' LIKE '4%'": 0,
    'SELECT count(*) AS x FROM people WHERE data @> \'{"card": {"number": "4111"}}\'::jsonb': 0,
    "SELECT count(*) AS x FROM people WHERE data ? 'pin' OR data->'card' ? 'gone'": 0,
    "SELECT max(a.data->'card'->>'number') AS x FROM people AS a JOIN people AS b ON a.data = b.data": None,
    "SELECT jsonb_agg(data ORDER BY data) AS x FROM people": [SEEN],
    "SELECT data->'card' AS x FROM people GROUP BY data->'card'": SEEN["card"],
    "SELECT data AS x FROM people GROUP BY data": SEEN,
    "SELECT data->'card'->>'brand' AS x FROM people WHERE data->>'name' = 'Ann'": "visa",
}


async def test_no_select_reaches_a_hidden_field(world):
    """By any of the operators and functions that exec knows."""
    await world.insert(1, a=OLDER)
    for text, expected in ASKED.items():
        selection = select.parse(text, ["pin"] if "$1" in text else [], "people", Person)
        [row] = select.rows(await world.store.select(world.table, selection, 1, ()))
        assert next(iter(row.values())) == expected, text


async def test_an_index_on_a_field_serves(world):
    """A field of which callers see everything is read from the stored row, as an index has it; also one inside."""
    await world.insert(1, a={"name": "Ann", "card": {"brand": "x"}}, b={"name": "Bo"})
    for at, (field, value, found) in enumerate((("data->>'name'", "Bo", "b"), ("data->'card'->>'brand'", "x", "a"))):
        await world.sql.execute(
            f"CREATE INDEX one_{at} ON {world.table.ptr} (({field})) WHERE _deleted_txid IS NULL; "
            f"CREATE INDEX two_{at} ON {world.table.ptr} (({field}))"
        )
        selection = select.parse(f"SELECT id FROM people WHERE {field} = $1", [value], "people", Person)
        assert select.rows(await world.store.select(world.table, selection, 1, ())) == [{"id": found}]
        statement = sql.select(world.table, selection, 1)
        async with world.sql.transaction():
            await world.sql.execute("SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_custom_plan")
            plan = "\n".join(row[0] for row in await world.sql.fetch(f"EXPLAIN {statement.text}", *statement.params))
        assert f"two_{at}" in plan or f"one_{at}" in plan, plan


# --- through the gateway ---------------------------------------------------------------------------------------------


@backend()
async def ask(ctx: Context, how: str, wanted: dict) -> object:
    people = ctx.storage.people
    match how:
        case "count":
            return await people.count(wanted)
        case "query":
            return [row async for row in people.query(wanted)]
        case "order":
            return [row.id async for row in people.query(order_by=wanted["by"])]
        case "history":
            return await people.history("a")
        case "update":
            return await people.update("a", **wanted)
        case "delete":
            return await people.delete("a")
        case "set":
            return await people.set("a", Person("a", "Ann", card=Card("visa", "4111", 9)))
    return await people.exec(wanted["sql"])


@pytest.fixture
async def api(postgres):
    async with apis(postgres, [ask], [Person]) as make:
        one = make()
        await one.sql.execute(
            """CREATE TABLE tbl_people_1 (id TEXT NOT NULL, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL,
                 _deleted_txid BIGINT, _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid));
               CREATE UNIQUE INDEX ON tbl_people_1 (id) WHERE _deleted_txid IS NULL;
               INSERT INTO storage (id, ptr, owner) VALUES ('people', 'tbl_people_1', 'tenant-1')"""
        )
        await one.sql.execute(
            "INSERT INTO tbl_people_1 (id, data, _txid, _owner) VALUES ('a', $1, 1, 'ann')", json.dumps(OLDER)
        )
        yield one


def without_secrets(body: bytes) -> str:
    text = body.decode()
    assert not [word for word in SECRETS if word in text], text
    return text


async def test_history_shows_versions_of_an_older_shape(api):
    """They were an error once, and of a table that had lost a field they would have shown it."""
    response = await api.rpc("ask", "history", {})
    without_secrets(response.body)
    [version] = json.loads(response.body)["result"]
    assert version["value"] == {"id": "a", **SEEN}


@pytest.mark.parametrize("change", ["set", "delete"])
async def test_events_show_of_older_rows_what_the_struct_knows(api, change):
    """``data`` and ``oldData``: neither what is hidden inside of a field, nor what was there before."""
    _, listener = await listen(api, "table=people")
    await api.result("ask", "history", {})
    response = await api.rpc("ask", "delete" if change == "delete" else "set", {})
    assert response.status == 200, response.body
    [event] = (await listener.until(lambda one: one.changes and one)).changes
    without_secrets(json.dumps(event).encode())
    if change == "delete":
        assert (event["data"], event["oldData"]) == (None, {"id": "a", **SEEN})
    else:
        assert event["data"]["card"] == {"brand": "visa", "limit": 9}


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("count", {"card": {"number": "4111"}}),
        ("query", {"card": {"number": "4111"}}),
        ("count", {"cards": [{"number": "4111"}]}),
        ("count", {"age": {"pin": "1234"}}),
        ("count", {"gone": "4111"}),
        ("order", {"by": "card"}),
        ("order", {"by": "pin"}),
    ],
)
async def test_hidden_fields_answer_no_question(api, how, wanted):
    """Refused, whether or not there is such a row."""
    assert (await api.rpc("ask", how, wanted)).status == 400


async def test_an_update_tells_nothing_of_a_row_that_it_cannot_keep(api):
    """Neither which of its values its struct does not take, nor which fields it has."""
    for wanted in ({"nothing": 1}, {"name": "Bo"}):
        error = await api.error(400, "INVALID_REQUEST", "ask", "update", wanted)
        without_secrets(error["message"].encode())
