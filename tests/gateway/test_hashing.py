"""A flood of logins: one hash after the other, a short line, and everybody else comes back later."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import pytest_asyncio

from kontract.core import limits
from kontract.core.errors import UnavailableError
from kontract.gateway.hashing import POLL_MS, HashLine
from support.api import check_error
from support.auth import Auth, Clock, credentials
from support.cheap import CheapCrypto

pytestmark = pytest.mark.asyncio(loop_scope="module")


class SlowCrypto(CheapCrypto):
    """Hashes that take as long as the test wants. ``most``: how many were made at the same time."""

    hashes_at_once = 1

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.running = self.most = 0

    async def scrypt(self, *args) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.go_on.wait()
        self.running -= 1
        return await super().scrypt(*args)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def auth(make) -> Auth:
    return Auth(make(), CheapCrypto())


@pytest.fixture
def slow(auth) -> SlowCrypto:
    auth.api.platform.clock = Clock()
    auth.api.platform.crypto = SlowCrypto()
    return auth.api.platform.crypto


async def until(condition) -> None:
    """At most 20 s."""
    async with asyncio.timeout(20):
        await _until(condition)


async def _until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("way", ["login", "register", "link"])
async def test_beyond_a_short_line_the_answer_is_at_once(auth, make, slow, way, at_once):
    """503, a second, and nothing counted or hashed; those in the line are answered, and others are served meanwhile."""
    slow.hashes_at_once = at_once
    here = Auth(make(platform=auth.api.platform), auth.crypto)
    bearers = [(await here.ok("anonymous"))["token"] if way == "link" else None for _ in range(40)]
    asking = [
        asyncio.ensure_future(here.post(way, credentials(f"{way}-{at_once}-{n}"), bearer, client=f"192.0.2.{n}"))
        for n, bearer in enumerate(bearers)
    ]
    room = at_once * (1 + limits.HASHES_WAITING)
    await until(lambda: slow.running == at_once and sum(done.done() for done in asking) == 40 - room)
    for response in (done.result() for done in asking if done.done()):
        body = check_error(response, 503, "BUSY")
        assert body["message"] == "too many logins at the moment; try again in a second"
        assert response.headers["Retry-After"] == "1"
    counted = here.api.platform._shared["__system"]._counters._rows.counters
    for n, done in enumerate(asking):
        if done.done():
            assert not [key for key in counted if key.endswith(f"/192.0.2.{n}") and way in key]
    assert (await here.api.send("GET", "/health")).status == 200
    await here.ok("anonymous")
    slow.go_on.set()
    answers = [await done for done in asking]
    good = {"login": 401, "register": 201, "link": 200}[way]
    assert [answer.status for answer in answers].count(good) == room
    assert slow.most == at_once
    assert json.loads((await here.post(way, credentials(f"{way}-{at_once}-x"), bearers[-1])).body)


async def test_whoever_fails_leaves_the_line(auth, make, slow):
    """A throttled login, a taken name, a caller who hangs up while waiting and one who hangs up while it is hashed."""
    here = Auth(make(platform=auth.api.platform), auth.crypto)
    line = here.api.gateway._deploy(here.api.platform).hashing
    first, second = [asyncio.ensure_future(here.post("login", credentials("nobody"))) for _ in range(2)]
    await until(lambda: slow.running == 1 and [place.waits for place in line.places].count(True) == 1)
    for one in (second, first):
        one.cancel()
        await asyncio.wait([one])
    assert line.places == []
    slow.go_on.set()
    for _ in range(limits.LOGINS_PER_PAIR + 1):
        await here.post("login", credentials("nobody-2"), client="192.0.2.99")
    assert line.places == []


def platform(clock: Clock, at_once: int = 1, rest: int = 0) -> SimpleNamespace:
    return SimpleNamespace(clock=clock, crypto=SimpleNamespace(hashes_at_once=at_once, hash_rest_ms=rest))


async def test_it_is_the_turn_of_who_came_first_and_is_ready():
    """Somebody who is still asking the database does not hold up those behind."""
    line, there, order = HashLine(), platform(Clock()), []

    async def work(name: str) -> None:
        order.append(name)
        await asyncio.sleep(POLL_MS / 1000 * 2)

    async def caller(name: str, asks_for: float) -> None:
        async with line.enter(there) as place:
            await asyncio.sleep(asks_for)
            await place.hash(lambda: work(name))

    await asyncio.gather(caller("asks long", 0.5), caller("second", 0), caller("third", 0), caller("fourth", 0))
    assert order == ["second", "third", "fourth", "asks long"]


async def test_a_request_that_was_dropped_without_a_word_leaves_the_line():
    """As Workers do it: nothing of it runs any more, not even its end. Those who wait are there, however long."""
    clock = Clock()
    line, there = HashLine(), platform(clock)
    lost = line.enter(there)
    lost.runs = True
    waiting = [line.enter(there) for _ in range(limits.HASHES_WAITING)]
    with pytest.raises(UnavailableError):
        line.enter(there)
    turns = [asyncio.ensure_future(place.hash(lambda: asyncio.sleep(0))) for place in waiting]
    await asyncio.sleep(POLL_MS / 1000 * 3)
    assert not any(turn.done() for turn in turns)
    clock.later_ms += limits.HASH_LOST_MS - 5_000
    await asyncio.sleep(POLL_MS / 1000 * 3)
    assert not any(turn.done() for turn in turns)
    clock.later_ms += 5_001
    await asyncio.gather(*turns)
    line.enter(there)


class Sleeps(Clock):
    """Time that passes when somebody sleeps, and no other way."""

    def __init__(self) -> None:
        self.time = 0.0

    def elapsed(self) -> float:
        return self.time

    async def sleep(self, milliseconds: float) -> None:
        wakes = self.time + milliseconds
        await asyncio.sleep(0)
        self.time = max(self.time, wakes)


async def test_where_a_hash_stops_everybody_there_is_a_rest_between_two():
    """Nobody's first login waits, and a single one after a while does not."""
    clock = Sleeps()
    line, there = HashLine(), platform(clock, rest=250)
    began: list[float] = []

    async def work() -> None:
        began.append(clock.time)
        clock.time += 300

    async def login() -> None:
        async with line.enter(there) as place:
            await place.hash(work)

    await login()
    assert began == [0]
    await asyncio.gather(*(login() for _ in range(3)))
    assert all(after - before >= 300 + 250 for before, after in pairwise(began)), began
    clock.time += 5_000
    alone = clock.time
    await login()
    assert began[-1] == alone
