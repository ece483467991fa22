"""Ten thousand hostile requests: each is answered, in the same form, and none of them is an error of ours."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import pytest_asyncio

from kontract.core import limits
from kontract.gateway.http import Request, Response
from support.api import Api, apis
from support.apps import odd, sharing
from support.auth import Clock
from support.cheap import CheapCrypto
from support.hostile import CALLS, Sent, hostile
from support.sessions import token

pytestmark = pytest.mark.asyncio(loop_scope="module")

FUNCTIONS = [odd.echo, odd.put, odd.put_odd, odd.change, odd.find, odd.ask, odd.past]
FUNCTIONS += [sharing.shared_get, sharing.shared_set, sharing.shared_delete, sharing.shared_incr]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(postgres, ddl):
    async with apis(postgres, FUNCTIONS, [odd.Odd]) as make:
        api = make()
        await api.sql.execute(ddl["versioned"].format(ptr="tbl_odds"))
        await api.sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('odds', 'tbl_odds', 'tenant-1')")
        database = api.platform.open_database()  # one connection for all: they come one after the other
        api.platform.open_database = lambda: database
        aclose, database.aclose = database.aclose, nothing
        api.platform.crypto = CheapCrypto()
        api.platform.clock = Clock()
        yield api
        await aclose()


async def nothing() -> None:
    """Close nothing."""


async def send(api: Api, sent: Sent, good: str) -> Response:
    async def body(at_most: int) -> bytes:
        return sent.body[: at_most + 1]

    headers = dict(sent.headers)
    if sent.path.startswith("/auth/"):
        good = token(anonymous=True)  # whose session may end
    if sent.token != "none":
        headers["authorization"] = f"Bearer {good}" if sent.token == "good" else sent.token
    path, _, query = sent.path.partition("?")
    return await api.gateway.handle(Request(sent.method, path, headers, body, query), api.platform)


def complaints(response: Response, log: dict) -> list[str]:
    """What is wrong with an answer."""
    wrong = []
    if response.status >= 500 or log["level"] == "error" or "exception" in log:
        wrong.append(f"an error of ours: {response.status} {log.get('reason')} {log.get('exception')}")
    if response.headers["X-Request-Id"] != log["request_id"]:
        wrong.append("another id in the log than in the answer")
    for name, value in response.headers.items():
        if not all(" " <= letter <= "~" for letter in name + value):
            wrong.append(f"the header {name} is {value!r}")
    if "Traceback" in response.body.decode():
        wrong.append("a traceback")
    if response.status >= 400:
        said = json.loads(response.body)
        if not {"error", "message", "request_id"} <= set(said) <= {"error", "message", "request_id", "details"}:
            wrong.append(f"an error without its form: {response.body!r:.200}")
        if said["request_id"] != response.headers["X-Request-Id"]:
            wrong.append("another id in the body than in the header")
        if len(response.body) > 3000:
            wrong.append(f"a long answer to a wrong question: {len(response.body)} bytes")
        if len(json.dumps(log)) > 5000:
            wrong.append("a long line of the log")
    return wrong


@pytest.mark.parametrize("seed", range(10))
async def test_a_thousand_hostile_requests(api, monkeypatch, seed):
    """No 5xx, no traceback, no line of ours that they wrote, and the form of an answer is kept."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 10_000)
    good, statuses = token(user=f"hostile-{seed}"), Counter()
    for number, sent in enumerate(hostile(seed, 1000)):
        api.log.clear()
        response = await send(api, sent, good)
        lines = [line for line in api.log if line["event"] == "request"]
        assert len(lines) == 1
        wrong = complaints(response, lines[0])
        assert wrong == [], f"seed {seed}, request {number}: {sent!r:.1500}"[:3000]
        statuses[response.status] += 1
    print(seed, dict(sorted(statuses.items())))
    # They must get everywhere: to answers, to refusals of each kind, and past the door.
    assert {200, 400, 401, 404, 405} <= set(statuses)
    assert statuses[200] > 50
    alive = await send(api, Sent("POST", "/rpc/echo", b"[1]"), good)
    assert json.loads(alive.body) == {"result": 1}


async def test_the_requests_reach_every_function(api):
    """Most of them with arguments that it takes: otherwise they would prove nothing about what is behind."""
    good, reached = token(user="reaching"), Counter()
    for sent in hostile(99, 1500):
        response = await send(api, sent, good)
        if response.status in (200, 404, 409) and sent.path.startswith("/rpc/"):
            reached[sent.path.removeprefix("/rpc/")] += 1
    assert {name for name in CALLS if reached[name] < 3} == set()
