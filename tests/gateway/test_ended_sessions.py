"""Refused means that nothing ran: what a session that was ended can still do, where, and for how long.

Two gateways over one coordinator play two nodes: each knows of sessions what it has asked itself.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio

from kontract import Context, backend, middleware, perms
from kontract.core import limits
from kontract.core.messages import CheckSession, EndSession, Request, SessionAlive, SessionEnded
from kontract.gateway.coordinator import RequestCoordinator
from kontract.gateway.liveness import LiveSessions
from kontract.gateway.meter import Meter
from support.api import apis, check_error
from support.auth import Auth, Clock, Note, answered_outside
from support.cheap import CheapCrypto
from support.sessions import OWNER, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

ran: list[str] = []


@backend()
async def answers(ctx: Context) -> str:
    ran.append("answers")
    ctx.after_commit(lambda: ran.append("after the commit"))
    ctx.wait_until(_later())
    return "an answer"


async def _later() -> None:
    ran.append("later")


@backend()
async def shares(ctx: Context) -> int:
    ran.append("shares")
    return await ctx.shared.incr("ended/count")


@backend()
async def raises(ctx: Context) -> None:
    ran.append("raises")
    raise ValueError


@backend(perm=perms.R__)
async def reads(ctx: Context) -> int:
    ran.append("reads")
    return len([note async for note in ctx.storage.notes])


@backend()
async def writes_blindly(ctx: Context, name: str) -> None:
    ran.append("writes blindly")
    await ctx.storage.tasks.set(name, {"title": "x"})


@backend()
async def within(ctx: Context) -> str:
    ran.append("within")
    return "an answer"


@middleware(endpoints=["within"])
async def around(ctx: Context, call_next: Any) -> Any:
    ran.append("around")
    await ctx.shared.incr("ended/count")
    return await call_next()


@middleware(endpoints=["answered_outside"])
async def notes_and_answers(ctx: Context, call_next: Any) -> str:
    ran.append("answered outside")
    return "from outside"


FUNCTIONS = [answers, shares, raises, reads, writes_blindly, within, answered_outside]
WITHOUT_TABLES = ["answers", "shares", "raises", "within", "answered_outside"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def make(postgres, ddl):
    async with apis(
        postgres, FUNCTIONS, [Note], within=(around,), answered_outside=(notes_and_answers,)
    ) as make:  # fmt: skip
        first = make()
        await first.sql.execute(ddl["versioned"].format(ptr="tbl_notes"))
        await first.sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('notes', 'tbl_notes', $1)", OWNER)
        yield make


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(make) -> tuple[Auth, Auth]:
    one = Auth(make(), CheapCrypto())
    one.api.platform.crypto = one.crypto
    return one, Auth(make(platform=one.api.platform), one.crypto)


@pytest.fixture
def here(nodes) -> Auth:
    nodes[0].api.platform.clock = Clock()
    ran.clear()
    return nodes[0]


@pytest.fixture
def there(nodes, here) -> Auth:
    return nodes[1]


def pass_time(node: Auth, milliseconds: int) -> None:
    node.api.platform.clock.later_ms += milliseconds


async def shared_count(node: Auth) -> int:
    return json.loads((await node.call(token(), "shares")).body)["result"]


async def log_out(node: Auth, bearer: str) -> None:
    assert (await node.post("logout", bearer=bearer)).status == 204


def messages(response: Any) -> int:
    """How many messages a call sent to the coordinator."""
    return int(response.headers["Server-Timing"].split('desc="')[1].split(" ")[0])


@pytest.mark.parametrize("function", WITHOUT_TABLES)
async def test_nothing_of_a_call_runs_where_the_session_was_ended(here, function):
    """Neither the function nor its middleware, nor what they keep in ``ctx.shared``: from the answer of logout on."""
    made = (await here.ok("anonymous"))["token"]
    await here.call(made, function)
    await log_out(here, made)
    counted = await shared_count(here)
    ran.clear()
    check_error(await here.call(made, function), 401, "UNAUTHORIZED")
    assert ran == []
    assert await shared_count(here) == counted + 1


@pytest.mark.parametrize("function", WITHOUT_TABLES)
async def test_nothing_runs_on_a_node_that_has_not_met_the_session(here, there, function):
    """It asks before the function, not after it."""
    made = (await here.ok("anonymous"))["token"]
    await log_out(here, made)
    check_error(await there.call(made, function), 401, "UNAUTHORIZED")
    assert ran == []


@pytest.mark.parametrize("function", WITHOUT_TABLES)
async def test_another_node_may_believe_its_last_answer_for_a_moment(here, there, function):
    """SESSION_TRUST_MS from its question on, and not one call later, however often it was called in between."""
    made = (await here.ok("anonymous"))["token"]
    await there.call(made, function)
    await log_out(here, made)
    pass_time(here, limits.SESSION_TRUST_MS - 1_000)
    await there.call(made, function)
    assert ran, "this is the moment"
    pass_time(here, 1_001)
    ran.clear()
    check_error(await there.call(made, function), 401, "UNAUTHORIZED")
    assert ran == []


@pytest.mark.parametrize("function", [["reads"], ["writes_blindly", "by-an-ended-session"]])
async def test_no_table_is_touched_from_that_moment_on(here, there, function):
    """Also by a node that believes its last answer: what touches a table asks the coordinator."""
    made = (await here.ok("anonymous"))["token"]
    assert (await there.call(made, "answers")).status == 200
    await log_out(here, made)
    check_error(await there.call(made, *function), 401, "UNAUTHORIZED")
    ran.clear()
    check_error(await there.call(made, "answers"), 401, "UNAUTHORIZED")
    assert ran == [], "and that answer is the newest it has"
    assert await here.api.sql.fetch("SELECT FROM tbl_tasks_5f0c1d WHERE id = 'by-an-ended-session'") == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/stream/ticket"), ("GET", "/openapi.json")])
async def test_what_the_gateway_answers_itself(here, there, method, path):
    """No ticket for a stream, no list of functions."""
    made = (await here.ok("anonymous"))["token"]
    bearer = f"Bearer {made}"
    assert (await here.api.send(method, path, authorization=bearer)).status in (200, 201)
    await log_out(here, made)
    for node in (here, there):
        check_error(await node.api.send(method, path, authorization=bearer), 401, "UNAUTHORIZED")


async def test_the_document_is_open_to_callers_without_a_token(here):
    """They have no session that could have been ended."""
    assert (await here.api.send("GET", "/openapi.json", authorization=None)).status == 200


async def test_what_a_session_costs_the_coordinator(here):
    """One question in SESSION_TRUST_MS where a function has no other; none more where it begins at once."""
    for function, args, first, then in [
        ("answers", [], 1, 0),
        ("reads", [], 1, 1),
        ("within", [], 1, 0),
        ("writes_blindly", ["cost"], 3, 2),
        ("shares", [], 1, 0),
    ]:
        made = (await here.ok("anonymous"))["token"]
        cost = [messages(await here.call(made, function, *args)) for _ in range(3)]
        assert cost == [first, then, then], function
        pass_time(here, limits.SESSION_TRUST_MS)
        assert messages(await here.call(made, function, *args)) == first, function


class Line:
    """A coordinator whose answers wait to be let through."""

    def __init__(self) -> None:
        self.ended: set[str] = set()
        self.answers: list[asyncio.Future[None]] = []

    async def ask(self, request: Request) -> Any:
        if isinstance(request, EndSession):
            self.ended.add(request.session)
            return SessionEnded()
        said = SessionEnded() if request.session in self.ended else SessionAlive()
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return said


async def test_an_answer_that_comes_after_the_end_is_not_believed():
    """A question that was answered before the session was ended, and arrives after it, on the node that ended it."""
    sessions, line, clock = LiveSessions(), Line(), Clock()
    coordinator = RequestCoordinator(line, "tenant", Meter(), sessions, clock, lambda: None)
    asking = asyncio.ensure_future(coordinator.ask(CheckSession("s")))
    await asyncio.sleep(0)
    await coordinator.ask(EndSession("s", 0))
    line.answers[0].set_result(None)
    assert await asking == SessionAlive()
    assert not sessions.is_live("tenant", "s", clock.elapsed())


async def test_trust_counts_from_the_question_not_from_the_answer():
    """An answer that took long says what was true when it was asked for, or later: nobody knows when."""
    sessions, line, clock = LiveSessions(), Line(), Clock()
    coordinator = RequestCoordinator(line, "tenant", Meter(), sessions, clock, lambda: None)
    asking = asyncio.ensure_future(coordinator.ask(CheckSession("s")))
    await asyncio.sleep(0)
    clock.later_ms += limits.SESSION_TRUST_MS
    line.answers[0].set_result(None)
    await asking
    assert not sessions.is_live("tenant", "s", clock.elapsed())


async def test_a_process_remembers_so_many_sessions(monkeypatch):
    """What it has forgotten it asks again: nobody is let in by it."""
    monkeypatch.setattr(limits, "SESSIONS_REMEMBERED", 3)
    sessions = LiveSessions()
    for n in range(5):
        sessions.found_live("tenant", f"s{n}", 0.0)
    assert [sessions.is_live("tenant", f"s{n}", 1.0) for n in range(5)] == [False, False, True, True, True]
    assert not sessions.is_live("another", "s4", 1.0), "of another tenant"
    for n in range(5):
        sessions.forget("tenant", f"e{n}")
    assert len(sessions._ended) == 3
