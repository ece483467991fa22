"""Encrypted RPC over the whole gateway and a real PostgreSQL: the same as /rpc, for those who have the keys alone."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from kontract import Context, HttpError, HttpResp, backend, perms
from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits
from kontract.core.security import keys
from kontract.core.security.raystream import frames
from kontract.core.security.raystream.client import ClientHandshake, SealedSession
from kontract.core.security.raystream.server import HandshakeServer
from kontract.core.security.raystream.suites import Suite
from kontract.gateway.app import Gateway
from kontract.gateway.http import Response
from kontract.gateway.routes import Registry
from kontract.server.crypto import NativeCrypto
from support.api import Api, apis, check_error
from support.sealed import SealedClient
from support.sessions import ENVIRONMENT, SECRET, token

OTHER_SECRET = "c7d41f0a92be6835d1407ea9f3286bc50d9e71f8a4b36c2de580179fc46a3b92"


@backend(perm=perms.RW_)
async def explode(ctx: Context, name: str) -> None:
    await ctx.storage.accounts.set(name, {"balance": 1})
    secret = "s3cret detail"
    raise RuntimeError(secret)


@backend(perm=perms.RW_)
async def other_status(ctx: Context, name: str) -> HttpResp:
    await ctx.storage.accounts.insert(name, {"balance": 5})
    return HttpResp.created({"name": name}, f"/accounts/{name}")


@backend(perm=perms.R__)
async def what_it_sees(ctx: Context) -> list:
    return [ctx.path, ctx.method, dict(ctx.headers), ctx.user, sorted(ctx.ugroups), ctx.sid, ctx.client]


@backend(perm=perms.R__, public=True)
async def for_everybody(ctx: Context) -> str:
    return ctx.user


@backend(perm=perms.R__, ugroup="admins")
async def for_admins(ctx: Context) -> str:
    return ctx.user


@backend(perm=perms.RW_)
async def bump(ctx: Context, name: str) -> int:
    account = await ctx.storage.accounts.get(name)
    await asyncio.sleep(0)
    await ctx.storage.accounts.update(name, balance=account.balance + 1)
    return account.balance + 1


@backend(perm=perms.RW_)
async def bad_header(ctx: Context, name: str, value: str, fail: bool = False) -> HttpResp:  # noqa: FBT001, FBT002
    await ctx.storage.accounts.set("bad-header", {"balance": 1})
    if fail:
        raise HttpError("no", headers={name: value})
    return HttpResp(200, 1, {name: value})


HERE = [explode, other_status, what_it_sees, for_everybody, for_admins, bump, bad_header]


@pytest.fixture
async def make_api(postgres):
    async with apis(postgres, HERE) as make:
        yield make


@pytest.fixture
def api(make_api) -> Api:
    return make_api()


def public_of(secret: str) -> bytes:
    return HandshakeServer(NativeCrypto(), keys.ring(bytes.fromhex(secret))).public_keys[0]


def client(api: Api, *, secret: str = SECRET, pinned: str | None = None, suite: Suite = Suite.CHACHAPOLY, **who):
    async def post(path: str, body: bytes) -> tuple[int, bytes]:
        response = await api.send("POST", path, body, authorization=None)
        return response.status, response.body

    given = who.pop("given", None)
    return SealedClient(post, public_of(pinned or secret), token(secret, **who) if given is None else given, suite)


def is_refused(response: Response) -> bool:
    """The one answer to everything that cannot be opened."""
    body = check_error(response, 401, "UNAUTHORIZED")
    assert body["message"] == "raystream: this message was refused; begin with a new handshake"
    assert set(body) == {"error", "message", "request_id"}
    assert response.headers["WWW-Authenticate"] == "Raystream"
    return True


# --- the same as /rpc -------------------------------------------------------------------------------------------------

CALLS = [
    ("open_account", ["a", 10]),
    ("open_account", ["b"]),
    ("open_account", ["a", 1]),  # 409
    ("transfer", ["a", "b", 4]),
    ("transfer", ["a", "b", 700]),  # 400
    ("transfer", ["a", "nobody", 1]),  # 404
    ("balance", ["a"]),
    ("total", []),
    ("other_status", ["made"]),  # 201 with a Location
    ("explode", ["x"]),  # 500
    ("nothing", []),  # 404
    ("for_everybody", []),
    ("for_admins", []),  # 403
    ("create_task", [7]),  # 400
]
BODIES = [b"{", b"[" * 100_000, b'["\xff"]', b'{"a":1,"a":2}', b"", b'["' + b"x" * limits.BODY_BYTES + b'"]']


def seen(status: int, headers: dict[str, str], body: bytes) -> tuple:
    """What both ways must have in common: all but ids."""
    told = json.loads(body)
    told.pop("request_id", None)
    kept = {name.lower(): value for name, value in headers.items()}
    for name in ("x-request-id", "server-timing", "cache-control", "x-content-type-options"):
        kept.pop(name, None)
    return status, kept, told


@pytest.mark.parametrize("suite", Suite, ids=lambda suite: suite.name)
async def test_every_call_is_answered_as_through_rpc(make_api, postgres, suite):
    """Status, headers, body, and what is left in the database."""
    plain = make_api()
    answers = [await plain.rpc(name, *args) for name, args in CALLS]
    answers += [await plain.send("POST", "/rpc/create_task", body) for body in BODIES]
    async with apis(postgres, HERE) as another:
        api = another()
        sealed = client(api, suite=suite)
        replies = [await sealed.rpc(name, *args) for name, args in CALLS]
        replies += [await sealed.rpc("create_task", body=body) for body in BODIES]
        assert (await api.database())[0] == (await plain.database())[0]
    for answer, reply in zip(answers, replies, strict=True):
        assert seen(reply.status, reply.headers, reply.body) == seen(answer.status, answer.headers, answer.body)
    assert {answer.status for answer in answers} == {200, 201, 400, 403, 404, 409, 413, 500}


async def test_the_cost_of_calls(api, monkeypatch):
    """A read costs what it costs through /rpc; a write asks first whether it was applied before."""
    sealed = client(api)
    asked = []

    async def ask(self, request, plain=CoordinatorShell.ask):
        asked.append(getattr(request, "idempotent", False))
        return await plain(self, request)

    monkeypatch.setattr(CoordinatorShell, "ask", ask)
    task = json.loads((await sealed.rpc("create_task", "x")).body)["result"]
    # Within a minute of the coordinator's start a copy might be of a call from before it; then its fence is asked.
    assert (api.log[-1]["coord_calls"], api.log[-1]["db_statements"]) == (3, 2 + 1)
    api.platform._shell("tenant-1")._coordinator.since -= 2 * limits.RAYSTREAM_FRESH_MS
    for function, args, cost in [
        ("get_task", [task["id"]], (1, 1)),
        ("create_task", ["y"], (3, 1)),
        ("rename_task", [task["id"], "z"], (3, 2)),
    ]:
        asked.clear()
        reply = await sealed.rpc(function, *args)
        assert reply.status == 200
        assert any(asked) is (function != "get_task"), "a read looks nothing up in the journal"
        assert (api.log[-1]["coord_calls"], api.log[-1]["db_statements"]) == cost
        assert f'{cost[0]} calls"' in reply.headers["server-timing"]


async def test_what_a_function_sees(api):
    """The call that was sealed: nothing of the request around it but the address it came from."""
    sealed = client(api, user="ann", ugroups=["b", "a"], sid="s-1")
    await sealed.connect()

    async def post(path: str, body: bytes) -> tuple[int, bytes]:
        outer = {"idempotency_key": "outer", "x_other": "outer", "authorization": "Bearer outer"}
        response = await api.send("POST", path, body, **outer)
        return response.status, response.body

    sealed.post = post
    reply = await sealed.rpc("what_it_sees", accept="inner")
    told = json.loads(reply.body)["result"]
    assert told == ["/rpc/what_it_sees", "POST", {"accept": "inner"}, "ann", ["a", "b"], "s-1", ""]


async def test_the_answer_says_nothing_to_those_on_the_way(api):
    """Neither status, txid, timing nor size of an error are outside."""
    sealed = client(api)
    await sealed.connect()
    for function, args in [("open_account", ["a", 1]), ("open_account", ["a", 1]), ("nothing", [])]:
        response = await api.send("POST", "/raystream/rpc", sealed.seal(function, *args).message, authorization=None)
        assert response.status == 200
        assert set(response.headers) == {"Content-Type", "X-Request-Id", "Cache-Control", "X-Content-Type-Options"}
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert b"account" not in response.body


async def test_the_log_has_what_was_inside(api):
    """An operator sees the function, the caller and the true status of a sealed call."""
    sealed = client(api, user="ann")
    for function, status, level in [("total", 200, "info"), ("nothing", 404, "info"), ("explode", 500, "error")]:
        args = ["x"] if function == "explode" else []
        assert (await sealed.rpc(function, *args)).status == status
        line = api.log[-1]
        assert (line["function"], line["user"], line["status"], line["level"]) == (function, "ann", status, level)
        assert line["path"] == "/raystream/rpc"
    assert "RuntimeError: s3cret detail" in api.log[-1]["exception"]
    written = await sealed.rpc("open_account", "a", 1)
    assert str(api.log[-1]["txid"]) == written.headers["x-kontract-txid"]
    assert api.log[-1]["request_id"] == written.headers["x-request-id"]


async def test_thirty_two_sealed_clients_and_one_counter(api):
    """Transactions, conflicts and retries are those of every call."""
    opening = client(api)
    await opening.rpc("open_account", "hot", 0)
    clients = [client(api) for _ in range(8)]
    for one in clients:
        await one.connect()
    replies = await asyncio.gather(*(one.rpc("bump", "hot") for one in clients for _ in range(4)))
    assert sorted(json.loads(reply.body)["result"] for reply in replies) == list(range(1, 33))


# --- once -------------------------------------------------------------------------------------------------------------


async def test_a_replayed_write_is_applied_once(api):
    """Ten copies at once and one later: one transfer, eleven equal answers, each sealed anew."""
    sealed = client(api)
    await sealed.rpc("open_account", "a", 100)
    await sealed.rpc("open_account", "b", 0)
    transfer = sealed.seal("transfer", "a", "b", 10)
    posts = [sealed.post("/raystream/rpc", transfer.message) for _ in range(10)]
    answers = [*await asyncio.gather(*posts), await sealed.post("/raystream/rpc", transfer.message)]
    replies = [sealed.session.open(transfer.sequence, body) for _, body in answers]
    assert {(reply.status, reply.body) for reply in replies} == {(200, b'{"result":{"a":90,"b":10}}')}
    assert len({reply.headers["x-kontract-txid"] for reply in replies}) == 1
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
    assert len({body for _, body in answers}) == 11
    assert json.loads((await sealed.rpc("balance", "a")).body)["result"] == 90


async def test_a_replayed_write_through_two_gateways_is_applied_once(make_api):
    """Two nodes that share nothing but the secret, the coordinator and the database."""
    one = make_api()
    two = make_api(platform=one.platform)
    sealed = client(one)
    await sealed.rpc("open_account", "a", 0)
    bumps = [sealed.seal("bump", "a") for _ in range(4)]
    sent = [api.send("POST", "/raystream/rpc", bump.message) for bump in bumps for api in (one, two, two, one)]
    bodies = [answer.body for answer in await asyncio.gather(*sent)]
    results = {
        sealed.session.open(bump.sequence, body).body
        for number, bump in enumerate(bumps)
        for body in bodies[4 * number : 4 * number + 4]
    }
    assert results == {b'{"result":%d}' % number for number in range(1, 5)}
    assert json.loads((await sealed.rpc("balance", "a")).body)["result"] == 4


async def test_two_calls_that_say_the_same_are_two_calls(api):
    """Only copies of one message are one."""
    sealed = client(api)
    await sealed.rpc("open_account", "a", 0)
    assert [json.loads((await sealed.rpc("bump", "a")).body)["result"] for _ in range(3)] == [1, 2, 3]


async def test_an_idempotency_key_holds_beyond_the_session(api):
    """A client that lost its session repeats a call in the next one, or through /rpc."""
    first, second = client(api, user="ann"), client(api, user="ann")
    await first.rpc("open_account", "a", 0)
    for sealed in (first, first, second):
        reply = await sealed.rpc("bump", "a", idempotency_key="k")
        assert json.loads(reply.body)["result"] == 1
    plain = await api.rpc("bump", "a", idempotency_key="k", authorization=f"Bearer {token(user='ann')}")
    assert json.loads(plain.body)["result"] == 1
    other = await client(api, user="eve").rpc("bump", "a", idempotency_key="k")
    assert json.loads(other.body)["result"] == 2


# --- who --------------------------------------------------------------------------------------------------------------


async def test_a_token_that_is_not_valid_is_told_so_inside(api):
    """The same words as without raystream, sealed."""
    plain = await api.send("POST", "/rpc/total", b"[]", authorization="Bearer nonsense")
    for given in ("nonsense", token(OTHER_SECRET), token(seconds=-1)):
        reply = await client(api, given=given).connect()
        assert seen(reply.status, reply.headers, reply.body) == seen(plain.status, plain.headers, plain.body)
    assert api.log[-1]["status"] == 401


async def test_without_a_token_only_public_functions_answer(api):
    """As through /rpc."""
    sealed = client(api, given="")
    assert json.loads((await sealed.rpc("for_everybody")).body)["result"] == "public"
    for function in ("total", "nothing"):
        assert (await sealed.rpc(function)).status == 401


async def test_a_session_that_was_ended_is_refused(api):
    """Logging out ends the tickets too: they carry the session, and the coordinator knows that it has ended."""
    given = token(sid="s-1")
    sealed = client(api, given=given)
    assert (await sealed.rpc("total")).status == 200
    assert (await api.send("POST", "/auth/logout", authorization=f"Bearer {given}")).status == 204
    for function, args in [("total", []), ("open_account", ["a", 1]), ("for_everybody", [])]:
        assert (await sealed.rpc(function, *args)).status == 401
    again = await client(api, given=given).connect()
    assert again.status == 401, "nor does it get another ticket"


async def test_a_ticket_ends_with_its_token(api):
    """And after an hour, if the token would live longer."""
    for seconds, most in [(20, 20_000), (7_200, 3_600_000)]:
        sealed = client(api, seconds=seconds)
        await sealed.connect()
        assert most - 2_000 < sealed.session.lifetime <= most
    short = client(api, seconds=60)
    await short.connect()
    message = short.seal("total").message
    later = api.platform.clock.now() + 61_000
    api.platform.clock.now = lambda: later
    assert is_refused(await api.send("POST", "/raystream/rpc", message))


async def test_another_tenant(api):
    """The ticket names the owner: nobody reads another's tables."""
    await client(api).rpc("open_account", "a", 5)
    reply = await client(api, owner="tenant-2").rpc("total")
    assert reply.status == 404
    assert json.loads((await client(api).rpc("total")).body)["result"] == 5


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_every_refusal_is_the_same(api):
    """Whatever is wrong, and wherever it arrives: one answer, and nothing happens."""
    sealed = client(api)
    await sealed.connect()
    good = sealed.seal("open_account", "a", 1).message
    ticket, frame = frames.detach_ticket(good)
    other = good[:-1] + bytes([good[-1] ^ 1])
    stranger = client(api, secret=OTHER_SECRET)
    for path in ("/raystream/rpc", "/raystream/handshake"):
        for body in (b"", b"\0" * 16, b"[]", frame, ticket, good[:-1], good + b"\0", other):
            assert is_refused(await api.send("POST", path, body))
    assert is_refused(await api.send("POST", "/raystream/handshake", good))
    with pytest.raises(AssertionError, match="refused"):
        await stranger.connect()
    no_text = ClientHandshake(NativeCrypto(), public_of(SECRET), bytes(range(32))).hello(b"\xff\xfe")
    assert is_refused(await api.send("POST", "/raystream/handshake", no_text))
    assert (await api.database())[0] == []
    assert (await api.send("POST", "/raystream/rpc", good)).status == 200


