"""Encrypted calls: the same as plain ones to the caller, and nothing to anybody on the way."""

from __future__ import annotations

import asyncio
import base64

import httpx
import pytest

from kontract import Context, HttpError, NotFoundError, PayloadTooLargeError, UnauthorizedError, backend, perms
from kontract.client import (
    Client,
    ConnectionFailedError,
    InvalidAnswerError,
    Retries,
    ServerKeyError,
    UnsealedAnswerError,
)
from kontract.core import limits
from kontract.core.errors import Code
from kontract.core.security.raystream import frames
from kontract.core.security.raystream.client import SealedSession
from kontract.core.security.raystream.frames import MAX_SEQUENCE, FrameType
from kontract.gateway.http import Response
from kontract.server.system import SystemClock
from support.loopback import Fault, Instead
from support.scripted import URL, ManualClock, Script
from support.sessions import token

HOUR = 3_600_000
REFUSAL = Response(401, b'{"error":"UNAUTHORIZED","message":"raystream"}', {"WWW-Authenticate": "Raystream"})


class Shifted(SystemClock):
    """The gateway's clock, some time later."""

    later = 0

    def now(self) -> int:
        return super().now() + self.later


@backend(perm=perms.R__)
async def fail(ctx: Context, code: str) -> None:
    raise HttpError(f"about {code}", code=Code[code], details={"asked": code}, headers={"Retry-After": "7"})


@backend(public=True, perm=perms.R__)
async def whoami(ctx: Context) -> list:
    return [ctx.user, ctx.is_anonymous]


@pytest.fixture
async def site(make_site):
    site = await make_site([fail, whoami])
    site.api.platform.clock = Shifted()
    return site


def told_key(site) -> str:
    about = httpx.get(f"{site.url}/.well-known/kontract", trust_env=False).json()
    site.proxy.seen.clear()
    return about["raystream"]["public_keys"][0]


@pytest.fixture
async def key(site) -> str:
    """The public key of the site's gateway, as its operator would hand it out."""
    return await asyncio.to_thread(told_key, site)


def sequences(site) -> list[tuple[bytes, int]]:
    """The ticket and the number of each sealed call that was seen."""
    calls = [frames.detach_ticket(one.body) for one in site.proxy.seen if one.target == "/raystream/rpc"]
    return [(ticket, frames.parse(frame, FrameType.REQUEST).sequence) for ticket, frame in calls]


# --- what works -------------------------------------------------------------------------------------------------------


async def test_calls_are_the_same_and_nobody_can_read_them(site, key):
    """Neither the function nor the arguments nor the token nor the idempotency key leave the client in clear."""
    secret = token()
    api = site.client(secret, secure=True, server_key=key)
    task = await api.create_task("secret title")
    assert await api.list_tasks() == [task]
    assert site.proxy.targets() == ["POST /raystream/handshake", "POST /raystream/rpc", "POST /raystream/rpc"]
    for one in site.proxy.seen:
        assert "authorization" not in one.headers
        assert "idempotency-key" not in one.headers
        for word in (b"create_task", b"list_tasks", b"secret title", secret.encode()):
            assert word not in one.body


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
async def test_errors_are_the_same(site, key, code):
    """The same class with the same attributes as in clear."""
    sealed = site.client(token(), secure=True, server_key=key, retries=Retries.none())
    plain = site.client(token(), retries=Retries.none())
    caught = []
    for api in (sealed, plain):
        with pytest.raises(HttpError) as error:
            await api.fail(code.name)
        assert error.value.request_id == site.api.log[-1]["request_id"]
        caught.append(error.value)
    assert type(caught[0]) is type(caught[1])
    for name in ("error_code", "message", "details", "retry_after", "maybe_applied"):
        assert getattr(caught[0], name) == getattr(caught[1], name)


async def test_a_key_that_is_not_pinned_is_asked_for(site):
    """Once a session, so that a new key is found after a rotation."""
    api = site.client(token(), secure=True)
    await api.list_tasks()
    await api.list_tasks()
    assert site.proxy.targets()[:2] == ["GET /.well-known/kontract", "POST /raystream/handshake"]
    assert len(site.proxy.seen) == 4


async def test_calls_at_once_share_a_session_and_no_number(site, key):
    """One handshake, and no two calls under one key."""
    api = site.client(token(), secure=True, server_key=key)
    await asyncio.gather(*[api.create_task(str(n)) for n in range(20)])
    assert len(await api.list_tasks()) == 20
    assert site.proxy.targets().count("POST /raystream/handshake") == 1
    assert len({ticket for ticket, _ in sequences(site)}) == 1
    assert sorted(number for _, number in sequences(site)) == list(range(1, 22))


async def test_the_token_is_sent_once_a_session(site, key, monkeypatch):
    """In the handshake; afterwards the ticket stands for it, and fewer places hold it."""
    sealed = []
    seal = SealedSession.seal
    monkeypatch.setattr(SealedSession, "seal", lambda self, call: sealed.append(call) or seal(self, call))
    await site.client(token(), secure=True, server_key=key).list_tasks()
    assert [sorted(call.headers) for call in sealed] == [["content-type", "idempotency-key"]]


