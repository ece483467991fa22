"""``ctx.shared`` in the real Durable Object: over requests, over its restart, and for each owner its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support import apps
from support.postgres import Postgres
from support.scratch import product_checkout
from support.sessions import bearer_for
from support.worker import running_worker

ROOM = 40
"""Values that an owner may have here."""


@pytest.fixture(scope="module")
def server(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevServer]:
    setup.prepare(checkout)
    folder = tmp_path_factory.mktemp("shared")
    app = Path(apps.__path__[0]) / "sharing.py"
    rooms = {"SHARED_KEYS": ROOM, "SHARED_COUNTERS": ROOM}
    copy = product_checkout(checkout, folder / "checkout", modules=[app], limits=rooms)
    with running_worker(copy, postgres.create_database(), folder, reaper) as running:
        yield running


class Caller:
    """Calls functions for one owner."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.http = http
        self.headers = headers

    async def post(self, function: str, *args: Any) -> httpx.Response:
        return await self.http.post(f"/rpc/{function}", json=list(args), headers=self.headers)

    async def __call__(self, function: str, *args: Any) -> Any:
        response = await self.post(function, *args)
        assert response.status_code == 200, response.text
        return response.json()["result"]


@pytest.fixture
async def http(server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def call(server, http) -> Caller:
    return Caller(http, bearer_for(server))


async def until(condition: Any) -> None:
    """Ask again until it is so."""
    ends = time.monotonic() + 60
    while not await condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.05)


async def test_values_with_and_without_an_end(call):
    """What has no end has none, although SQLite says NULL and JavaScript null; what has one, ends."""
    for value in ("text", 0, 2**53, -1.5, True, [1, {"a": None}], {}, "ä😀\n"):
        await call("shared_set", "k", value)
        assert await call("shared_get", "k") == value
    await call("shared_set", "short", "here", 0.3)
    await call("shared_set", "long", "here", 3600)

    async def gone() -> bool:
        return await call("shared_get", "short") is None

    await until(gone)
    assert (await call("shared_get", "k"), await call("shared_get", "long")) == ("ä😀\n", "here")
    await call("shared_set", "long", "for ever")
    assert await call("shared_get", "long") == "for ever"
    assert [await call("shared_delete", key) for key in ("k", "short", "long", "never")] == [True, False, True, False]
    assert await call("shared_get", "k") is None


async def test_counting_at_once_and_within_a_time(server, http, call):
    """Forty at the same time are forty; a window is that of its first event."""
    assert sorted(await asyncio.gather(*[call("shared_incr", "hot") for _ in range(40)])) == list(range(1, 41))
    assert await call("shared_incr", "hot", -40) == 0
    first, left = await call("shared_count", "window", 100)
    second, less = await call("shared_count", "window", 1000)
    assert (first, second) == (1, 2)
    assert less <= left <= 100
    response = await call.post("shared_incr", "hot", 1.5)
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    await call("shared_set", "word", "text")
    response = await call.post("shared_incr", "word")
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    await call("shared_delete", "word")


async def test_owners_have_their_own_and_there_is_room_for_so_many(server, http):
    """At the limit one more is refused; another owner has room."""
    full, other = (Caller(http, bearer_for(server, owner=owner)) for owner in ("full", "other"))
    await asyncio.gather(*[full("shared_set", f"k{n}", n) for n in range(ROOM)])
    response = await full.post("shared_set", "more", 1)
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    assert f"there are already {ROOM} shared values" in response.json()["message"]
    assert await full("shared_incr", "k1") == 2
    assert await full("shared_delete", "k2") is True
    assert await full("shared_incr", "more") == 1
    assert await other("shared_get", "k1") is None
    await other("shared_set", "k1", "mine")
    assert (await other("shared_get", "k1"), await full("shared_get", "k1")) == ("mine", 2)


async def test_a_full_room_of_counters_refuses_nobody(server, http):
    """Three times as many keys as there is room for: each is counted, and the one near its limit stays."""
    flooded = Caller(http, bearer_for(server, owner="flooded"))
    for number in range(1, 6):
        assert (await flooded("shared_count", "high", 3600))[0] == number
    await flooded("shared_set", "a value", 1)
    for n in range(3 * ROOM):
        assert (await flooded("shared_count", f"flood-{n}", 3600))[0] == 1
    assert (await flooded("shared_count", "high", 3600))[0] == 6
    assert (await flooded("shared_count", "flood-0", 3600))[0] == 1, "forgotten"
    assert await flooded("shared_get", "a value") == 1


async def test_they_survive_the_end_of_the_process(server, call):
    """workerd is killed; values, counters and the room they take are there when it is back."""
    await call("shared_set", "kept", {"a": 1})
    await call("shared_set", "kept for an hour", 1, 3600)
    assert await call("shared_incr", "counted", 5) == 5
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    assert await call("shared_get", "kept") == {"a": 1}
    assert await call("shared_get", "kept for an hour") == 1
    assert await call("shared_incr", "counted") == 6
    flooded = Caller(call.http, bearer_for(server, owner="flooded"))
    assert (await flooded("shared_count", "high", 3600))[0] == 7
    full = Caller(call.http, bearer_for(server, owner="full"))
    assert (await full.post("shared_set", "one more", 1)).status_code == 400