async def test_a_request_that_is_too_old(api):
    """Recorded by somebody on the way and sent again when it does harm."""
    sealed = client(api)
    await sealed.rpc("open_account", "a", 0)
    await sealed.rpc("open_account", "b", 0)
    failed = sealed.seal("transfer", "a", "b", 5)
    assert (await sealed.send(failed)).status == 400
    await sealed.rpc("open_account", "c", 9)
    await sealed.rpc("transfer", "c", "a", 9)
    later = api.platform.clock.now() + limits.RAYSTREAM_FRESH_MS + 1
    api.platform.clock.now = lambda: later
    assert is_refused(await api.send("POST", "/raystream/rpc", failed.message))


async def test_bodies_that_are_too_large(api):
    """413 by the size of what arrives; the limit of the arguments is that of /rpc, inside."""
    for path, most in [
        ("/raystream/handshake", limits.RAYSTREAM_HELLO_BYTES),
        ("/raystream/rpc", limits.RAYSTREAM_REQUEST_BYTES),
    ]:
        assert is_refused(await api.send("POST", path, bytes(most)))
        check_error(await api.send("POST", path, bytes(most + 1)), 413, "PAYLOAD_TOO_LARGE")
    fits = b'["' + b"x" * (limits.BODY_BYTES - 4) + b'"]'
    sealed = client(api)
    assert (await sealed.rpc("create_task", body=fits)).status == 400  # title over 200
    assert (await sealed.rpc("create_task", body=fits + b" ")).status == 413