async def test_without_a_token_public_functions_answer(site, key):
    """As in clear."""
    api = site.client(secure=True, server_key=key)
    assert await api.whoami() == ["public", True]
    with pytest.raises(UnauthorizedError, match="a token is required"):
        await api.list_tasks()


async def test_sessions_from_beginning_to_end(site, key):
    """Each token has a ticket of its own: what the server knows of the caller is in it."""
    made = await Client.anonymous(site.url, secure=True, server_key=key, **site.with_http())
    api = site.opened(made)
    assert await api.whoami() == [api.tokens.user, True]
    await api.link("ann", "correct horse battery")
    assert await api.whoami() == [api.tokens.user, False]
    site.api.platform.clock.later = 2 * HOUR
    assert await api.whoami() == [api.tokens.user, False]
    assert len({ticket for ticket, _ in sequences(site)}) == 3
    await api.logout()
    assert await api.whoami() == ["public", True]


async def test_an_ended_session_is_told(site, key):
    """The coordinator refuses it, whatever ticket it has."""
    api = site.opened(await Client.anonymous(site.url, secure=True, server_key=key, **site.with_http()))
    assert await api.list_tasks() == []
    await site.client(api.tokens.token).logout()
    with pytest.raises(UnauthorizedError, match="not valid"):
        await api.list_tasks()
    assert site.proxy.targets().count("POST /auth/refresh") == 1


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_a_server_without_the_pinned_key_is_refused(site):
    """Nothing of the call is sent to it, and not the token either."""
    wrong = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    api = site.client(token(), secure=True, server_key=wrong)
    with pytest.raises(ServerKeyError, match="private key of server_key") as caught:
        await api.create_task("x")
    assert caught.value.maybe_applied is False
    assert site.proxy.targets() == ["POST /raystream/handshake"]


async def test_a_server_that_pretends_is_refused(site, key):
    """Whoever does not hold the private key cannot answer the handshake."""
    pretended = frames.header(FrameType.WELCOME, 0, 96) + bytes(96)
    site.proxy.faults.append(("handshake", Response(200, pretended)))
    with pytest.raises(UnsealedAnswerError, match="is not from the holder of server_key") as caught:
        await site.client(token(), secure=True, server_key=key, retries=Retries.none()).create_task("x")
    assert caught.value.maybe_applied is False


@pytest.mark.parametrize("wrong", ["", "abc", "A" * 42, "A" * 44, "é" * 43, "+" * 43, "A" * 43 + "="])
def test_what_is_no_key_is_refused_at_once(wrong):
    """A typing error must not become a client without a pin."""
    with pytest.raises(ValueError, match="43 characters"):
        Client(URL, secure=True, server_key=wrong)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(404, b'{"error":"NOT_FOUND","message":"nothing here"}'), NotFoundError),
        (Response(200, b"<html>"), InvalidAnswerError),
        (Response(200, b'{"raystream":{"versions":[2],"public_keys":["x"]}}'), InvalidAnswerError),
        (Response(200, b'{"raystream":{"versions":[1],"public_keys":[]}}'), InvalidAnswerError),
        (Response(200, b'{"raystream":{"versions":[1],"public_keys":["x"]}}'), InvalidAnswerError),
    ],
)
async def test_a_server_that_has_no_raystream(site, answer, kind):
    """The call was not sent, and is not sent in clear instead."""
    site.proxy.faults.append(("well-known", answer))
    with pytest.raises(kind) as caught:
        await site.client(token(), secure=True).create_task("x")
    assert caught.value.maybe_applied is False
    assert site.proxy.targets() == ["GET /.well-known/kontract"]


def test_options_that_contradict_each_other():
    """Two ways to carry calls."""
    with pytest.raises(ValueError, match="transport="):
        Client(URL, secure=True, transport=Script([]))


# --- sessions that end ------------------------------------------------------------------------------------------------


async def test_a_refused_ticket_is_replaced_once(site, key):
    """All calls at once that meet the refusal share the new session."""
    api = site.client(token(seconds=10 * 3600), secure=True, server_key=key)
    await api.list_tasks()
    site.api.platform.clock.later = 2 * HOUR
    await asyncio.gather(*[api.create_task(str(n)) for n in range(8)])
    assert len(await api.list_tasks()) == 8
    assert site.proxy.targets().count("POST /raystream/handshake") == 2
    assert len({ticket for ticket, _ in sequences(site)}) == 2


async def test_a_second_refusal_is_told(site, key):
    """It is not sealed: anybody on the way may have written it, after the call."""
    api = site.client(token(), secure=True, server_key=key)
    site.proxy.faults += [("raystream/rpc", REFUSAL)] * 9
    with pytest.raises(UnsealedAnswerError, match="status 401") as caught:
        await api.create_task("x")
    assert (caught.value.status, caught.value.maybe_applied) == (401, True)
    assert site.proxy.targets() == ["POST /raystream/handshake", "POST /raystream/rpc"] * 2


