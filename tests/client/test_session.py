"""Sessions: how a client gets one, how it stays, and how it ends, over a real gateway and a real database."""

from __future__ import annotations

import asyncio

import pytest

from kontract import ConflictError, Context, HttpError, UnauthorizedError, UnavailableError, backend, perms
from kontract.client import Client, ConnectionFailedError, InvalidAnswerError, Retries, Tokens
from kontract.gateway.http import Response
from kontract.server.system import SystemClock
from support.loopback import Fault
from support.scripted import LoadedDice, ManualClock
from support.sessions import token

PASSWORD = "correct horse battery"
HOUR = 3_600_000


class Shifted(SystemClock):
    """The gateway's clock, some time later."""

    def __init__(self) -> None:
        self.later = 0

    def now(self) -> int:
        return super().now() + self.later


@backend(public=True, perm=perms.R__)
async def whoami(ctx: Context) -> list:
    return [ctx.user, ctx.is_anonymous]


@pytest.fixture
async def site(make_site):
    site = await make_site([whoami])
    site.api.platform.clock = Shifted()
    return site


class Kept:
    """What ``on_tokens`` was told."""

    def __init__(self) -> None:
        self.all: list[Tokens | None] = []

    async def __call__(self, tokens: Tokens | None) -> None:
        await asyncio.sleep(0)
        self.all.append(tokens)


async def anonymous(site, **options) -> Client:
    return site.opened(await Client.anonymous(site.url, **site.with_http(options)))


def refreshes(site) -> int:
    return site.proxy.targets().count("POST /auth/refresh")


# --- getting one ------------------------------------------------------------------------------------------------------


async def test_an_anonymous_session(site):
    """One line, and calls are somebody's."""
    kept = Kept()
    async with await Client.anonymous(site.url, on_tokens=kept, **site.with_http()) as api:
        task = await api.create_task("x")
        me = await api.me()
        assert (me.anonymous, me.user, me.owner) == (True, task["created_by"], "tenant-1")
        assert (api.tokens.user, api.tokens.owner) == (me.user, me.owner)
        assert kept.all == [api.tokens]
        assert 3_590_000 < api.tokens.expires_at - SystemClock().now() <= HOUR


async def test_an_account_and_its_sessions(site):
    """Register, log in, and be the same user."""
    api = site.opened(await Client.register(site.url, "Ann@example.com", PASSWORD, **site.with_http()))
    me = await api.me()
    assert me.anonymous is False
    again = site.opened(await Client.login(site.url, "ann@example.com", PASSWORD, **site.with_http()))
    assert (await again.me()).user == me.user
    assert (await again.me()).sid != me.sid
    with pytest.raises(ConflictError, match="taken"):
        await Client.register(site.url, "ann@example.com", PASSWORD, **site.with_http())
    with pytest.raises(UnauthorizedError, match="name or the password"):
        await Client.login(site.url, "ann@example.com", "wrong password", **site.with_http())


async def test_linking_keeps_the_user(site):
    """An anonymous user that gets an account goes on in the same client."""
    kept = Kept()
    api = await anonymous(site, on_tokens=kept)
    before = await api.me()
    await api.link("bob", PASSWORD)
    after = await api.me()
    assert (after.user, after.anonymous) == (before.user, False)
    assert [one.token for one in kept.all] == [kept.all[0].token, api.tokens.token]
    with pytest.raises(HttpError, match="already has an account"):
        await api.link("bobby", PASSWORD)


async def test_logging_out(site):
    """The session is over on every node, and the client has no token any more."""
    kept = Kept()
    api = await anonymous(site, on_tokens=kept)
    old = api.tokens
    await api.logout()
    assert api.tokens is None
    assert kept.all[-1] is None
    assert await api.whoami() == ["public", True]
    with pytest.raises(UnauthorizedError):
        await site.client(old.token).list_tasks()


async def test_a_session_goes_on_in_another_client(site):
    """With what ``on_tokens`` kept."""
    api = await anonymous(site)
    site.api.platform.clock.later = 2 * HOUR
    other = site.client(api.tokens)
    await other.create_task("later")
    assert other.tokens.user == api.tokens.user
    assert other.tokens.token != api.tokens.token


async def test_a_plain_function_may_keep_the_tokens(site):
    """``on_tokens`` need not be async."""
    kept = []
    await anonymous(site, on_tokens=kept.append)
    assert len(kept) == 1


# --- staying ----------------------------------------------------------------------------------------------------------


