"""POST /call/<function>: the call of /rpc, with an object of arguments by their names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from kontract import Context, backend, perms
from kontract.core import limits
from support.api import apis, check_error
from support.sealed import SealedClient
from support.sessions import bearer, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

seen: list[tuple[str, str]] = []


async def around(ctx: Context, call_next: Any) -> Any:
    """Middleware that notes which way a call came."""
    seen.append((ctx.path, ctx.route))
    return await call_next()


@backend(public=True, perm=perms.R__)
async def both(ctx: Context, first: int, second: str = "x", *, third: list[int] | None = None) -> list:
    """Return what came."""
    return [first, second, third]


@backend(perm=perms.RW_)
async def note(ctx: Context, title: str) -> str:
    """Write."""
    return await ctx.storage.tasks.push({"title": title})


@backend(perm=perms.RW_)
async def keep(ctx: Context, number: float, value: Any = None) -> None:
    """Take anything."""


@backend(ugroup="admin")
async def secret(ctx: Context, words: str) -> str:
    """For few."""
    return words


@backend(public=True, perm=perms.R__)
async def what_time(ctx: Context) -> list:
    """Tell the time, twice."""
    return [ctx.now(), ctx.now().utcoffset().total_seconds()]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(postgres):
    async with apis(postgres, [both, keep, note, secret, what_time], both=(around,)) as make:
        yield make()


async def named(api, function, headers=None, **arguments):
    return await api.send("POST", f"/call/{function}", json.dumps(arguments).encode(), **(headers or {}))


async def test_it_is_the_call_of_rpc(api):
    """The same result, the same middleware, the same line in the log; names may stand in any order."""
    seen.clear()
    by_name = await named(api, "both", third=[1], first=5)
    by_position = await api.rpc("both", 5, "x", [1])
    assert by_name.body == by_position.body == b'{"result":[5,"x",[1]]}'
    assert seen == [("/call/both", "both"), ("/rpc/both", "both")]
    lines = [{**line, "path": ""} for line in api.log if line.get("function") == "both"]
    assert lines[0].keys() == lines[1].keys()
    assert [line["path"] for line in api.log if line.get("function") == "both"] == ["/call/both", "/rpc/both"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "both: missing arguments: first"),
        (b"", "both: missing arguments: first"),
        (b'{"first": 1, "fourth": 2}', "both has no argument 'fourth'; it takes first, second, third"),
        (b'{"first": "1"}', "both: argument first: Expected `int`, got `str`"),
        (b'{"first": 1, "third": [1, "x"]}', "both: argument third[1]: Expected `int`"),
        (b"[1]", "both: the request body must be an object of arguments by name"),
        (b"1", "both: the request body must be an object of arguments by name"),
        (b'{"first": 1, "first": 2}', "the request body has an object with the duplicate name 'first'"),
        (b'{"first": 1', "the request body is not valid JSON"),
        (b'{"first": 1, "second": "\\u0000"}', "NUL"),
        (b'{"first": ' + b"[" * 32 + b"]" * 32 + b"}", "nested deeper than 32 levels"),
        (b'{"first": [' + b"0," * limits.JSON_VALUES + b"0]}", "more than 16000 values"),
    ],
)
async def test_errors_are_told_by_name(api, body, words):
    """Which argument is missing, which there is not, and which has the wrong type."""
    assert words in check_error(await api.send("POST", "/call/both", body), 400, "INVALID_REQUEST")["message"]


async def test_who_may_call(api):
    """The same as through /rpc: groups, bits, tokens; without a token nobody learns which functions there are."""
    check_error(await named(api, "secret", words="x"), 403, "FORBIDDEN")
    check_error(await named(api, "note", bearer(perm=perms.R__), title="x"), 403, "PERMISSION_DENIED")
    for function in ("note", "nothing"):
        check_error(await named(api, function, {"authorization": None}, title="x"), 401, "UNAUTHORIZED")
    assert (await named(api, "both", {"authorization": None}, first=1)).status == 200
    check_error(await named(api, "nothing"), 404, "NOT_FOUND")
    assert "POST /call/<function>" in check_error(await api.send("POST", "/call/"), 404, "NOT_FOUND")["message"]


async def test_a_key_belongs_to_the_call_whichever_way_it_comes(api):
    """A repetition is answered with the first result, not applied twice."""
    headers = {"idempotency_key": "once"}
    first = await named(api, "note", headers, title="a")
    again = await api.rpc("note", "a", **headers)
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_it_can_be_sealed(api):
    """A header inside says that the body is an object; without it nothing has changed."""

    async def post(path, body):
        answer = await api.send("POST", path, body, authorization=None)
        return answer.status, answer.body

    about = json.loads((await api.send("GET", "/.well-known/kontract")).body)["raystream"]
    client = SealedClient(post, _key(about["public_keys"][0]), token())
    by_name = await client.rpc("both", body=b'{"second": "y", "first": 1}', x_kontract_arguments="by-name")
    assert (by_name.status, by_name.body) == (200, b'{"result":[1,"y",null]}')
    assert (await client.rpc("both", 1, x_kontract_arguments="by-position")).status == 200
    assert (await client.rpc("both", 1)).status == 200
    wrong = await client.rpc("both", 1, x_kontract_arguments="by-magic")
    assert (wrong.status, json.loads(wrong.body)["error"]) == (400, "INVALID_REQUEST")


def _key(text):
    import base64

    return base64.urlsafe_b64decode(text + "=")


@pytest.mark.parametrize(
    ("path", "takes"),
    [
        ("/call/both", "POST"),
        ("/rpc/both", "POST"),
        ("/rpc/nothing", "POST"),
        ("/auth/login", "POST"),
        ("/auth/me", "GET"),
        ("/stream", "GET"),
        ("/stream/ticket", "POST"),
        ("/raystream/rpc", "POST"),
        ("/raystream/handshake", "POST"),
        ("/.well-known/kontract", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/elsewhere", ""),
    ],
)
async def test_allow_names_the_methods_that_a_path_takes(api, path, takes):
    """And no other: each of them is answered with something else than 405, every other one with it."""
    allowed = [*filter(None, takes.split(", ")), "OPTIONS"]
    options = await api.send("OPTIONS", path)
    assert (options.status, options.headers["Allow"]) == (204, ", ".join(allowed))
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
        if path == "/stream" and method == "GET":
            continue
        response = await api.send(method, path)
        assert (response.status == 405) is (bool(takes) and method not in allowed), method
        if response.status == 405:
            assert response.headers["Allow"] == ", ".join(allowed)


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "deflate, gzip", "x"])
@pytest.mark.parametrize("path", ["/call/both", "/rpc/both", "/auth/login", "/raystream/rpc", "/raystream/handshake"])
async def test_a_compressed_body_is_415(api, path, coding):
    """Small when it comes, perhaps large when it is read: no path takes one, and the answer says what it takes."""
    response = await api.send("POST", path, b"\x1f\x8b\x08\x00", content_encoding=coding)
    assert coding in check_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")["message"]
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "", None])
async def test_a_body_is_json_whatever_its_content_type_says(api, kind):
    """`curl -d` says that it sends a form. Nothing is lost by that: a token is never sent by a browser on its own."""
    response = await api.send("POST", "/call/both", b'{"first": 1}', content_type=kind, content_encoding="identity")
    assert response.status == 200


async def test_the_time_is_that_of_the_platform(api, monkeypatch):
    """Aware, in UTC, exact to the millisecond: a test that moves the clock moves it."""
    monkeypatch.setattr(api.platform, "clock", _Clock())
    api.platform.clock.moment = 4_102_444_799_999
    assert json.loads((await api.rpc("what_time", authorization=None)).body)["result"] == [
        "2099-12-31T23:59:59.999000Z",
        0.0,
    ]


class _Clock:
    moment = 0

    def now(self) -> int:
        return self.moment

    def elapsed(self) -> float:
        return 0.0


async def test_another_call_under_the_same_key_is_told_from_it(api):
    """By its arguments, not by how they are written: order, spaces, position or name; a digit more is another one."""
    sent = {"idempotency_key": "same-arguments"}
    first = await api.send("POST", "/rpc/keep", b'[1e30, {"a": 0.1, "b": 123456789012345678901234567890}]', **sent)
    assert first.status == 200, first.body
    for path, body, status in [
        ("/rpc/keep", b' [ 1e30 , {"a":0.1,"b":123456789012345678901234567890}]', 200),
        ("/rpc/keep", b'[1e30, {"a": 0.1, "b": 123456789012345678901234567890}]', 200),
        ("/rpc/keep", b'[1e30, {"a": 0.1}]', 422),
    ]:
        assert (await api.send("POST", path, body, **sent)).status == status
    sent = {"idempotency_key": "same-digits"}
    for path, body, status in [
        ("/rpc/keep", b'[1.5, {"a": 1, "b": 1.0000000000000000001}]', 200),
        ("/call/keep", b'{"value": {"b":1.0000000000000000001, "a":1}, "number": 1.5}', 200),
        ("/rpc/keep", b'[1.5, {"a": 1, "b": 1.0000000000000000002}]', 422),
        ("/call/keep", b'{"value": {"b": 1.0000000000000000001}, "number": 1.5}', 422),
        ("/call/keep", b'{"number": 1.5}', 422),
    ]:
        assert (await api.send("POST", path, body, **sent)).status == status, body