async def test_methods(api):
    """405 with what is allowed."""
    for path, allowed in [
        ("/raystream/rpc", "POST, OPTIONS"),
        ("/raystream/handshake", "POST, OPTIONS"),
        ("/.well-known/kontract", "GET, HEAD, OPTIONS"),
    ]:
        wrong = await api.send("DELETE", path)
        check_error(wrong, 405, "METHOD_NOT_ALLOWED")
        assert wrong.headers["Allow"] == allowed
    for path in ("/raystream/", "/raystream", "/raystream/rpc/", "/.well-known/"):
        check_error(await api.send("POST", path), 404, "NOT_FOUND")


@pytest.mark.parametrize("value", ["a\r\nset-cookie: x", "€", " x", "x" * 5_000])
@pytest.mark.parametrize("fail", [False, True])
async def test_headers_that_cannot_be_sent(api, value, fail):
    """A function that answers with one is told so before the commit; its caller gets a 500, through both ways."""
    for way in (api, client(api)):
        answer = await way.rpc("bad_header", "x-name", value, fail)
        assert (answer.status, json.loads(answer.body)["error"]) == (500, "INTERNAL")
    assert (await api.database())[0] == []
    assert "x-name" in api.log[-1]["exception"]


async def test_headers_that_the_gateway_adds_to_always_fit(api):
    """A function may fill one that the gateway adds to: what has been committed is answered, and sealed."""
    headers = ("Server-Timing", "x" * limits.HEADER_BYTES)
    plain = await api.rpc("bad_header", *headers)
    sealed = await client(api).rpc("bad_header", *headers)
    assert (plain.status, sealed.status, sealed.body) == (200, 200, plain.body)
    assert plain.headers["Server-Timing"] == sealed.headers["server-timing"] == headers[1]


