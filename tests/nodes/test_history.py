"""What concurrent clients see through the proxy while nodes, pooler and database fail in the middle of commits."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

from isolation.checker import UNKNOWN
from support.sessions import bearer
from workerd.clients import Clients
from workerd.faults import Hold
from workerd.runs import BETWEEN, HELD, assert_right, run

pytestmark = pytest.mark.timeout(600)

STOPPED_SECONDS = 30


class ProxyClients(Clients):
    """They trust the proxy's certificate, which signs itself, and know its own words."""

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.bearer, timeout=120, trust_env=False, verify=False)

    async def _request(self, *args, **more):
        outcome = await super()._request(*args, **more)
        if self.strange and "<html>" in self.strange[-1]:
            self.strange.pop()  # the proxy's own words: it found no node, or lost one; nobody knows what became of it
            self.disturbed += 1
        return outcome


async def run_on(served, seed, fail, **more):
    return await run(served, bearer(), seed, fail, make=ProxyClients, **more)


def answered(served) -> list[int]:
    """How many calls each node has answered."""
    return [sum(line["status"] == 200 for line in node.events("request")) for node in served.nodes]


async def test_without_faults_the_history_is_right(served):
    """All three nodes work on the same rows, and every one of the judges would see a mistake."""

    async def nothing(clients: Clients) -> None:
        await clients.until_more(5 * BETWEEN)

    before = answered(served)
    calls, final = await run_on(served, 11, nothing)
    assert min(now - then for now, then in zip(answered(served), before, strict=True)) > BETWEEN
    assert not [call for call in calls if call.outcome == UNKNOWN]
    assert_right(calls, final)


@pytest.mark.long
async def test_with_nodes_killed_the_history_is_right(served):
    """SIGKILL in the middle of applies: what was applied is there, once; the rest never will be."""
    landed: list[str] = []

    async def kill(clients: Clients) -> None:
        for node in served.nodes:
            async with Hold.of(served.database_url, HELD) as hold:
                await asyncio.to_thread(node.kill)
                await hold.release()
                landed.extend(await hold.committed())
            await clients.until_more(BETWEEN)  # on the two that are left
            clients.pace = 1.0
            await asyncio.to_thread(node.start)
            clients.pace = 0.0

    calls, final = await run_on(served, 12, kill, keyed=0.8)
    assert landed
    assert_right(calls, final)


@pytest.mark.long
async def test_with_a_node_stopped_for_half_a_minute_the_history_is_right(served):
    """SIGSTOP in the middle of applies: others settle what it left, and what it says when it wakes changes nothing."""
    node = served.nodes[0]
    went_on: list[int] = []

    async def stop(clients: Clients) -> None:
        async with Hold.of(served.database_url, HELD) as hold:
            os.kill(node.pid, signal.SIGSTOP)
            await hold.release()
        before = clients.answered
        try:
            await asyncio.sleep(2)
            clients.pace = 3.0
            await asyncio.sleep(STOPPED_SECONDS - 2)
        finally:
            os.kill(node.pid, signal.SIGCONT)
        went_on.append(clients.answered - before)
        clients.pace = 0.0
        await clients.until_more(BETWEEN)

    calls, final = await run_on(served, 13, stop)
    assert went_on[0] > BETWEEN  # on the other two
    assert_right(calls, final)


@pytest.mark.long
async def test_with_pooler_and_database_restarted_the_history_is_right(served):
    """PgBouncer is killed, PostgreSQL crashes and is stopped, all in the middle of applies."""

    async def restart(clients: Clients) -> None:
        async with Hold.of(served.database_url, HELD):
            await asyncio.to_thread(served.pooler.stop, signal.SIGKILL)
        await asyncio.to_thread(served.pooler.start)
        await clients.until_more(BETWEEN)
        for how in (signal.SIGQUIT, signal.SIGINT):
            async with Hold.of(served.database_url, HELD):
                await asyncio.to_thread(served.postgres.stop, how)
            await asyncio.to_thread(served.postgres.start)
            await clients.until_more(BETWEEN)

    calls, final = await run_on(served, 14, restart)
    assert any(call.requests > 1 or call.outcome == UNKNOWN for call in calls)
    assert_right(calls, final)