async def test_a_token_about_to_expire_is_refreshed_first(site):
    """A call should not set out with a token that may end on the way."""
    clock = ManualClock(SystemClock().now())
    kept = Kept()
    api = await anonymous(site, clock=clock, random=LoadedDice(0.01), on_tokens=kept)
    clock.time += HOUR - 61_000
    await api.list_tasks()
    assert refreshes(site) == 0
    clock.time += 2_000
    await api.list_tasks()
    await api.list_tasks()
    assert refreshes(site) == 1
    assert site.proxy.targets()[-3:] == ["POST /auth/refresh", "POST /rpc/list_tasks", "POST /rpc/list_tasks"]
    assert kept.all == [kept.all[0], api.tokens]
    assert api.tokens.expires_at == clock.now() + HOUR


async def test_a_refused_token_is_refreshed_and_the_call_repeated(site):
    """The client's clock may be wrong; the gateway's counts."""
    api = await anonymous(site)
    site.api.platform.clock.later = 2 * HOUR
    assert (await api.create_task("x"))["title"] == "x"
    assert site.proxy.targets()[1:] == ["POST /rpc/create_task", "POST /auth/refresh", "POST /rpc/create_task"]
    calls = [one for one in site.proxy.seen if "create_task" in one.target]
    assert calls[0].headers["idempotency-key"] == calls[1].headers["idempotency-key"]


async def test_calls_at_once_refresh_once(site):
    """Refresh tokens are for one use: a second one would look like a theft."""
    kept = Kept()
    api = await anonymous(site, on_tokens=kept)
    for hours in (2, 4):
        site.api.platform.clock.later = hours * HOUR
        await asyncio.gather(*[api.create_task(str(n)) for n in range(10)])
    assert refreshes(site) == 2
    assert len(kept.all) == 3
    assert len(await api.list_tasks()) == 20


async def test_me_refreshes_too(site):
    """Like every request that carries a token."""
    api = await anonymous(site)
    site.api.platform.clock.later = 2 * HOUR
    assert (await api.me()).user == api.tokens.user
    site.api.platform.clock.later = 4 * HOUR
    await api.link("carl", PASSWORD)
    site.api.platform.clock.later = 6 * HOUR
    await api.logout()
    assert refreshes(site) == 3


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.REFUSE, Response(503, b"")])
async def test_a_refresh_without_an_answer_is_repeated(site, fault):
    """The gateway takes the token before the newest for a minute, because answers are lost."""
    api = await anonymous(site)
    site.api.platform.clock.later = 2 * HOUR
    site.proxy.faults += [("refresh", fault), ("refresh", fault)]
    await api.create_task("x")
    assert refreshes(site) == 3
    await api.list_tasks()


async def test_a_refresh_that_fails_says_nothing_about_the_call(site):
    """The call was not sent, so it cannot have been applied."""
    kept = Kept()
    api = await anonymous(site, retries=Retries.none(), on_tokens=kept)
    clock = site.api.platform.clock
    clock.later = 2 * HOUR
    site.proxy.faults.append(("refresh", Fault.LOSE))
    with pytest.raises(ConnectionFailedError) as caught:
        await api.create_task("x")
    assert caught.value.maybe_applied is False
    assert len(kept.all) == 1
    assert await api.list_tasks() == []


async def test_a_caller_that_is_cancelled_does_not_lose_the_session(site):
    """The refresh goes on without it: its answer holds the only refresh token there will be."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Kept):
        async def __call__(self, tokens: Tokens | None) -> None:
            begun.set()
            await go_on.wait()
            await super().__call__(tokens)

    kept = Slow()
    first = await anonymous(site)
    site.api.platform.clock.later = 2 * HOUR
    api = site.client(first.tokens, on_tokens=kept)
    call = asyncio.create_task(api.create_task("x"))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    closing = asyncio.create_task(api.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    assert kept.all == [api.tokens]
    assert api.tokens.refresh_token != first.tokens.refresh_token


# --- its end ----------------------------------------------------------------------------------------------------------


async def test_a_session_that_was_ended_is_told_and_not_tried_for_ever(site):
    """One refresh; from then on every call is one request, and none of them is somebody else's."""
    kept = Kept()
    api = await anonymous(site, on_tokens=kept)
    await site.client(api.tokens.token).logout()
    del site.proxy.seen[:]
    for call in (api.create_task("x"), api.list_tasks(), api.whoami(), api.me()):
        with pytest.raises(UnauthorizedError, match="not valid"):
            await call
    assert site.proxy.targets() == [
        "POST /rpc/create_task",
        "POST /auth/refresh",
        "POST /rpc/list_tasks",
        "POST /rpc/whoami",
        "GET /auth/me",
    ]
    assert kept.all[1:] == [None]