async def test_an_application_that_was_not_built_says_so(make_api):
    """Through both ways alike: its functions are not there, but that is not what is wrong."""
    api = make_api({**ENVIRONMENT, "KONTRACT_SHOW_ERRORS": "1"})
    api.gateway = Gateway(Registry({}, {}), "src/app/tasks.py:1: invalid syntax")
    for way in (api, client(api)):
        answer = await way.rpc("create_task", "a")
        message = json.loads(answer.body)["message"]
        assert (answer.status, message) == (
            500,
            "the application was not built. src/app/tasks.py:1: invalid syntax",
        )


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_what_a_client_is_told(make_api):
    """Versions, suites, keys and paths; the key that is used from now on first."""
    api = make_api(ENVIRONMENT | {"KONTRACT_SECRET": OTHER_SECRET, "KONTRACT_SECRET_PREVIOUS": SECRET})
    response = await api.send("GET", "/.well-known/kontract", authorization=None)
    told = json.loads(response.body)["raystream"]
    keys_told = [base64.urlsafe_b64decode(key + "=") for key in told.pop("public_keys")]
    assert keys_told == [public_of(OTHER_SECRET), public_of(SECRET)]
    assert told == {
        "versions": [1],
        "suites": ["Noise_NK_25519_ChaChaPoly_SHA256", "Noise_NK_25519_AESGCM_SHA256"],
        "handshake": "/raystream/handshake",
        "rpc": "/raystream/rpc",
    }
    assert response.headers["Cache-Control"] == "public, max-age=300"
    assert SECRET not in response.body.decode()


async def test_a_rotated_secret(make_api):
    """Clients that pin the old key and sessions of before go on until the old secret is taken away."""
    old = make_api()
    sealed = client(old)
    await sealed.connect()
    during = make_api(ENVIRONMENT | {"KONTRACT_SECRET": OTHER_SECRET, "KONTRACT_SECRET_PREVIOUS": SECRET}, None)
    after = make_api(ENVIRONMENT | {"KONTRACT_SECRET": OTHER_SECRET})
    message = sealed.seal("total").message
    assert (await during.send("POST", "/raystream/rpc", message)).status == 200
    assert is_refused(await after.send("POST", "/raystream/rpc", message))
    pinned = client(during, secret=OTHER_SECRET, pinned=SECRET)
    assert isinstance(await pinned.connect(), SealedSession)
    assert (await after.send("POST", "/raystream/rpc", pinned.seal("total").message)).status == 200
