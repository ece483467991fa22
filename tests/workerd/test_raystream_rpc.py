"""Encrypted RPC in the real runtime, from a client on CPython."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from kontract.core.security.raystream.client import SealedSession
from kontract.core.security.raystream.suites import Suite
from support.sealed import SealedClient
from support.sessions import bearer_for


@pytest.fixture
async def http(worker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=worker.url, timeout=60, trust_env=False) as client:
        yield client


async def connected(worker, http: httpx.AsyncClient, suite: Suite = Suite.CHACHAPOLY, **who) -> SealedClient:
    """A session of a caller, with the key that the Worker tells."""

    async def post(path: str, body: bytes) -> tuple[int, bytes]:
        response = await http.post(path, content=body)
        return response.status_code, response.content

    told = (await http.get("/.well-known/kontract")).json()["raystream"]
    public = base64.urlsafe_b64decode(told["public_keys"][0] + "=")
    sealed = SealedClient(post, public, bearer_for(worker, **who)["authorization"].removeprefix("Bearer "), suite)
    assert isinstance(await sealed.connect(), SealedSession)
    return sealed


@pytest.mark.parametrize("suite", Suite, ids=lambda suite: suite.name)
async def test_calls_and_errors(worker, http, suite):
    """The same functions and the same words as through /rpc."""
    sealed = await connected(worker, http, suite)
    made = await sealed.rpc("create_task", "sealed by " + suite.name)
    assert made.status == 200
    assert int(made.headers["x-kontract-txid"]) > 0
    task = json.loads(made.body)["result"]
    headers = bearer_for(worker)
    for function, args in [("get_task", [task["id"]]), ("get_task", ["none"]), ("create_task", [7]), ("nope", [])]:
        reply = await sealed.rpc(function, *args)
        plain = await http.post(f"/rpc/{function}", content=json.dumps(args), headers=headers)
        told, wanted = json.loads(reply.body), plain.json()
        told.pop("request_id", None), wanted.pop("request_id", None)
        assert (reply.status, told) == (plain.status_code, wanted)
        assert reply.headers["content-type"] == plain.headers["content-type"]


async def test_a_replayed_write_sent_at_once_is_applied_once(worker, http):
    """Sixteen copies of one message in the hands of somebody on the way."""
    sealed = await connected(worker, http)
    for account, balance in (("ray-a", 100), ("ray-b", 0)):
        assert (await sealed.rpc("open_account", account, balance)).status == 200
    transfer = sealed.seal("transfer", "ray-a", "ray-b", 10)
    replies = await asyncio.gather(*(sealed.send(transfer) for _ in range(16)))
    assert {(reply.status, reply.body) for reply in replies} == {(200, b'{"result":{"ray-a":90,"ray-b":10}}')}
    assert json.loads((await sealed.rpc("balance", "ray-a")).body)["result"] == 90


async def test_answers_of_any_size_arrive_as_they_were_sealed(worker, http):
    """Many at once: a buffer that was given away too early would show."""
    sealed = await connected(worker, http)
    titles = [chr(97 + n) * 200 for n in range(20)]
    await asyncio.gather(*(sealed.rpc("create_task", title) for title in titles))
    lists = await asyncio.gather(*(sealed.rpc("list_tasks", None, 200) for _ in range(12)))
    for reply in lists:
        assert reply.status == 200
        assert set(titles) <= {task["title"] for task in json.loads(reply.body)["result"]}


async def test_the_largest_body_and_one_byte_more(worker, http):
    """1 MiB of arguments passes the seal; the limit is that of /rpc and the words are inside."""
    sealed = await connected(worker, http)
    for more, status in ((0, 400), (1, 413)):
        body = b'["' + b"x" * (1024 * 1024 - 4 + more) + b'"]'
        assert (await sealed.rpc("create_task", body=body)).status == status


async def test_every_refusal_is_the_same(worker, http):
    """Changed, cut off, of another kind: one answer."""
    sealed = await connected(worker, http)
    message = sealed.seal("total").message
    changed = [message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :] for at in (40, len(message) - 1)]
    bad = [b"", b"[]", message[:-1], message + b"\0", *changed]
    told = set()
    for path in ("/raystream/rpc", "/raystream/handshake"):
        for body in bad:
            response = await http.post(path, content=body)
            assert response.status_code == 401
            told.add((response.json()["error"], response.json()["message"], response.headers["www-authenticate"]))
    assert told == {("UNAUTHORIZED", "raystream: this message was refused; begin with a new handshake", "Raystream")}
    assert (await http.post("/raystream/rpc", content=message)).status_code == 200


async def test_a_token_that_is_not_valid(worker, http):
    """Told inside."""
    sealed = await connected(worker, http)
    sealed.token = "nonsense"
    reply = await sealed.connect()
    assert (reply.status, json.loads(reply.body)["message"]) == (401, "the token is not valid")