async def test_calls_at_once_in_an_ended_session(site):
    """All are told, with one refresh between them."""
    api = await anonymous(site)
    await site.client(api.tokens.token).logout()
    results = await asyncio.gather(*[api.list_tasks() for _ in range(10)], return_exceptions=True)
    assert {type(result) for result in results} == {UnauthorizedError}
    assert len({id(result) for result in results}) == 10
    assert refreshes(site) == 1


async def test_a_gateway_that_refuses_what_it_has_just_given(site):
    """A misconfigured deployment must not make a client ask for ever."""
    api = await anonymous(site)
    refused = {"WWW-Authenticate": 'Bearer error="invalid_token"', "Content-Type": "application/json"}
    body = b'{"error":"UNAUTHORIZED","message":"the token is not valid","request_id":"r"}'
    site.proxy.faults += [("list_tasks", Response(401, body, dict(refused))) for _ in range(9)]
    with pytest.raises(UnauthorizedError):
        await api.list_tasks()
    assert site.proxy.targets()[1:] == ["POST /rpc/list_tasks", "POST /auth/refresh", "POST /rpc/list_tasks"]


async def test_a_token_alone_cannot_be_refreshed(site):
    """The caller is told after one request."""
    with pytest.raises(UnauthorizedError):
        await site.client(token(seconds=-1)).list_tasks()
    with pytest.raises(UnauthorizedError):
        await site.client("nonsense").list_tasks()
    assert len(site.proxy.seen) == 2


async def test_what_the_keeper_raises_reaches_the_caller(site):
    """Tokens that could not be kept are a problem of today, and in use all the same."""

    def full(_: Tokens | None) -> None:
        raise OSError("disk full")

    first = await anonymous(site)
    site.api.platform.clock.later = 2 * HOUR
    api = site.client(first.tokens, on_tokens=full)
    with pytest.raises(OSError, match="disk full"):
        await api.list_tasks()
    assert await api.list_tasks() == []
    assert refreshes(site) == 1


# --- what cannot be repeated -----------------------------------------------------------------------------------------


async def test_registering_is_not_repeated_when_its_answer_is_lost(site):
    """The name would be taken: by itself."""
    site.proxy.faults.append(("register", Fault.LOSE))
    with pytest.raises(ConnectionFailedError) as caught:
        await Client.register(site.url, "dora", PASSWORD, **site.with_http())
    assert caught.value.maybe_applied
    assert site.proxy.targets() == ["POST /auth/register"]
    site.opened(await Client.login(site.url, "dora", PASSWORD, **site.with_http()))


async def test_linking_is_not_repeated_when_its_answer_is_lost(site):
    """The session that a second request would bring has been ended by the first."""
    api = await anonymous(site)
    site.proxy.faults.append(("link", Fault.LOSE))
    with pytest.raises(ConnectionFailedError) as caught:
        await api.link("frieda", PASSWORD)
    assert caught.value.maybe_applied
    assert site.proxy.targets()[1:] == ["POST /auth/link"]
    again = site.opened(await Client.login(site.url, "frieda", PASSWORD, **site.with_http()))
    assert again.tokens.user == api.tokens.user


async def test_registering_is_repeated_when_it_was_refused(site):
    """A 503 of the gateway means that nothing was done."""
    busy = Response(503, b'{"error":"UNAVAILABLE","message":"later"}', {"Content-Type": "application/json"})
    site.proxy.faults.append(("register", busy))
    site.opened(await Client.register(site.url, "emil", PASSWORD, **site.with_http()))
    assert len(site.proxy.seen) == 2


async def test_a_client_that_got_no_session_is_closed(site):
    """Nobody else could close its connections."""
    made = []

    class Watched(Client):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            made.append(self)

    with pytest.raises(ConnectionFailedError):
        await Watched.login("http://127.0.0.1:1", "a", "b", retries=Retries.none())
    assert made[0]._wire._http.is_closed


async def test_an_answer_that_is_no_session(site):
    """A web server that says 200 to everything is no gateway."""
    site.proxy.faults.append(("anonymous", Response(200, b"<html>")))
    with pytest.raises(InvalidAnswerError, match="not the answer of a Kontract gateway"):
        await anonymous(site)


async def test_who_may_not_sign_up_is_told(make_site):
    """The gateway's words."""
    site = await make_site([whoami])
    site.api.platform.environment = {"KONTRACT_SECRET": "nonsense"}
    with pytest.raises(UnavailableError, match="not configured"):
        await anonymous(site, retries=Retries.none())
