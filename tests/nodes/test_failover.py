"""The primary PostgreSQL is lost for good, its synchronous standby takes its place: no acknowledged write is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from isolation.checker import OK
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.processes import is_running, wait_until
from kontract.cli.toolchain.reaper import Reaper
from nodes.fleet import POOL, new_database, start_nodes
from support.pgbouncer import PgBouncer, pgbouncer
from support.postgres import Postgres
from support.programs import needing
from support.serving import Server
from support.sessions import bearer
from support.standby import Standby, standby
from workerd.clients import Clients
from workerd.faults import COMMITTED, Hold, connected
from workerd.runs import BETWEEN, HELD, assert_right, prepare, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep' "
    "AND query LIKE '%WITH epoch AS MATERIALIZED%fence AS%'"
)
"""Applies that are committed as far as the primary is concerned, and wait for its standby."""


@dataclass
class Pair:
    """Two nodes, the pooler behind them, and PostgreSQL twice. `database_url` leads to the one in charge."""

    url: str
    database_url: str
    nodes: list[Server]
    pooler: PgBouncer
    primary: Postgres
    standby: Standby

    def go_to_standby(self) -> None:
        """What an operator does, or whatever acts for one, once the standby has been promoted."""
        self.database_url = self.standby.url(self.database_url)
        self.pooler.point_to(self.standby.cluster.port)
        self.pooler.reload()


@pytest.fixture
@needing("pg_basebackup", "pgbouncer")
async def pair(checkout: Checkout, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    with ExitStack() as stack:
        primary = stack.enter_context(Postgres.started(checkout, reaper, synchronous_commit="on"))
        url = new_database(primary)
        await prepare(url)
        second = stack.enter_context(standby(primary, reaper))
        await second.follow()
        pooler = stack.enter_context(pgbouncer(primary.cluster, reaper, POOL))
        nodes = start_nodes(stack, 2, checkout, pooler.url(url), tmp_path_factory.mktemp, reaper)
        yield Pair(nodes[0].url, url, nodes, pooler, primary, second)


@pytest.mark.parametrize("arrives", [True, False], ids=["sent", "unsent"])
async def test_after_a_failover_the_history_is_right(pair, arrives):
    """Commits wait for the standby when the primary is lost: some arrive there yet, some never; no caller is misled."""
    urls = itertools.cycle(node.url for node in pair.nodes)
    landed: list[str] = []

    class Callers(Clients):
        """Each stays with one node."""

        def _http(self) -> httpx.AsyncClient:
            return httpx.AsyncClient(base_url=next(urls), headers=self.bearer, timeout=60, trust_env=False)

    async def lose_the_primary(clients: Callers) -> None:
        process = await (pair.standby.receiver() if arrives else pair.standby.sender())
        before = await commits_that_wait(pair, process)
        if arrives:
            await pair.standby.everything_sent()
        clients.pace = 1.0
        await asyncio.to_thread(pair.primary.stop, signal.SIGQUIT)
        if arrives:
            os.kill(process, signal.SIGCONT)
            assert await asyncio.to_thread(wait_until, lambda: not is_running(process), 60)
        await pair.standby.promote()
        async with connected(pair.standby.url(pair.database_url)) as sql:
            landed.extend({row[0] for row in await sql.fetch(COMMITTED)} - before)
        pair.go_to_standby()
        clients.pace = 0.2
        await clients.until_more(BETWEEN)

    calls, final = await run(pair, bearer(), 21, lose_the_primary, make=Callers)
    assert bool(landed) == arrives
    assert any(call.requests > 1 or call.outcome != OK for call in calls)
    assert_right(calls, final)


async def commits_that_wait(pair: Pair, process: int) -> set[str]:
    """Stop `process` of the replication when applies are on the primary's disk and not on the other one.

    Returns the sids of what was committed before.
    """
    for _ in range(30):
        async with Hold.of(pair.database_url, HELD) as hold, connected(pair.database_url) as sql:
            before = {row[0] for row in await sql.fetch(COMMITTED)}
            os.kill(process, signal.SIGSTOP)
            await hold.release()
            for _ in range(100):
                if await sql.fetchval(WAITING):
                    return before
                await asyncio.sleep(0.01)
            os.kill(process, signal.SIGCONT)  # others have aborted all of them meanwhile
    pytest.fail("no commit waits for the standby")
