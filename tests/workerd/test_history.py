"""What concurrent clients see over HTTP while workerd, PostgreSQL and the connections between them fail.

Real workerd, a real Durable Object, a real PostgreSQL, and the checker of ``tests/isolation``: the history alone must
explain itself, and the database must hold what was acknowledged, once, and nothing of what was refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isolation.checker import CYCLES, OK, UNKNOWN
from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support import apps
from support.postgres import Postgres
from support.scratch import product_checkout
from support.sessions import bearer_for
from support.worker import running_worker
from workerd.clients import ACCOUNTS, EACH, READ, Call, Clients
from workerd.faults import Hold, connected
from workerd.judge import Final, create_tables, empty_tables, judge, view

pytestmark = pytest.mark.timeout(600)  # three starts of the runtime, on a machine that may be busy

APP = Path(apps.__path__[0]) / "histories.py"

CLIENTS = 10
BETWEEN = 20
"""Calls answered before the first, between two, and after the last fault of a run."""

HELD = 3
"""Applies that are in the middle when a fault strikes."""


@pytest.fixture(scope="module")
def database(checkout: Checkout, reaper: Reaper) -> Iterator[Postgres]:
    """A server of its own, which the tests may crash; so it must not acknowledge what a crash would undo."""
    with Postgres.started(checkout, reaper, synchronous_commit="on") as server:
        yield server


@pytest.fixture(scope="module")
def server(
    checkout: Checkout, database: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevServer]:
    """The product's Worker with the functions of support/apps/histories.py."""
    setup.prepare(checkout)
    folder = tmp_path_factory.mktemp("histories")
    copy = product_checkout(checkout, folder / "checkout", modules=[APP])
    url = database.create_database()
    asyncio.run(_prepare(url))
    with running_worker(copy, url, folder, reaper) as running:
        yield running


async def _prepare(url: str) -> None:
    async with connected(url) as connection:
        await create_tables(connection)


async def run(
    server: DevServer, seed: int, fail: Callable[[Clients], Awaitable[None]], *, keyed: float = 0.4
) -> tuple[list[Call], Final]:
    """Let clients work while `fail` does its work; returns what they know, and the database."""
    async with connected(server.database_url) as connection:
        await empty_tables(connection)
    clients = Clients(server.url, bearer_for(server), seed, keyed)
    await clients.once("fund", ACCOUNTS, EACH)

    async def until_it_is_over() -> None:
        try:
            await clients.until_more(BETWEEN)
            await fail(clients)
            await clients.until_more(BETWEEN)
        finally:
            clients.stopping = True

    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run(CLIENTS))
        group.create_task(until_it_is_over())
    # A write is answered when everything before it is settled: from then on the database does not change.
    await clients.once("put", ["r0"])
    last = await clients.once("look", list(READ))
    assert clients.strange == []
    async with connected(server.database_url) as connection:
        final = await Final.read(connection)
    assert last == view(final)
    return clients.calls, final


def assert_right(calls: list[Call], final: Final) -> None:
    """Nothing is wrong with the run; and it would have been noticed."""
    assert judge(calls, final) == []
    for name, (change, signs) in DOCTORED.items():
        wrong = judge(*change(calls, final))
        assert any(line.startswith(signs) for line in wrong), f"not noticed: {name}"


# --- the same run with one thing changed ------------------------------------------------------------------------------


def _instead(calls: list[Call], old: Call, **changes: Any) -> list[Call]:
    return [dataclasses.replace(call, **changes) if call is old else call for call in calls]


def _longest_list(calls: list[Call]) -> tuple[Call, dict[str, Any]]:
    last = calls[-1]
    return last, max(last.seen["lists"], key=lambda row: len(row["elements"]))


def _see_list(calls: list[Call], elements: Callable[[list[str]], list[str]]) -> list[Call]:
    last, longest = _longest_list(calls)
    rows = [row if row is not longest else {**row, "elements": elements(row["elements"])} for row in last.seen["lists"]]
    return _instead(calls, last, seen={**last.seen, "lists": rows})


def _miss_a_member(calls: list[Call]) -> list[Call]:
    last = calls[-1]
    return _instead(calls, last, seen={**last.seen, "members": last.seen["members"][1:]})


def _read_an_older_counter(calls: list[Call], final: Final) -> tuple[list[Call], Final]:
    """An acknowledged increment that saw the same as the one before it."""
    bumps = [c for c in calls if c.function == "bump" and c.outcome == OK and c.seen is not None]
    by_id = {call.id: call for call in bumps}
    late = next(call for call in bumps if call.seen["by"] in by_id)
    seen = by_id[late.seen["by"]].seen
    committed = {**final.committed, late.id: (late.txid, seen)}
    return _instead(calls, late, seen=seen), dataclasses.replace(final, committed=committed)


