"""Each limit that a caller can reach: at it, below it and above it, with the answer that says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from kontract.core import limits
from kontract.core.events import Subscription
from kontract.core.protocol.hub import Hub
from kontract.gateway.http import Request
from kontract.server.feed import LocalFeed
from kontract.server.journal import MemoryJournal
from support.api import Api, apis, check_error
from support.apps.odd import Odd, ask, change, echo, fill, find, headers, past, put
from support.auth import Clock
from support.sessions import bearer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def make(postgres, ddl):
    async with apis(postgres, [ask, change, echo, fill, find, headers, past, put], [Odd]) as make:
        first = make()
        await first.sql.execute(ddl["versioned"].format(ptr="tbl_odds"))
        await first.sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('odds', 'tbl_odds', 'tenant-1')")
        yield make


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api_of_module(make):
    return make()


@pytest.fixture
def api(api_of_module) -> Api:
    api_of_module.log.clear()
    return api_of_module


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_the_body(api):
    """In bytes, whatever Content-Length says; one that says too much is refused unread."""

    def body(size: int) -> bytes:
        return b'["' + b"x" * (size - 4) + b'"]'

    for size, status in [(limits.BODY_BYTES - 1, 200), (limits.BODY_BYTES, 200), (limits.BODY_BYTES + 1, 413)]:
        assert (await api.send("POST", "/rpc/echo", body(size))).status == status
        assert (await api.send("POST", "/rpc/echo", body(size), content_length="5")).status == status
    for length, status in [
        (str(limits.BODY_BYTES), 200), (str(limits.BODY_BYTES + 1), 413), ("9" * 30, 413), ("9" * 5000, 413),
        ("-1", 200), ("1e9", 200), ("", 200), ("٩" * 9, 400), ("5, 5", 200), ("0x10", 200),
    ]:  # fmt: skip
        response = await api.send("POST", "/rpc/echo", b"[1]", content_length=length)
        assert response.status == status, length
    check_error(await api.send("POST", "/rpc/echo", body(limits.BODY_BYTES + 1)), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("kind", ["arrays", "objects"])
async def test_nesting(api, kind):
    """Of arguments, and of rows, which are one level deeper for the object that they are."""

    def body(levels: int) -> bytes:
        if kind == "arrays":
            return b"[" * levels + b"1" + b"]" * levels
        return b"[" + b'{"a":' * (levels - 1) + b"1" + b"}" * (levels - 1) + b"]"

    for levels, status in [(limits.JSON_DEPTH - 1, 200), (limits.JSON_DEPTH, 200), (limits.JSON_DEPTH + 1, 400)]:
        assert (await api.send("POST", "/rpc/echo", body(levels))).status == status, levels
    response = await api.send("POST", "/rpc/echo", body(limits.JSON_DEPTH + 1))
    assert "nested deeper than 32 levels" in check_error(response, 400, "INVALID_REQUEST")["message"]


@pytest.mark.parametrize("path", ["/rpc/echo", "/auth/login"])
async def test_the_number_of_values(api, path):
    """In a body, wherever it is sent to: one more is refused before it is decoded."""
    for count, refused in [(limits.JSON_VALUES, False), (limits.JSON_VALUES + 1, True)]:
        body = b"[[" + b"0," * (count - 3) + b"0]]"
        response = await api.send("POST", path, body)
        assert (b"has more than 16000 values" in response.body) is refused
        assert response.status == (400 if refused or path != "/rpc/echo" else 200)


async def test_the_parameters_of_a_query(api):
    """Of a stream, which takes the most."""
    for count, words in [(limits.QUERY_FIELDS, b"no parameter 'a'"), (limits.QUERY_FIELDS + 1, b"more than 1000")]:
        request = Request("GET", "/stream", bearer(), _nothing, query="&".join(["a"] * count))
        response = await api.gateway.handle(request, api.platform)
        assert response.status == 400
        assert words in response.body


async def _nothing(_at_most):
    return b""


async def test_the_name_of_a_function(api):
    """Longer ones are refused before anything is looked up; both times 404."""
    for length in (limits.FUNCTION_NAME_LENGTH - 1, limits.FUNCTION_NAME_LENGTH):
        body = check_error(await api.rpc("f" * length), 404, "NOT_FOUND")
        assert "there is no function 'fff" in body["message"]
    body = check_error(await api.rpc("f" * (limits.FUNCTION_NAME_LENGTH + 1)), 404, "NOT_FOUND")
    assert body["message"] == "there is no such function; call functions with POST /rpc/<function>"


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("x", True), ("x" * limits.KEY_LENGTH, True), ("x" * (limits.KEY_LENGTH + 1), False), ("", False),
        ("a b", False), ("a\tb", False), ("a\nb", False), ("a\x00b", False), ("ä", False), ("\x7f", False),
        ("~!\"'", True),
    ],
)  # fmt: skip
async def test_idempotency_keys(api, key, good):
    """1 to 255 visible characters; nothing is done for a call with another one."""
    response = await api.rpc("put", "odds", "idem", {"note": "x"}, idempotency_key=key)
    if good:
        assert response.status == 200
    else:
        message = check_error(response, 400, "INVALID_REQUEST")["message"]
        assert "1 to 255 visible" in message or "is not visible ASCII" in message


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a", True), ("A-b_9", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("a b", False),
        ('"', False), ("a;b", False),
    ],
)  # fmt: skip
async def test_request_ids(api, given, kept):
    """Taken over where they can be written into a log and a header as they are; else a new one is made."""
    for function, status in (("echo", 200), ("nope", 404)):
        response = await api.rpc(function, x_request_id=given)
        assert response.status == status
        assert (response.headers["X-Request-Id"] == given) is kept
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", response.headers["X-Request-Id"])
        assert api.log[-1]["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize("given", ["a\r\nSet-Cookie: x=y", "a\n", "ä", "\ud800"])
async def test_request_ids_that_are_no_text_of_a_header(api, given):
    """The call is refused, under an id of our own."""
    body = check_error(await api.rpc("echo", x_request_id=given), 400, "INVALID_REQUEST")
    assert "x-request-id has a character that is not visible ASCII" in body["message"]
    assert re.fullmatch(r"[0-9a-f]{24}", body["request_id"])


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_the_id_of_a_row(api):
    """In bytes, for every operation that takes one."""
    for key in ("x" * (limits.ROW_ID_BYTES - 1), "x" * limits.ROW_ID_BYTES, "ä" * (limits.ROW_ID_BYTES // 2)):
        assert (await api.result("put", "odds", key, {}))["id"] == key
        assert len(await api.result("past", "odds", key)) == 1
    for key in ("x" * (limits.ROW_ID_BYTES + 1), "ä" * (limits.ROW_ID_BYTES // 2) + "x"):
        for function, *more in [("put", {}), ("past",), ("change", {"n": 1})]:
            body = await api.error(400, "INVALID_REQUEST", function, "odds", key, *more)
            assert "longer than 512 bytes" in body["message"]
        await api.error(400, "INVALID_REQUEST", "find", "odds", {"id": key})
        await api.error(400, "INVALID_REQUEST", "find", "odds", None, None, 5, key)


async def test_the_writes_of_a_transaction(api):
    """One row, and many together; of one that is too large nothing is kept."""
    empty = len(json.dumps({"note": "", "n": 0, "anything": None, "pin": "", "by": ""}, separators=(",", ":")))
    most = limits.WRITE_SET_BYTES - empty
    for sizes in ([most - 1], [most], [limits.WRITE_SET_BYTES // 2 - empty] * 2):
        assert await api.result("fill", "odds", sizes) == len(sizes)
    for sizes in ([most + 1], [limits.WRITE_SET_BYTES // 2 - empty, limits.WRITE_SET_BYTES // 2 - empty + 1]):
        await api.error(413, "PAYLOAD_TOO_LARGE", "fill", "odds", [1, *sizes])
    assert await api.sql.fetchval("SELECT max(length(data::text)) FROM tbl_odds WHERE id = 'fill-0'") > 900_000
    assert await api.sql.fetchval("SELECT length(data::text) FROM tbl_odds WHERE id = 'fill-0'"
                                  " AND _deleted_txid IS NULL") > 400_000  # fmt: skip


async def test_the_reads_of_a_transaction(api, monkeypatch):
    """All pages of a query together."""
    await api.result("fill", "odds", [1] * 6)
    everything = len(await api.result("find", "odds", None, None, None))
    for most, good in ((everything + 1, True), (everything, True), (everything - 1, False)):
        monkeypatch.setattr(limits, "READ_SET_ROWS", most)
        monkeypatch.setattr(limits, "QUERY_ROWS", 2)
        if good:
            assert len(await api.result("find", "odds", None, None, None)) == everything
        else:
            body = await api.error(413, "PAYLOAD_TOO_LARGE", "find", "odds", None, None, None)
            assert f"reads more than {most} rows" in body["message"]


@pytest.mark.parametrize("name", ["id", "self", "nothing", "__class__", ""])
async def test_changing_a_field_that_cannot_be_changed(api, name):
    """The names come from a caller: 400, whatever the parameters of update are called."""
    await api.result("put", "odds", "named", {})
    await api.error(400, "INVALID_REQUEST", "change", "odds", "named", {name: "x"})


# --- exec ------------------------------------------------------------------------------------------------------------


def select(**of: int) -> tuple[str, list]:
    """A SELECT of a given length, or with so many words, brackets, tables or parameters."""
    ((what, size),) = of.items()
    match what:
        case "length":
            text = "SELECT id FROM odds WHERE id = ''"
            return text.replace("''", f"'{'x' * (size - len(text))}'"), []
        case "tokens":
            return f"SELECT id FROM odds WHERE id IN ({', '.join(['id'] * ((size - 8) // 2))})", []
        case "depth":
            return f"SELECT {'(' * size}1{')' * size} AS n FROM odds LIMIT 1", []
        case "tables":
            joins = " ".join(f"JOIN odds AS t{n} ON t{n}.id = t0.id" for n in range(1, size))
            return f"SELECT t0.id FROM odds AS t0 {joins}", []
        case _:
            terms = " OR ".join(f"id = ${n + 1}" for n in range(size)) or "true"
            return f"SELECT id FROM odds WHERE {terms}", ["x"] * size


@pytest.mark.parametrize(
    ("what", "limit"),
    [("length", limits.SELECT_LENGTH), ("tables", limits.SELECT_TABLES), ("params", limits.SELECT_PARAMS)],
)
async def test_the_size_of_a_select(api, what, limit):
    """At the limit it runs, above it is refused with a sentence."""
    for size in (limit - 1, limit):
        await api.result("ask", "odds", *select(**{what: size}))
    body = await api.error(400, "INVALID_REQUEST", "ask", "odds", *select(**{what: limit + 1}))
    assert str(limit) in body["message"]


async def test_the_words_and_brackets_of_a_select(api):
    """How many exactly is the parser's business; far below it runs, far above it is refused."""
    await api.result("ask", "odds", *select(tokens=limits.SELECT_TOKENS // 2))
    body = await api.error(400, "INVALID_REQUEST", "ask", "odds", *select(tokens=limits.SELECT_TOKENS + 20))
    assert str(limits.SELECT_TOKENS) in body["message"]
    await api.result("ask", "odds", *select(depth=limits.SELECT_DEPTH // 2))
    for depth in (limits.SELECT_DEPTH + 5, limits.SELECT_DEPTH * 10):
        await api.error(400, "INVALID_REQUEST", "ask", "odds", *select(depth=depth))


async def test_the_rows_of_a_select(api):
    """What it gives, not what it reads."""
    await api.result("fill", "odds", [1] * 40)
    rows = "SELECT t0.id FROM odds AS t0 JOIN odds AS t1 ON true JOIN odds AS t2 ON true LIMIT {}"
    for most, status in ((limits.QUERY_ROWS - 1, 200), (limits.QUERY_ROWS, 200), (limits.QUERY_ROWS + 1, 400)):
        response = await api.rpc("ask", "odds", rows.format(most), [])
        assert response.status == status, response.body


# --- what is answered ------------------------------------------------------------------------------------------------


async def test_headers_of_an_answer(api):
    """Of results and of errors: what cannot be sent is an error of the function, and is not sent in part."""
    for fail, status in ((False, 200), (True, 500)):
        for count in (limits.HANDLER_HEADERS - 1, limits.HANDLER_HEADERS):
            response = await api.rpc("headers", {f"X-{n}": "v" for n in range(count)}, 200, fail)
            assert (response.status, response.headers["X-1"]) == (status, "v")
        for value in ("v" * (limits.HEADER_BYTES - 1), "v" * limits.HEADER_BYTES):
            assert (await api.rpc("headers", {"X-A": value}, 200, fail)).headers["X-A"] == value
        for bad in (
            {f"X-{n}": "v" for n in range(limits.HANDLER_HEADERS + 1)}, {"X-A": "v" * (limits.HEADER_BYTES + 1)},
            {"X-A": "a\r\nSet-Cookie: b=c"}, {"X-A": "a\nb"}, {"X-A": "a\x01b"}, {"X-A\r\nB": "c"}, {"X A": "b"},
            {"": "b"}, {"X-A": "é\u0301"}, {"X-A": "1", "x-a": "2"}, {"X-A:": "b"}, {"Å": "b"},
        ):  # fmt: skip
            response = await api.rpc("headers", bad, 200, fail)
            body = check_error(response, 500, "INTERNAL")
            assert "details" not in body
            assert not set(response.headers) & set(bad)


async def test_the_sentence_of_an_error(api):
    """Cut off, also in the log: it may repeat what was sent, and anybody may send a megabyte."""
    for length in (100, 100_000):
        body = json.dumps({"name": "a", "password": "correct horse", "x" * length: 1}).encode()
        said = check_error(await api.send("POST", "/auth/login", body), 400, "INVALID_REQUEST")["message"]
        assert api.log[-1]["reason"] == said
        assert len(said) <= limits.ERROR_MESSAGE
    assert len(said) == limits.ERROR_MESSAGE
    assert said.endswith("xxx...")


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 600, 999, 1000, 10**30])
async def test_a_status_that_is_none(api, status):
    """An error of the function, found before anything is committed."""
    check_error(await api.rpc("headers", {}, status), 500, "INTERNAL")


@pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 205, 206, 299, 301, 304, 399, 400, 418, 451, 500, 599])
async def test_any_other_status(api, status):
    """Those that have no body are sent without one."""
    response = await api.rpc("headers", {}, status)
    assert response.status == status
    assert (response.body == b"") is (status in (204, 205) or 300 <= status < 400)


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_the_time_of_a_ticket_for_a_stream(api, monkeypatch):
    """To the second; and it opens streams, not functions."""
    clock = Clock()
    monkeypatch.setattr(api.platform, "clock", clock)
    made = json.loads((await api.send("POST", "/stream/ticket")).body)
    assert made["expires_in"] == limits.STREAM_TICKET_SECONDS

    async def opens() -> int:
        request = Request("GET", "/stream", {}, pytest.fail, f"table=odds&ticket={made['ticket']}")
        return (await api.gateway.handle(request, api.platform)).status

    assert (await api.rpc("echo", authorization=f"Bearer {made['ticket']}")).status == 401
    for later, status in [(0, 200), (limits.STREAM_TICKET_SECONDS - 2, 200), (limits.STREAM_TICKET_SECONDS + 1, 401)]:
        clock.later_ms = later * 1000
        assert await opens() == status


async def test_the_streams_of_an_owner(monkeypatch):
    """All users together; there is room again when one goes."""
    monkeypatch.setattr(limits, "STREAMS", 3)
    hub = Hub(MemoryJournal())
    feeds = [LocalFeed(SimpleNamespace(hub=hub), Subscription(["odds"], f"user-{n}", "s")) for n in range(3)]
    for feed in feeds:
        assert hub.has_room("ann")
        hub.add(feed)
    assert not hub.has_room("ann")
    feeds[0].close()
    assert hub.has_room("ann")


# --- all of them -----------------------------------------------------------------------------------------------------

OUT_OF_REACH = {
    "BACKOFF_FIRST_MS": "a pause between two attempts",
    "EVENT_PAGE_BYTES": "how much of a stream is read at a time",
}
"""Limits that no caller can reach, and why."""


async def test_every_limit_is_tested_or_out_of_reach():
    """A new limit needs a test that names it, or a reason."""
    folder = Path(__file__).parents[1]
    text = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    names = {name for name in vars(limits) if name.isupper()}
    untested = {
        name for name in names if not re.search(rf"limits\.{name}\b|\"{name}\"", text.replace(f'    "{name}": "', ""))
    }
    assert untested == set(OUT_OF_REACH)
