"""What concurrent clients see over HTTP while workerd, PostgreSQL and the connections between them fail.

Real workerd, a real Durable Object, a real PostgreSQL, and the checker of ``tests/isolation``: the history alone must
explain itself, and the database must hold what was acknowledged, once, and nothing of what was refused.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from random import Random

import pytest

from isolation.checker import UNKNOWN
from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.postgres import Postgres
from support.scratch import product_checkout
from support.sessions import bearer_for
from support.worker import running_worker
from workerd.clients import Clients
from workerd.faults import Hold, connected
from workerd.runs import APP, BETWEEN, HELD, assert_right, prepare, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # three starts of the runtime, on a machine that may be busy


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
    asyncio.run(prepare(url))
    with running_worker(copy, url, folder, reaper) as running:
        yield running


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

    calls, final = await run(server, bearer_for(server), 1, cut_connections)
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

    calls, final = await run(server, bearer_for(server), 2, restart)
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

    calls, final = await run(server, bearer_for(server), 3, kill, keyed=0.8)
    unanswered = [call for call in calls if call.outcome == UNKNOWN or call.requests > 1]
    assert len([call for call in unanswered if call.id in final.committed]) >= len(landed)
    assert_right(calls, final)
