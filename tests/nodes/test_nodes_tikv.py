"""Nodes that coordinate in TiKV, while it misbehaves: what is answered is true, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from kontract.coordination import replica as replicas
from kontract.server.shared_log.tikv import TiKVLog
from kontract.server.system import SystemClock
from kontract.server.tikv import connect_tikv
from support.nodes import Cluster, cluster_of, repeat_a_call_whose_entry_was_kept
from support.tikv import FakeCluster, Kind


@pytest.fixture
async def tikv() -> AsyncIterator[FakeCluster]:
    async with FakeCluster.started() as one:
        yield one
        assert one.data.mixed == set()


@pytest.fixture
async def cluster(postgres, tikv) -> AsyncIterator[Cluster]:
    def make_log(_pool) -> TiKVLog:
        return TiKVLog(connect_tikv(tikv.endpoints).raw, SystemClock().now)

    async with cluster_of(postgres, 3, make_log) as cluster:
        yield cluster


async def balances(cluster: Cluster) -> float:
    rows = await cluster.sql.fetch("SELECT data->>'balance' AS b FROM tbl_accounts_9b27e4 WHERE _deleted_txid IS NULL")
    return sum(float(row["b"]) for row in rows)


@pytest.mark.parametrize("seed", range(3))
async def test_transfers_in_a_storm(cluster, tikv, monkeypatch, seed):
    """The total stays, each transfer that was answered was made once, and a node that joins later agrees."""
    monkeypatch.setattr(replicas, "CHECKPOINT_ENTRIES", 10)
    dice = random.Random(seed)
    for name in "abcd":
        await cluster.nodes[0].result("open_account", name, 100)
    tikv.faults.storm(seed, 0.1, Kind.LOST, Kind.STALE, Kind.STALE_DONE, Kind.UNDETERMINED, Kind.NO_LEADER, Kind.EPOCH)
    made: list[str] = []

    async def transfer(number: int) -> int:
        await asyncio.sleep(0)
        src, dst = dice.sample("abcd", 2)
        status = (await cluster.nodes[number % 3].rpc("transfer", src, dst, 1)).status
        if status == 200:
            made.append(src + dst)
        return status

    statuses = await asyncio.gather(*[transfer(number) for number in range(30)])
    assert set(statuses) <= {200, 503}
    assert made
    assert tikv.faults.storm_hits
    tikv.faults.calm()
    late = await cluster.join()
    assert {await node.result("total") for node in [*cluster.nodes, late]} == {400}
    assert await balances(cluster) == 400
    assert [line for node in cluster.nodes for line in node.events("contradiction")] == []
    if 503 not in statuses:
        for name in "abcd":
            moved = sum(pair[1] == name for pair in made) - sum(pair[0] == name for pair in made)
            assert await late.result("balance", name) == 100 + moved


async def test_a_store_that_goes_away(cluster, tikv):
    """Others lead its regions from then on; callers wait for that, or are told to come again."""
    await cluster.nodes[0].result("open_account", "a", 1000)
    await cluster.nodes[0].result("open_account", "b", 0)
    statuses = []
    for number in range(12):
        if number == 4:
            await tikv.stop_store(tikv.topology.regions[0].leader)
        statuses.append((await cluster.nodes[number % 3].rpc("transfer", "a", "b", 1)).status)
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200, "it goes on"
    made = await cluster.nodes[1].result("balance", "b")
    assert statuses.count(200) <= made <= 12
    assert await balances(cluster) == 1000


async def test_what_was_trimmed_and_kept(cluster, monkeypatch):
    """Nodes that join later start from the checkpoint, and answer a repeated call with its first result."""
    await repeat_a_call_whose_entry_was_kept(cluster, monkeypatch)
