"""``api.stream``: whole transactions, once and in order, through connections that break anywhere."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from kontract.client import Client, Tokens
from kontract.core.errors import InvalidRequestError, UnauthorizedError
from kontract.gateway.http import Response
from kontract.server.system import SystemClock
from support.api import apis
from support.loopback import handler_of, serving
from support.sessions import token


@pytest.fixture
async def api(postgres):
    async with apis(postgres) as make:
        yield make()


class Flaky:
    """The gateway, whose streams break after a number of bytes."""

    def __init__(self, api, dice: random.Random) -> None:
        self._handle = handler_of(api)
        self._dice = dice
        self.streams = 0
        self.breaks = True

    async def __call__(self, received):
        response = await self._handle(received)
        if response.stream is None:
            return response
        self.streams += 1
        stream, left = response.stream, self._dice.choice((0, 90, 300, 800))

        async def broken(outlet):
            inner = Limited(outlet, left)
            await stream(inner)

        return Response(200, headers=response.headers, stream=broken if self.breaks else stream)


class Limited:
    """Passes so many bytes on, and then hangs up."""

    separate = False

    def __init__(self, outlet, left: int) -> None:
        self._outlet, self._left = outlet, left

    async def write(self, data: bytes) -> None:
        passed, self._left = data[: self._left], self._left - len(data)
        await self._outlet.write(passed)
        if self._left <= 0:
            await self._outlet.close()
            raise asyncio.CancelledError

    async def close(self) -> None:
        await self._outlet.close()


class Eager(SystemClock):
    """Time without pauses."""

    async def sleep(self, _milliseconds: float) -> None:
        await asyncio.sleep(0)


async def test_every_event_comes_once_whatever_breaks(api):
    """Two accounts change with each transfer: both of a transaction, or neither yet."""
    flaky = Flaky(api, random.Random(3))
    async with serving(flaky) as url, Client(url, token=token(), clock=Eager()) as client:
        for name in ("a", "b"):
            await client.open_account(name, 1000)
        stream = client.stream("accounts")
        events = []

        async def read() -> None:
            async for event in stream:
                events.append(event)
                if event.id == "end":
                    return

        reading = asyncio.ensure_future(read())
        while not stream.position:
            await asyncio.sleep(0.01)
        for n in range(60):
            await client.transfer(*(("a", "b") if n % 2 else ("b", "a")), 1)
        flaky.breaks = False
        await client.open_account("end")
        async with asyncio.timeout(60):
            await reading
    assert flaky.streams > 10, "nothing broke"
    moved = [event for event in events if event.type == "update"]
    assert len(moved) == 120
    for first, second in zip(moved[::2], moved[1::2], strict=True):
        assert (first.txid, first.position) == (second.txid, second.position)
        assert {first.id, second.id} == {"a", "b"}
        assert first.data["balance"] + second.data["balance"] == 2000
    assert [event.txid for event in moved] == sorted(event.txid for event in moved)


async def test_it_goes_on_after_a_position_and_says_when_that_is_gone(api):
    """``since`` of another log is a reset, then the present."""
    async with serving(handler_of(api)) as url, Client(url, token=token()) as client:
        await client.open_account("a")
        async with aclosing(aiter(client.stream("accounts", since="g0-1"))) as events:
            assert (await anext(events)).type == "reset"
            await client.open_account("b")
            event = await anext(events)
            assert (event.type, event.id, event.data) == ("insert", "b", {"id": "b", "balance": 0})
        await client.open_account("c")
        async with aclosing(aiter(client.stream("accounts", since=event.position))) as events:
            assert (await anext(events)).id == "c"
        await client.open_account("d")
        async with aclosing(aiter(client.stream("accounts", since=event.position, ids=["d"]))) as events:
            assert (await anext(events)).id == "d"


async def test_denied_tables_are_named(api):
    async with serving(handler_of(api)) as url, Client(url, token=token()) as client:
        stream = client.stream("accounts", "nothing")
        async with aclosing(aiter(stream)) as events:
            pending = asyncio.ensure_future(anext(events))
            while not stream.position:
                await asyncio.sleep(0.01)
            assert stream.denied == ["nothing"]
            await client.open_account("x")
            assert (await pending).id == "x"


async def test_what_another_attempt_would_not_change_is_raised(api):
    """Without a token, and with a question that says nothing."""
    async with serving(handler_of(api)) as url:
        async with Client(url) as stranger:
            with pytest.raises(UnauthorizedError):
                await anext(aiter(stranger.stream("accounts")))
        async with Client(url, token=token()) as client:
            with pytest.raises(InvalidRequestError):
                await anext(aiter(client.stream("")))
            with pytest.raises(TypeError, match="at least one table"):
                client.stream()


async def test_a_token_that_has_ended_is_refreshed_and_the_stream_goes_on(api):
    """The server ends a stream with its token; the client comes back with the next one, where it was."""
    async with serving(handler_of(api)) as url, await Client.anonymous(url, clock=Eager()) as client:
        granted = client.tokens
        client._session.tokens = Tokens(
            token(user=granted.user, seconds=1), granted.refresh_token, 0, granted.owner, granted.user
        )
        async with aclosing(aiter(client.stream("accounts"))) as events:
            pending = asyncio.ensure_future(anext(events))
            while client.tokens.refresh_token == granted.refresh_token:
                await asyncio.sleep(0.05)
            await client.open_account("later")
            async with asyncio.timeout(20):
                assert (await pending).id == "later"