async def test_a_refusal_that_somebody_made_up_applies_nothing_twice(site, key):
    """Even for a client that was told to try once only."""
    api = site.client(token(), secure=True, server_key=key, retries=Retries.none())
    await api.open_account("a", 10)
    await api.open_account("b")
    site.proxy.faults.append(("raystream/rpc", Instead(lambda _: REFUSAL)))
    assert await api.transfer("a", "b", 3) == {"a": 7, "b": 3}
    assert await api.balance("a") == 7


async def test_what_follows_a_refusal_may_have_been_applied(site, key):
    """Somebody who makes up a refusal and then hangs up must not make a client believe that nothing was written."""
    api = site.client(token(), secure=True, server_key=key, retries=Retries.none())
    await api.open_account("a", 10)
    site.proxy.faults += [("raystream/rpc", Instead(lambda _: REFUSAL)), ("handshake", Response(503, b""))]
    with pytest.raises(UnsealedAnswerError) as caught:
        await api.open_account("b", 10)
    assert caught.value.maybe_applied is True


async def test_a_session_is_replaced_when_its_time_is_over(site, key):
    """By the client's own clock, before the server has to refuse it."""
    clock = ManualClock(SystemClock().now())
    api = site.client(token(seconds=36_000), secure=True, server_key=key, clock=clock)
    seen = []
    for minutes in (0, 59, 61):
        clock.time += minutes * 60_000 - site.api.platform.clock.later
        site.api.platform.clock.later = minutes * 60_000
        del site.proxy.seen[:]
        await api.list_tasks()
        seen.append(site.proxy.targets())
    anew, as_before = ["POST /raystream/handshake", "POST /raystream/rpc"], ["POST /raystream/rpc"]
    assert seen == [anew, as_before, anew]


async def test_a_session_without_numbers_is_replaced(site, key):
    """No number is used twice, even after four thousand million calls."""
    api = site.client(token(), secure=True, server_key=key)
    await api.list_tasks()
    api._transport._line.session._last = MAX_SEQUENCE - 1
    await api.list_tasks()
    await api.list_tasks()
    assert [number for _, number in sequences(site)] == [1, MAX_SEQUENCE, 1]


# --- faults on the way ------------------------------------------------------------------------------------------------


def flipped(at: int):
    """One bit of the answer is changed."""

    def of(response: Response) -> Response:
        body = bytearray(response.body)
        body[at] ^= 1
        return Response(response.status, bytes(body), response.headers)

    return Instead(of)


@pytest.mark.parametrize(
    "fault",
    [Fault.LOSE, Fault.REFUSE, Response(502, b""), Response(200, b"<html>"), flipped(0), flipped(20), flipped(-1)],
)
async def test_a_write_whose_answer_is_lost_or_changed_is_applied_once(site, key, fault):
    """Each attempt has a number of its own; the key inside is the same."""
    api = site.client(token(), secure=True, server_key=key)
    await api.open_account("a", 10)
    await api.open_account("b")
    site.proxy.faults += [("raystream/rpc", fault)] * 2
    assert await api.transfer("a", "b", 3) == {"a": 7, "b": 3}
    assert await api.balance("a") == 7
    numbers = [number for _, number in sequences(site)]
    assert len(set(numbers)) == len(numbers) == 6


async def test_an_answer_in_clear_is_nobodys_word(site, key):
    """A proxy cannot say that there is no such row."""
    api = site.client(token(), secure=True, server_key=key)
    answer = Response(404, b'{"error":"NOT_FOUND","message":"no such row"}', {"Content-Type": "application/json"})
    site.proxy.faults.append(("raystream/rpc", answer))
    with pytest.raises(UnsealedAnswerError, match="is not encrypted; it has status 404") as caught:
        await api.balance("a")
    assert not isinstance(caught.value, HttpError)


@pytest.mark.parametrize("fault", [Fault.LOSE, Response(503, b""), flipped(20)])
async def test_a_handshake_without_an_answer_is_repeated(site, key, fault):
    """And says nothing about the call."""
    site.proxy.faults.append(("handshake", fault))
    assert await site.client(token(), secure=True, server_key=key).list_tasks() == []
    site.proxy.faults.append(("handshake", fault))
    with pytest.raises((ConnectionFailedError, UnsealedAnswerError)) as caught:
        await site.client(token(), secure=True, server_key=key, retries=Retries.none()).create_task("x")
    assert caught.value.maybe_applied is False


async def test_arguments_that_are_too_large(site, key):
    """The gateway could only answer in clear, so the client says it."""
    api = site.client(token(), secure=True, server_key=key)
    with pytest.raises(PayloadTooLargeError):
        await api.create_task("x" * limits.BODY_BYTES)
    assert site.proxy.seen == []


async def test_a_token_that_the_gateway_does_not_know(site, key):
    """The answer to the handshake says why, sealed."""
    with pytest.raises(UnauthorizedError, match="not valid") as caught:
        await site.client("nonsense", secure=True, server_key=key).list_tasks()
    assert caught.value.request_id == site.api.log[-1]["request_id"]
    assert site.proxy.targets() == ["POST /raystream/handshake"]
