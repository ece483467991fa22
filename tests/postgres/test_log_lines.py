"""What a request leaves in the log: one line, whatever becomes of it; for a stream another one when it ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kontract import Context, ForbiddenError, backend, perms
from kontract.core import limits
from support.api import Api, apis
from support.listening import listen, talk
from support.sessions import OWNER


@backend(perm=perms.RW_)
async def explode(ctx: Context) -> None:
    await ctx.storage.accounts.set("x", {"balance": 1})
    raise RuntimeError("the reason")


@backend(perm=perms.RW_)
async def refuse(ctx: Context) -> None:
    raise ForbiddenError("not today")


READ, GO_ON = asyncio.Event(), asyncio.Event()


@backend(perm=perms.RW_)
async def slowly(ctx: Context) -> int:
    """Waits between its read and its write, so another call may come in between."""
    account = await ctx.storage.accounts.get("contested")
    READ.set()
    await GO_ON.wait()
    return (await ctx.storage.accounts.update("contested", balance=account.balance + 1)).balance


@pytest.fixture
async def api(postgres):
    async with apis(postgres, [explode, refuse, slowly]) as make:
        yield make()


def requests(api: Api) -> list[dict[str, Any]]:
    return [line for line in api.log if line["event"] == "request"]


CASES = {
    "a write": ("POST", "/rpc/create_task", b'["x"]', {}, 200, {"function": "create_task", "owner": OWNER}),
    "a read": ("POST", "/rpc/list_tasks", b"[]", {}, 200, {"function": "list_tasks", "owner": OWNER}),
    "no such function": ("POST", "/rpc/nothing", b"[]", {}, 404, {"function": "nothing", "error": "NOT_FOUND"}),
    "wrong arguments": ("POST", "/rpc/create_task", b"[1]", {}, 400, {"function": "create_task"}),
    "no JSON": ("POST", "/rpc/create_task", b"[", {}, 400, {"function": "create_task"}),
    "too long": ("POST", "/rpc/create_task", b"x" * (limits.BODY_BYTES + 1), {}, 413, {"function": "create_task"}),
    "wrong method": ("GET", "/rpc/create_task", b"", {}, 405, {"function": "create_task"}),
    "no token": ("POST", "/rpc/create_task", b'["x"]', {"authorization": None}, 401, {"error": "UNAUTHORIZED"}),
    "a bad token": ("POST", "/rpc/create_task", b'["x"]', {"authorization": "Bearer x"}, 401, {"level": "info"}),
    "an exception": ("POST", "/rpc/explode", b"[]", {}, 500, {"level": "error", "owner": OWNER, "attempts": 1}),
    "an error of the application": ("POST", "/rpc/refuse", b"[]", {}, 403, {"attempts": 1, "level": "info"}),
    "no such path": ("GET", "/nothing", b"", {}, 404, {"error": "NOT_FOUND"}),
    "no such method": ("OPTIONS", "/rpc/create_task", b"", {}, 204, {}),
    "health": ("GET", "/health", b"", {}, 200, {"db_statements": 0}),
    "ready asks the database": ("GET", "/ready", b"", {}, 200, {"db_statements": 2}),
    "the description": ("GET", "/openapi.json", b"", {}, 200, {}),
    "a new session": ("POST", "/auth/anonymous", b"", {"authorization": None}, 201, {}),
    "a ticket": ("POST", "/stream/ticket", b"", {}, 201, {"owner": OWNER}),
    "a stream that is refused": ("GET", "/stream", b"", {}, 400, {}),
    "the public keys": ("GET", "/.well-known/kontract", b"", {}, 200, {}),
    "a sealed call that cannot be opened": ("POST", "/raystream/rpc", b"x" * 64, {}, 401, {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_every_request_leaves_one_line(api, case):
    method, path, body, headers, status, fields = case
    response = await api.send(method, path, body, **headers)
    (line,) = requests(api)
    assert (response.status, line["status"]) == (status, status)
    assert line["request_id"] == response.headers["X-Request-Id"]
    assert {"ms", "attempts", "coord_calls", "db_statements", "trace_id", "span_id"} <= line.keys()
    assert {name: line.get(name) for name in fields} == fields
    assert ("exception" in line) is (status == 500)
    json.dumps(line)


async def test_a_write_tells_its_number_and_what_it_cost(api):
    response = await api.rpc("create_task", "x")
    (line,) = requests(api)
    assert str(line["txid"]) == response.headers["X-Kontract-Txid"]
    assert line["attempts"] == 1
    assert line["db_statements"] >= 1
    assert line["coord_calls"] >= 1


@pytest.mark.parametrize("function", ["create_task", "explode", "refuse"])
async def test_timings_are_answered_to_failed_calls_too(api, function):
    response = await api.rpc(function, *(["x"] if function == "create_task" else []))
    assert 'attempts;desc="1"' in response.headers["Server-Timing"]


async def test_a_call_that_lost_leaves_one_line_that_says_how_often_it_ran(api):
    READ.clear()
    GO_ON.clear()
    for name in ("contested", "other"):
        await api.result("open_account", name, 5)
    api.log.clear()
    lost = asyncio.create_task(api.rpc("slowly"))
    await READ.wait()
    await api.result("transfer", "contested", "other", 1)
    GO_ON.set()
    assert json.loads((await lost).body) == {"result": 5}
    other, line = requests(api)
    assert (other["function"], line["function"]) == ("transfer", "slowly")
    assert (other["attempts"], line["attempts"]) == (1, 2)
    assert line["txid"] > other["txid"]


# --- streams ---------------------------------------------------------------------------------------------------------


def ends(api: Api) -> list[dict[str, Any]]:
    return [line for line in api.log if line["event"] == "stream_end"]


async def test_a_stream_leaves_a_line_when_it_opens_and_one_when_it_ends(api):
    response, listener = await listen(api, "table=tasks")
    (opened,) = requests(api)
    assert opened["db_statements"] >= 1, "what the caller may see was looked up"
    await api.result("create_task", "private title")
    await listener.until(lambda one: one.changes)
    assert ends(api) == []
    listener.task.cancel()
    await asyncio.wait([listener.task])
    (line,) = ends(api)
    assert line.pop("ms") > 0
    assert line == {
        "level": "info",
        "event": "stream_end",
        "request_id": response.headers["X-Request-Id"],
        "owner": OWNER,
        "user": opened["user"],
        "tables": ["tasks"],
        "reason": "closed",
        "changes": 1,
    }
    assert "private title" not in json.dumps(api.log)


async def test_so_does_one_over_a_websocket(api):
    _, talker = await talk(api, "table=tasks")
    talker.say({"subscribe": ["accounts"]})
    await talker.until(lambda one: one.named.count("ready") == 2)
    talker.hang_up()
    await asyncio.wait([talker.task])
    (line,) = ends(api)
    assert (line["reason"], line["changes"], line["tables"]) == ("closed", 0, ["accounts", "tasks"])


@pytest.mark.parametrize("way", [listen, talk])
async def test_why_it_ended_is_said(api, monkeypatch, way):
    """The client is told the same word."""
    _, listener = await way(api, "table=tasks")
    api.platform._shells[OWNER].hub.cut()
    async with asyncio.timeout(10):
        await listener.task
    (line,) = ends(api)
    assert line["reason"] == "unavailable"


async def test_a_client_that_was_cut_for_being_slow(api, monkeypatch):
    monkeypatch.setattr(limits, "STREAM_BACKLOG_BYTES", 2_000)
    _, slow = await listen(api, "table=tasks")
    slow.reading.clear()
    for n in range(20):
        await api.result("create_task", f"{n} {'x' * 150}")
    async with asyncio.timeout(10):
        await slow.task
    (line,) = ends(api)
    assert line["reason"] == "slow"


async def test_a_defect_is_an_error_and_an_end(api, monkeypatch):
    """The answer has begun: there is nobody to tell but the log."""
    _, listener = await listen(api, "table=tasks")

    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("kontract.gateway.stream.Rule.change", broken)
    await api.result("create_task", "x")
    async with asyncio.timeout(10):
        await listener.task
    assert [line["error"] for line in api.log if line["event"] == "stream"] == ["RuntimeError('a defect')"]
    assert [line["reason"] for line in ends(api)] == ["error"]
