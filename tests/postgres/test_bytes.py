"""How many bytes a transaction reads and a call answers with: bounded while rows arrive, not after."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Struct

from kontract import Context, HttpError, HttpResp, backend, table
from kontract.core import limits
from kontract.core.errors import Code
from kontract.core.statements import Statement, Window
from kontract.core.transaction import sql
from kontract.core.types import EVERY_ROW
from support.api import Api, apis, check_error
from support.listening import listen

LARGE = 900_000


@table("blobs")
class Blob(Struct):
    id: str
    text: Any = ""


@backend()
async def fill(ctx: Context, ids: list[str], size: int) -> None:
    for row_id in ids:
        await ctx.storage.blobs.set(row_id, Blob(row_id, "x" * size))


@backend()
async def read(ctx: Context, how: str, of: Any = None) -> Any:
    blobs = ctx.storage.blobs
    match how:
        case "all":
            return sum([len(blob.text) async for blob in blobs])
        case "ordered":
            return [len(blob.text) async for blob in blobs.query(order_by="text", limit=of)]
        case "first":
            async for blob in blobs:
                return blob.id
        case "each":
            return [len((await blobs.get(row_id)).text) for row_id in of]
        case "history":
            return len(await blobs.history(of))
        case "answer":
            return "x" * of
        case "respond":
            return HttpResp.created(["x" * of])
        case "fail":
            raise HttpError("no", code=Code.FORBIDDEN, details={"x": "x" * of})
        case "delete":
            return [await blobs.delete(row_id) for row_id in of]
        case "get" | "pop" | "shift":
            return await (blobs.get(of) if how == "get" else getattr(blobs, how)())
    return await blobs.exec(of)


@pytest.fixture
async def api(postgres):
    async with apis(postgres, [fill, read], [Blob]) as make:
        one = make()
        await one.sql.execute(
            """CREATE TABLE tbl_blobs (id TEXT NOT NULL, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL,
                 _deleted_txid BIGINT, _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid));
               CREATE UNIQUE INDEX ON tbl_blobs (id) WHERE _deleted_txid IS NULL;
               INSERT INTO storage (id, ptr, owner) VALUES ('blobs', 'tbl_blobs', 'tenant-1')"""
        )
        yield one


async def insert(api: Api, count: int, data: str) -> None:
    await api.sql.execute(
        "INSERT INTO tbl_blobs (id, data, _txid, _owner) SELECT 'r' || to_char(n, 'FM000'), $2::jsonb, 1, 'ann' "
        "FROM generate_series(1, $1::int) AS n",
        count,
        data,
    )


class Counting:
    """A database that notes how many bytes each statement returned."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.bytes = inner, []

    async def run(self, statement: Statement) -> Any:
        rows = await self.inner.run(statement)
        self.bytes.append(sum(len(value) for row in rows for value in row if isinstance(value, str)))
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def count_bytes(api: Api) -> list[int]:
    counted: list[int] = []
    opened = api.platform.open_database

    def count() -> Any:
        database = Counting(opened())
        database.bytes = counted
        return database

    api.platform.open_database = count
    return counted


def as_text(size: int) -> str:
    return json.dumps({"text": "x" * size})


@pytest.mark.parametrize("how", ["all", "each", "ordered"])
async def test_a_transaction_reads_no_more_than_its_bytes(api, how):
    """60 rows of 900 KB were 54 MB once; now one statement is over at most, and none returns more than a page."""
    await insert(api, 60, as_text(LARGE))
    counted = count_bytes(api)
    of = {"all": None, "each": [f"r{n:03}" for n in range(1, 61)], "ordered": 60}[how]
    error = await api.error(413, "PAYLOAD_TOO_LARGE", "read", how, of)
    assert f"reads more than {limits.READ_BYTES} bytes of rows; read fewer at a time" in error["message"]
    assert sum(counted) <= limits.READ_BYTES + limits.PAGE_BYTES
    assert max(counted) <= limits.PAGE_BYTES + 60 * 100


async def test_pages_end_by_bytes_and_no_row_is_lost(api, monkeypatch):
    """Whatever the sizes; in order of id and of a field, forwards and backwards."""
    sizes = [10, 900, 1, 2500, 30, 30, 30, 1900, 5, 700, 700, 700, 2900, 1]
    for n, size in enumerate(sizes):
        await api.sql.execute(
            "INSERT INTO tbl_blobs (id, data, _txid, _owner) VALUES ($1, $2, 1, 'ann')", f"r{n:03}", as_text(size)
        )
    monkeypatch.setattr(limits, "PAGE_BYTES", 3_000)
    counted = count_bytes(api)
    assert await api.result("read", "all") == sum(sizes)
    assert len(counted) > 4, "several pages"
    assert max(counted) < 3_000 + len(sizes) * 20
    by_text = sorted(sizes, key=lambda size: "x" * size)
    assert await api.result("read", "ordered", None) == by_text
    assert await api.result("read", "ordered", 12) == by_text[:12]


