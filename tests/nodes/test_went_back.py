"""A database that goes back in time under nodes that run: a standby that lagged takes over, an older dump is restored.

The nodes' log is in the same database, so it goes back, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable

import asyncpg
import pytest

from kontract.core import limits
from kontract.ports.shared_log import Checkpoint, TrimmedError, WentBackError
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import ManyNodes, SingleProcess
from kontract.server.shared_log.memory import MemoryLog
from kontract.server.shared_log.postgres import PostgresLog
from kontract.server.shared_postgres import PostgresShared
from kontract.server.system import SystemClock
from support.nodes import NodeApi, cluster_of
from support.postgres import Postgres
from support.sessions import ENVIRONMENT
from support.standby import Standby, standby

pytestmark = pytest.mark.timeout(300)


async def until_served(api: NodeApi, function: str, *args):
    """Call until the answer is another one than 503, as a client does; says whether one told that data is gone."""
    told = False
    for _ in range(40):
        response = await api.rpc(function, *args)
        if response.status != 503:
            return json.loads(response.body), told
        told |= json.loads(response.body)["error"] == "DATABASE_WENT_BACK"
        await asyncio.sleep(0.05)
    pytest.fail(f"{response.body!r}")


def losses(*nodes: NodeApi) -> list[dict]:
    return [line for node in nodes for line in node.events("database_went_back")]


@pytest.mark.parametrize("log_elsewhere", [False, True], ids=["log in the database", "log elsewhere"])
async def test_an_older_dump_under_running_nodes(postgres, log_elsewhere):
    """All nodes come to the same again by themselves, in a new epoch and generation, with numbers that go on."""
    kept = MemoryLog(SystemClock().now)
    make_log = (lambda _pool: kept) if log_elsewhere else None
    async with cluster_of(postgres, 2, make_log) as cluster:
        one, two = cluster.nodes
        for node in cluster.nodes:
            node.pool.on_lost = node.platform.doubt
        await one.result("open_account", "a", 100)
        await two.result("balance", "a")
        dump = postgres.dump(cluster.url)
        await cluster.sql.close()
        await one.result("open_account", "b", 0)
        assert (await two.rpc("transfer", "a", "b", 100, idempotency_key="pay")).status == 200
        generations = {node.platform.node.replica("tenant-1").machine.head.generation for node in cluster.nodes}
        await asyncio.to_thread(postgres.restore, cluster.url, dump)
        cluster.sql = await asyncpg.connect(cluster.url)
        for node in cluster.nodes:
            found, _ = await until_served(node, "balance", "a")
            assert found == {"result": 100}
        again = await one.rpc("transfer", "a", "b", 100, idempotency_key="pay")
        assert (again.status, "Idempotency-Replayed" in again.headers) == (404, False), "b is gone"
        fresh = await two.rpc("open_account", "c", 1)
        assert (fresh.status, int(fresh.headers["X-Kontract-Txid"]) > 3) == (200, True)
        assert [await node.result("total") for node in cluster.nodes] == [101, 101]
        machines = [node.platform.node.replica("tenant-1").machine for node in cluster.nodes]
        assert machines[0].dump() == machines[1].dump()
        assert machines[0].head.generation not in generations
        assert max(line["acknowledged"] for line in losses(*cluster.nodes)) == 3
        ready = json.loads((await one.send("GET", "/ready")).body)
        assert ready["status"] == "data_lost"


async def test_emptied_coordination_under_running_nodes(postgres):
    """What docs/how-to/operate.md asks for with all nodes stopped: those that were forgotten notice, and go on."""
    async with cluster_of(postgres, 2) as cluster:
        one, two = cluster.nodes
        await one.result("open_account", "a", 100)
        await two.result("balance", "a")
        await cluster.sql.execute("TRUNCATE coordination, coordination_log, coordination_checkpoints, shared")
        for node in cluster.nodes:
            found, _ = await until_served(node, "balance", "a")
            assert found == {"result": 100}
        first = await one.rpc("open_account", "b", 1)
        assert first.status == 200, first.body
        assert await two.result("total") == 101


async def test_a_log_that_went_back_and_grew_again_is_not_the_same(postgres):
    """By its length alone it could not be told from the one that this node has read."""
    async with cluster_of(postgres, 1) as cluster:
        pool = cluster.nodes[0].pool
        reader, writer, other = (PostgresLog(pool.database) for _ in range(3))
        (one,) = await writer.append("acme", 0, b"one")
        (two,) = await writer.append("acme", 1, b"two", one.at)
        assert await reader.read("acme", 2, two.at) == []
        await cluster.sql.execute("DELETE FROM coordination_log WHERE owner = 'acme' AND position = 2")
        await cluster.sql.execute("UPDATE coordination SET position = 1 WHERE owner = 'acme'")
        await asyncio.sleep(0.01)
        (another,) = await other.append("acme", 1, b"another", one.at)
        await other.append("acme", 2, b"three", another.at)
        with pytest.raises(WentBackError):
            await reader.read("acme", 2, two.at)
        with pytest.raises(WentBackError):
            await writer.append("acme", 2, b"mine", two.at)
        assert await reader.news({"acme": 2}, {"acme": two.at}) == {"acme": []}
        assert [entry.batch for entry in await other.read("acme", 0)] == [b"one", b"another", b"three"]
        await writer.write_checkpoint("acme", Checkpoint(2, b"of what is lost", two.at))
        assert await other.checkpoint("acme") is None

        # Once the entry at its position is gone, nobody can tell a node whether it was the one that it has read.
        await other.write_checkpoint("acme", Checkpoint(3, b"state", (await other.read("acme", 2))[-1].at))
        await other.trim("acme", 3)
        with pytest.raises(TrimmedError):
            await reader.read("acme", 2, two.at)
        with pytest.raises(TrimmedError):
            await writer.append("acme", 2, b"mine", two.at)
        assert await reader.news({"acme": 2}, {"acme": two.at}) == {"acme": []}
        assert [entry.batch for entry in await other.read("acme", 2)] == [b"three"]


class Failover:
    """A primary, a standby that follows as fast as it can and acknowledges nothing, and where the databases are now."""

    def __init__(self, primary: Postgres, second: Standby) -> None:
        self.primary, self.second = primary, second
        self.over = False

    def opening(self, url: str) -> Callable[[], AsyncpgDatabase]:
        return lambda: AsyncpgDatabase(self.second.url(url) if self.over else url)

    async def has_arrived(self, url: str, account: str) -> None:
        for _ in range(200):
            connection = await asyncpg.connect(self.second.url(url))
            found = await connection.fetchval("SELECT count(*) FROM tbl_accounts_9b27e4 WHERE id = $1", account)
            await connection.close()
            if found:
                return
            await asyncio.sleep(0.05)
        pytest.fail("the standby does not follow")

    async def fail_over(self) -> None:
        await asyncio.to_thread(self.primary.stop, signal.SIGQUIT)
        await self.second.promote()
        self.over = True


@pytest.mark.needs("pg_basebackup")
async def test_a_standby_that_lagged(checkout, reaper):
    """Two tenants' worth of servers: one process with its coordinator in memory, two nodes with a log."""
    with Postgres.started(checkout, reaper, synchronous_commit="on") as primary, standby(primary, reaper) as second:
        failover = Failover(primary, second)
        alone, shared = primary.create_database(), primary.create_database(coordination=True)
        single = NodeApi(SingleProcess(failover.opening(alone), ENVIRONMENT), None)
        opening = failover.opening(shared)
        state = opening()
        nodes = [
            NodeApi(ManyNodes(opening, ENVIRONMENT, PostgresLog(opening), PostgresShared(state).for_owner), None)
            for _ in range(2)
        ]
        for node in nodes:
            await node.platform.start()
        try:
            for api in (single, nodes[0]):
                await api.result("open_account", "a", 100)
            await nodes[1].result("balance", "a")
            for url in (alone, shared):
                await failover.has_arrived(url, "a")
            os.kill(await second.sender(), signal.SIGSTOP)
            for api in (single, nodes[1]):
                assert (await api.rpc("open_account", "b", 1, idempotency_key="k")).status == 200
            await failover.fail_over()
            # A write that reads nothing is the least that can notice.
            _, told = await until_served(single, "open_account", "c", 1)
            assert told
            for node in nodes:
                await until_served(node, "open_account", f"c{nodes.index(node)}", 1)
            assert await single.result("total") == 101
            assert [await node.result("total") for node in nodes] == [102, 102]
            for api in (single, nodes[0]):
                again = await api.rpc("open_account", "b", 1, idempotency_key="k")
                assert (again.status, "Idempotency-Replayed" in again.headers) == (200, False)
            assert losses(single)
            assert losses(*nodes)
        finally:
            for api in (single, *nodes):
                await api.platform.stop()
            await state.aclose()


@pytest.mark.needs("pg_basebackup")
async def test_a_standby_that_had_everything_changes_nothing(checkout, reaper):
    """Another timeline is no loss: numbers, keys and streams go on."""
    with Postgres.started(checkout, reaper, synchronous_commit="on") as primary, standby(primary, reaper) as second:
        await second.follow()
        failover = Failover(primary, second)
        url = primary.create_database()
        single = NodeApi(SingleProcess(failover.opening(url), ENVIRONMENT), None)
        await single.result("open_account", "a", 100)
        first = await single.rpc("open_account", "b", 1, idempotency_key="k")
        assert first.status == 200
        await failover.fail_over()
        shell = single.platform._shell("tenant-1")
        shell._coordinator._in_charge_at -= limits.EPOCH_TRUST_MS
        again = await single.rpc("open_account", "b", 1, idempotency_key="k")
        assert (again.body, again.headers["Idempotency-Replayed"]) == (first.body, "true")
        assert await single.result("total") == 101
        assert (shell._coordinator.epoch, losses(single)) == (1, [])
        await single.platform.stop()
