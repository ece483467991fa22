"""Middleware: around the function, once a call, whatever happens inside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
import pytest_asyncio
from msgspec import Struct

from kontract import Context, ForbiddenError, HttpResp, InvalidRequestError, backend, perm, perms, primkey, table
from kontract.gateway.http import Response
from kontract.middlewares import log, rate_limit, require_group
from kontract.ports import CoordinatorUnavailableError
from support.api import Api, apis, check_error
from support.auth import Clock
from support.sessions import bearer

pytestmark = pytest.mark.asyncio(loop_scope="module")

events: list[Any] = []
interfere: list[Callable[[], Awaitable[Any]]] = []
"""What the next attempt of a function does between reading and writing."""


@table("accounts")
class Account(Struct):
    id: Annotated[str, primkey]
    balance: int = 0
    pin: Annotated[str, perm(perms._W_)] = ""


# --- middleware of the tests -----------------------------------------------------------------------------------------


def named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


async def outer(ctx: Context, call_next: Any) -> Any:
    events.append("outer before")
    try:
        return await call_next()
    finally:
        events.append("outer after")


async def inner(ctx: Context, call_next: Any) -> Any:
    events.append("inner before")
    result = await call_next()
    events.append("inner after")
    return result


async def does(ctx: Context, call_next: Any) -> Any:
    """What the caller wishes, told in a header."""
    how = ctx.headers.get("x-how", "")
    if how == "refuse":
        raise ForbiddenError("not today")
    if how == "break before":
        raise ValueError("a detail")
    if how == "answer":
        return {"from": "outside"}
    if how == "answer nothing":
        return None
    if how == "answer created":
        return HttpResp.created({"from": "outside"}, "/here")
    if how == "storage before":
        return await ctx.storage.accounts.get("a")
    if how == "after_commit before":
        ctx.after_commit(lambda: events.append("planned"))
    if how == "swallow":
        try:
            await call_next()
        except InvalidRequestError:
            return None
    if how == "at once":
        both = await asyncio.gather(call_next(), call_next(), return_exceptions=True)
        raise next(one for one in both if isinstance(one, Exception))
    result = await call_next()
    events.append(result)
    match how:
        case "break after":
            raise ValueError("a detail")
        case "refuse after":
            raise ForbiddenError("too late", headers={"X-Why": "late"})
        case "twice":
            return await call_next()
        case "storage after":
            await ctx.storage.accounts.set("stray", {"balance": 1})
        case "after_commit after":
            ctx.after_commit(lambda: events.append("planned"))
        case "another":
            return [result, "and more"]
        case "nothing":
            return None
        case "change":
            result["added"] = True
        case "change row":
            result.balance += 1000
        case "headers":
            result.headers["X-Added"] = "yes"
            result.status = 202
        case "bad value":
            return object()
        case "bad header":
            return HttpResp(200, 1, {"X-Bad": "a\r\nSet-Cookie: b=c"})
        case "bad status":
            return HttpResp(1000, 1)
    return result


# --- functions -------------------------------------------------------------------------------------------------------


async def add(ctx: Context, name: str) -> Account:
    account = await ctx.storage.accounts.get(name) or Account(name, 0, "1234")
    if interfere:
        await interfere.pop()()
    events.append("function")
    account.balance += 1
    await ctx.storage.accounts.set(name, account)
    return account


@backend(perm=perms.RW_)
async def ordered(ctx: Context, name: str) -> Account:
    return await add(ctx, name)


@backend(perm=perms.RW_)
async def a_row(ctx: Context, name: str) -> Account:
    return await add(ctx, name)


@backend(perm=perms.RW_)
async def a_dict(ctx: Context, name: str) -> dict:
    return {"balance": (await add(ctx, name)).balance}


@backend(perm=perms.RW_)
async def a_response(ctx: Context, name: str) -> HttpResp:
    await add(ctx, name)
    return HttpResp.created({"name": name}, f"/accounts/{name}")


@backend(perm=perms.RW_)
async def bare(ctx: Context, name: str) -> Account:
    return await add(ctx, name)


@backend()
async def fails(ctx: Context, how: str) -> None:
    if how == "refuse":
        raise InvalidRequestError("no")
    raise RuntimeError("a detail")


@backend(public=True)
async def limited(ctx: Context) -> str:
    return "ok"


@backend(public=True)
async def limited_too(ctx: Context) -> str:
    return "ok"


@backend()
async def limited_by(ctx: Context, team: str) -> str:
    await ctx.shared.set("rate/limited_by/x", 1)
    return team


@backend(public=True)
async def for_groups(ctx: Context) -> str:
    return "ok"


@backend()
async def told(ctx: Context, secret: str) -> str:
    if secret.startswith("bad"):
        raise InvalidRequestError("no")
    if secret.startswith("worse"):
        raise RuntimeError("a detail")
    return f"result of {secret}"


FUNCTIONS = [ordered, a_row, a_dict, a_response, bare, fails]
FUNCTIONS += [limited, limited_too, limited_by, for_groups, told]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def make(postgres):
    three = named("three", rate_limit(3, per=60))
    one_each = named("one_each", rate_limit(1, per=10, by=lambda ctx: ctx.headers.get("x-team", "")))
    async with apis(
        postgres,
        FUNCTIONS,
        [Account],
        ordered=(outer, inner),
        a_row=(does,),
        a_dict=(does,),
        a_response=(does,),
        fails=(outer, does),
        limited=(three,),
        limited_too=(three,),
        limited_by=(one_each,),
        for_groups=(named("groups", require_group("editors", "admins")),),
        told=(named("line", log("called")),),
    ) as make:
        yield make


@pytest.fixture
def api(make) -> Api:
    events.clear()
    interfere.clear()
    return make()


def result(response: Response) -> Any:
    assert response.status == 200, response.body
    return json.loads(response.body)["result"]


async def stored(api: Api, name: str) -> dict | None:
    """What the database holds, whoever thinks to have written it."""
    text = await api.sql.fetchval(
        "SELECT data::text FROM tbl_accounts_9b27e4 WHERE id = $1 AND _deleted_txid IS NULL", name
    )
    return None if text is None else json.loads(text)


# --- order, and how often --------------------------------------------------------------------------------------------


async def test_the_first_is_the_outermost(api):
    """In before the others, out after them."""
    await api.rpc("ordered", "order")
    assert events == ["outer before", "inner before", "function", "inner after", "outer after"]


async def test_once_a_call_however_often_the_function_runs(api):
    """A conflict concerns the function alone; the answer is that of the attempt that committed."""
    interfere.extend([lambda: api.rpc("bare", "hot")] * 3)
    # Each conflicting call would conflict itself with what is left in the list: it takes them one after the other.
    response = await api.rpc("ordered", "hot")
    assert events.count("function") > 4
    assert [event for event in events if event != "function"] == [
        "outer before", "inner before", "inner after", "outer after",
    ]  # fmt: skip
    assert result(response)["balance"] == (await stored(api, "hot"))["balance"] == 4


async def test_errors_of_the_function_pass_through(api):
    """Each on its way out; the log has the detail, the caller does not."""
    check_error(await api.rpc("fails", "refuse"), 400, "INVALID_REQUEST")
    body = check_error(await api.rpc("fails", "break"), 500, "INTERNAL")
    assert "a detail" not in body["message"]
    assert events == ["outer before", "outer after"] * 2


@pytest.mark.parametrize(
    ("how", "status", "code", "kept"),
    [
        ("refuse", 403, "FORBIDDEN", False),
        ("break before", 500, "INTERNAL", False),
        ("break after", 500, "INTERNAL", True),
        ("refuse after", 403, "FORBIDDEN", True),
        ("twice", 500, "INTERNAL", True),
        ("at once", 500, "INTERNAL", True),
        ("storage before", 500, "INTERNAL", False),
        ("storage after", 500, "INTERNAL", True),
        ("after_commit before", 500, "INTERNAL", False),
        ("after_commit after", 500, "INTERNAL", True),
        ("bad value", 500, "INTERNAL", True),
        ("bad header", 500, "INTERNAL", True),
        ("bad status", 500, "INTERNAL", True),
    ],
)
async def test_errors_of_middleware_are_errors_of_the_request(api, how, status, code, kept):
    """Before call_next nothing has happened; afterwards the transaction has committed and stays so."""
    name = f"error {how}"
    response = await api.rpc("a_dict", name, x_how=how)
    body = check_error(response, status, code)
    assert "a detail" not in json.dumps(body)
    assert "Set-Cookie" not in response.headers
    assert (await stored(api, name) is not None) is kept
    assert events.count("function") == kept
    assert await stored(api, "stray") is None
    assert "planned" not in events


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_answering_without_the_function(api):
    """It does not run, and its arguments are not looked at."""
    for body in (b"[1, 2, 3]", b"not json", b""):
        response = await api.send("POST", "/rpc/a_dict", body, x_how="answer")
        assert result(response) == {"from": "outside"}
    nothing = await api.rpc("a_row", x_how="answer nothing")
    assert result(nothing) is None, "the function declares something else, but did not answer"
    created = await api.rpc("a_dict", x_how="answer created")
    assert (created.status, created.headers["Location"]) == (201, "/here")
    assert events == []


@pytest.mark.parametrize(
    ("function", "how", "expected"),
    [
        ("a_dict", "", {"balance": 1}),
        ("a_dict", "another", [{"balance": 1}, "and more"]),
        ("a_dict", "nothing", None),
        ("a_dict", "change", {"balance": 1, "added": True}),
        ("a_row", "change row", {"id": "{}", "balance": 1001}),
        ("a_row", "another", [{"id": "{}", "balance": 1}, "and more"]),
    ],
)
async def test_changing_what_the_function_returned(api, function, how, expected):
    """Another value, or the same object changed; hidden fields stay hidden, and the database has what was committed."""
    name = f"changed {function} {how}"
    response = await api.rpc(function, name, x_how=how)
    assert result(response) == json.loads(json.dumps(expected).replace("{}", name))
    assert int(response.headers["X-Kontract-Txid"]) > 0
    assert await stored(api, name) == {"balance": 1, "pin": "1234"}


async def test_changing_status_and_headers(api):
    """Of the same HttpResp."""
    response = await api.rpc("a_response", "created", x_how="headers")
    assert (response.status, response.headers["X-Added"]) == (202, "yes")
    assert response.headers["Location"] == "/accounts/created"


async def test_nothing_in_place_of_an_error(api):
    """Is an answer with a body, like any other."""
    assert result(await api.rpc("fails", "refuse", x_how="swallow")) is None


# --- repeated calls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["a_dict", "a_row", "a_response"])
async def test_a_repeated_call_passes_through_with_the_first_result(api, function):
    """The function ran once; middleware sees a value of the same shape, and may change it again."""
    name, key = f"repeated {function}", f"key-{function}"
    first = await api.rpc(
        function, name, idempotency_key=key, x_how="another" if function != "a_response" else "headers"
    )
    again = await api.rpc(
        function, name, idempotency_key=key, x_how="another" if function != "a_response" else "headers"
    )
    assert events.count("function") == 1
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    kept = {name for name in first.headers if name not in ("X-Request-Id", "Server-Timing")}
    assert {name: again.headers[name] for name in kept} == {name: first.headers[name] for name in kept}
    seen = [event for event in events if event != "function"]
    assert len(seen) == 2
    if function == "a_response":
        assert (seen[1].status, seen[1].value, seen[1].headers["Location"]) == (
            202,
            {"name": name},
            f"/accounts/{name}",
        )
    else:
        assert seen[1] == {"a_dict": {"balance": 1}, "a_row": {"id": name, "balance": 1}}[function]


async def test_what_changes_a_dict_changes_the_repeated_one(api):
    """It finds a dict both times."""
    for _ in range(2):
        response = await api.rpc("a_dict", "again", idempotency_key="again", x_how="change")
        assert result(response) == {"balance": 1, "added": True}


# --- middleware that comes with Kontract -----------------------------------------------------------------------------


async def test_rate_limit(api, make):
    """At the limit the call is answered, beyond it 429 with the seconds to wait; all nodes count together."""
    api.platform.clock = Clock()
    other = make(platform=api.platform)
    ann, bob = bearer(user="ann"), bearer(user="bob")
    assert [(await one.rpc("limited", **ann)).status for one in (api, other, api, other, api)] == [
        200,
        200,
        200,
        429,
        429,
    ]
    refused = await api.rpc("limited", **bearer(user="ann", sid="another session of the same user"))
    assert "limited may be called 3 times in 60 seconds" in check_error(refused, 429, "RATE_LIMITED")["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (await api.rpc("limited", **bob)).status == 200, "another user"
    assert (await api.rpc("limited_too", **ann)).status == 200, "another function"
    assert (await api.rpc("limited", **bearer(user="ann", owner="tenant-2"))).status == 200, "another tenant"
    api.platform.clock.later_ms = 59_000
    assert (await api.rpc("limited", **ann)).status == 429
    api.platform.clock.later_ms = 61_000
    assert (await api.rpc("limited", **ann)).status == 200, "the window has passed"


async def test_a_limit_that_cannot_count_counts_by_itself(api, monkeypatch):
    """The shared state does not answer: the limit holds for this process, and nobody is refused for that reason."""

    class Away:
        async def shared(self, _request: object) -> object:
            message = "away"
            raise CoordinatorUnavailableError(message)

    api.platform.clock = Clock()
    shared = api.platform.shared
    carl = bearer(user="carl")
    monkeypatch.setattr(api.platform, "shared", lambda _owner: Away())
    assert [(await api.rpc("limited", **carl)).status for _ in range(5)] == [200, 200, 200, 429, 429]
    assert (await api.rpc("limited", **bearer(user="carl", owner="tenant-2"))).status == 200, "another tenant"
    monkeypatch.setattr(api.platform, "shared", shared)
    assert (await api.rpc("limited", **carl)).status == 200


async def test_callers_without_a_token_are_told_apart_by_address(api):
    """Of IPv6 by what one subscriber has."""

    async def statuses(*addresses: str) -> list[int]:
        answers = [await api.send("POST", "/rpc/limited", b"[]", authorization=None, client=one) for one in addresses]
        return [answer.status for answer in answers]

    assert await statuses(*["192.0.2.1"] * 4, "192.0.2.2") == [200, 200, 200, 429, 200]
    assert await statuses(*[f"2001:db8::{n}" for n in range(1, 5)], "2001:db8:0:1::1") == [200, 200, 200, 429, 200]


@pytest.mark.parametrize("team", ["", "x" * 5000, "ä" * 600, "a\x00b", "\ud800", "app/x", "user/ann"])
async def test_whatever_they_are_counted_by(api, team):
    """Any text; long ones that begin alike are two, and the keys of ctx.shared are others."""
    assert (await api.rpc("limited_by", team, x_team=team)).status in (200, 400)
    assert (await api.rpc("limited_by", "x", x_team=team)).status == 429
    assert (await api.rpc("limited_by", "x", x_team=team + "!")).status == 200


async def test_require_group(api):
    """One of them is enough; nobody else, with or without a token."""
    for groups, status in [(["editors"], 200), (["x", "admins"], 200), ([], 403), (["editor"], 403)]:
        response = await api.rpc("for_groups", **bearer(ugroups=groups))
        assert response.status == status
    message = check_error(await api.rpc("for_groups", authorization=None), 403, "FORBIDDEN")["message"]
    assert message == "for_groups is for members of admins or editors"


async def test_log(api):
    """Who called what and how it ended: a line a call, without arguments and results."""
    for secret in ("hunter2", "bad hunter2", "worse hunter2"):
        await api.rpc("told", secret, **bearer(user="ann"))
    lines = [line for line in api.log if line["event"] == "called"]
    assert [line["outcome"] for line in lines] == ["ok", "INVALID_REQUEST", "error"]
    for line in lines:
        assert (line["function"], line["owner"], line["user"]) == ("told", "tenant-1", "ann")
        assert "hunter2" not in json.dumps(line)
    assert {line["request_id"] for line in lines} == {
        line["request_id"] for line in api.log if line["event"] == "request"
    }