async def test_a_function_that_stops_early_reads_a_page(api):
    """And not all the rows that would fit into it by their number."""
    await insert(api, 60, as_text(LARGE))
    counted = count_bytes(api)
    assert await api.result("read", "first") == "r001"
    assert sum(counted) <= limits.PAGE_BYTES + 60 * 100


async def test_text_is_not_made_for_rows_that_stay_behind(world):
    """What rows take in storage is known before they are written out: the end of a page comes from that, too."""
    await world.sql.execute(f"ALTER TABLE {world.table.ptr} ALTER COLUMN data SET STORAGE EXTERNAL")
    await world.insert(1, **{f"r{n:02}": {"text": "x" * LARGE} for n in range(40)})
    statement = sql.query(world.table, EVERY_ROW, 1, Window())
    counting = statement.text.replace("data::text", "counted(data)")
    assert counting.count("counted") == 1
    await world.sql.execute(
        "CREATE SEQUENCE calls; CREATE FUNCTION counted(jsonb) RETURNS text LANGUAGE sql VOLATILE "
        "AS $$ SELECT CASE WHEN nextval('calls') > 0 THEN $1::text END $$"
    )
    rows = await world.sql.fetch(counting, *statement.params)
    assert len(rows) == 40
    made = await world.sql.fetchval("SELECT last_value FROM calls")
    sent = sum(row[1] is not None for row in rows)
    assert (sent, made) == (2, 3)


@pytest.mark.parametrize("how", ["get", "pop", "shift", "all", "history"])
async def test_a_row_that_is_too_large_is_refused_before_it_is_sent(api, how):
    """Numbers take little in storage and much as text: 40 KB here, and 2.5 MB in an answer."""
    await insert(api, 1, json.dumps({"text": [1e300] * 8_000}))
    counted = count_bytes(api)
    error = await api.error(413, "PAYLOAD_TOO_LARGE", "read", how, "r001")
    assert f"row 'r001' of table 'blobs' is larger than {limits.PAGE_BYTES} bytes" in error["message"]
    assert sum(counted) < 1_000


async def test_history_returns_the_newest_versions_that_fit(api):
    """As it does of more versions than a page has rows."""
    for _ in range(4):
        await api.result("fill", ["a"], LARGE)
    assert await api.result("read", "history", "a") == 2


@pytest.mark.parametrize(("how", "around"), [("answer", len('{"result":""}')), ("respond", len('{"result":[""]}'))])
async def test_an_answer_has_no_more_than_its_bytes(api, how, around):
    """At the limit, and above it with what to do."""
    assert (await api.rpc("read", how, limits.ANSWER_BYTES - around)).status in (200, 201)
    error = check_error(await api.rpc("read", how, limits.ANSWER_BYTES - around + 1), 413, "PAYLOAD_TOO_LARGE")
    assert f"read returned more than {limits.ANSWER_BYTES} bytes; return fewer rows" in error["message"]


async def test_details_of_an_error_are_bounded_likewise(api):
    """They are a way to answer, too."""
    response = await api.rpc("read", "fail", limits.ANSWER_BYTES)
    check_error(response, 500, "INTERNAL")


async def test_a_commit_carries_no_more_than_a_write_set_to_the_journal(api, monkeypatch):
    """What rows were goes along for streams; where that is too much for the journal, events come without it."""
    _, listener = await listen(api, "table=blobs")
    ids = ["a", "b", "c"]
    for row_id in ids:
        await api.result("fill", [row_id], LARGE)
    stub = api.platform.coordinator("tenant-1")
    sent: list[int] = []

    inner = type(stub).ask

    async def ask(self: Any, message: Any) -> Any:
        sent.append(sum(len(bytes(w.data)) + len(bytes(w.old)) for w in getattr(message, "writes", ())))
        return await inner(self, message)

    monkeypatch.setattr(type(stub), "ask", ask)
    await api.result("read", "delete", ids)
    await api.result("fill", ["d"], 10)
    await api.result("read", "delete", ["d"])
    assert max(sent) <= limits.WRITE_SET_BYTES
    changes = (await listener.until(lambda one: len(one.changes) == 8 and one)).changes
    assert [(c["type"], c.get("oldData") is not None) for c in changes[3:6]] == [("delete", False)] * 3
    assert (changes[7]["type"], changes[7]["oldData"]["text"]) == ("delete", "x" * 10)