def _acknowledge_a_lost_write(calls: list[Call], final: Final) -> tuple[list[Call], Final]:
    one = next(call for call in calls if call.function == "append" and call.outcome == OK)
    return calls, dataclasses.replace(final, committed={c: v for c, v in final.committed.items() if c != one.id})


def _refuse_a_committed_write(calls: list[Call], final: Final) -> tuple[list[Call], Final]:
    one = next(call for call in calls if call.function == "append" and call.outcome == OK)
    return _instead(calls, one, outcome="fail"), final


CYCLIC = tuple(kind for *_, kind in CYCLES)

DOCTORED: dict[str, tuple[Callable[[list[Call], Final], tuple[list[Call], Final]], tuple[str, ...]]] = {
    "a list is read without its last element": (
        lambda calls, final: (_see_list(calls, lambda elements: elements[:-1]), final),
        CYCLIC,
    ),
    "two elements of a list are read in the other order": (
        lambda calls, final: (_see_list(calls, lambda elements: [elements[1], elements[0], *elements[2:]]), final),
        ("incompatible-order",),
    ),
    "a query misses a row": (
        lambda calls, final: (_miss_a_member(calls), final),
        CYCLIC,
    ),
    "two increments see the same counter": (_read_an_older_counter, ("lost-update",)),
    "an acknowledged write is not there": (_acknowledge_a_lost_write, ("lost:",)),
    "a refused write is there": (_refuse_a_committed_write, ("undead:",)),
}


# --- the faults -------------------------------------------------------------------------------------------------------


async def test_with_connections_cut_the_history_is_right(server: DevServer):
    """PostgreSQL ends connections in the middle of applies, and others chosen by dice, wherever they are."""
    dice = Random(1)
    cut = 0

    async def cut_connections(clients: Clients) -> None:
        nonlocal cut
        for _ in range(4):
            async with Hold.of(server.database_url, HELD) as hold:
                cut += await hold.terminate()
                await hold.release()
            await clients.until_more(BETWEEN // 2)
        async with connected(server.database_url) as admin:
            enough = clients.disturbed + 8
            while clients.disturbed < enough:
                pids = await admin.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "ORDER BY backend_start, pid"
                )
                for row in pids:
                    if dice.random() < 0.2:
                        cut += await admin.fetchval("SELECT pg_terminate_backend($1)", row[0])
                await asyncio.sleep(dice.uniform(0.01, 0.06))

    calls, final = await run(server, 1, cut_connections)
    assert cut >= 4 * HELD + 8
    assert_right(calls, final)


async def test_with_postgresql_restarted_the_history_is_right(server: DevServer, database: Postgres):
    """It crashes and it is stopped in the middle of applies, whose callers are told so; and it crashes after one."""
    told = []

    async def restart(clients: Clients) -> None:
        for how in (signal.SIGQUIT, signal.SIGINT):
            before = clients.unknown
            async with Hold.of(server.database_url, HELD):
                await asyncio.to_thread(database.stop, how)
            await clients.until(lambda before=before: clients.unknown > before)
            told.append(clients.unknown - before)
            await asyncio.to_thread(database.start)
            await clients.until_more(BETWEEN)
        written = clients.written
        await clients.until(lambda: clients.written > written)
        await asyncio.to_thread(database.stop, signal.SIGQUIT)
        await asyncio.to_thread(database.start)

    calls, final = await run(server, 2, restart)
    assert min(told) > 0
    assert_right(calls, final)


async def test_with_workerd_killed_the_history_is_right(server: DevServer):
    """SIGKILL for wrangler and workerd in the middle of applies; one is never carried out, others are afterwards."""
    landed: list[str] = []
    lost = 0

    async def kill(clients: Clients) -> None:
        nonlocal lost
        # Once, unless the coordinator had just decided otherwise. What lands must include a call that is repeated: it
        # must not be carried out a second time.
        while not (lost and any(sid.startswith("idem-") for sid in landed)):
            async with Hold.of(server.database_url, HELD) as hold:
                await asyncio.to_thread(server.kill)
                lost += await hold.terminate(1)
                await hold.release()
                landed.extend(await hold.committed())
            await asyncio.to_thread(server.start)
            await clients.until_more(BETWEEN)

    calls, final = await run(server, 3, kill, keyed=0.8)
    unanswered = [call for call in calls if call.outcome == UNKNOWN or call.requests > 1]
    assert len([call for call in unanswered if call.id in final.committed]) >= len(landed)
    assert_right(calls, final)
