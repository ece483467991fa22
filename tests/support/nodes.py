"""Several gateways in this process, each with its own node and pool, over one database and one shared log."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.coordination import replica as replicas
from kontract.core import limits
from kontract.core.protocol import replicated
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request, Response
from kontract.gateway.routes import Registry
from kontract.ports.shared_log import SharedLog
from kontract.server.database import Pool
from kontract.server.runtime import ManyNodes
from kontract.server.shared_log.postgres import PostgresLog
from kontract.server.shared_postgres import PostgresShared
from support.postgres import Postgres
from support.sessions import ENVIRONMENT, OWNER, bearer

SOURCE = Checkout.find().root / "src"


class NodeApi:
    """One node's gateway."""

    def __init__(self, platform: ManyNodes, pool: Pool) -> None:
        if str(SOURCE) not in sys.path:
            sys.path.insert(0, str(SOURCE))
        from routes import ROUTES, TABLES

        self.platform, self.pool = platform, pool
        self.gateway = Gateway(Registry(ROUTES, TABLES))
        self.log: list[dict[str, Any]] = []
        platform.log = lambda level, event, **fields: self.log.append({"level": level, "event": event, **fields})

    async def send(self, method: str, path: str, body: bytes = b"", query: str = "", **headers: str) -> Response:
        async def read(limit: int) -> bytes:
            return body[: limit + 1]

        sent = bearer() | {name.lower().replace("_", "-"): value for name, value in headers.items()}
        return await self.gateway.handle(Request(method, path, sent, read, query=query), self.platform)

    async def rpc(self, function: str, *args: Any, **headers: str) -> Response:
        return await self.send("POST", f"/rpc/{function}", json.dumps(args).encode(), **headers)

    async def result(self, function: str, *args: Any, **headers: str) -> Any:
        response = await self.rpc(function, *args, **headers)
        assert response.status == 200, response.body
        return json.loads(response.body)["result"]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name]


class Cluster:
    """Nodes that come and go."""

    def __init__(self, url: str, sql: asyncpg.Connection, make_log: Callable[[Pool], SharedLog]) -> None:
        self.url, self.sql = url, sql
        self.nodes: list[NodeApi] = []
        self._make_log = make_log

    async def join(self, log: SharedLog | None = None) -> NodeApi:
        pool = Pool(self.url, 5)
        shared_log = log or self._make_log(pool)
        platform = ManyNodes(pool.database, ENVIRONMENT, shared_log, PostgresShared(pool.database()).for_owner)
        node = NodeApi(platform, pool)
        await platform.start()
        self.nodes.append(node)
        return node

    async def leave(self, node: NodeApi) -> None:
        self.nodes.remove(node)
        await node.platform.stop()
        await node.pool.aclose()


@asynccontextmanager
async def cluster_of(
    postgres: Postgres, count: int, make_log: Callable[[Pool], SharedLog] | None = None, url: str | None = None
) -> AsyncIterator[Cluster]:
    """Nodes over one database that has the tables of several nodes: a fresh one unless its ``url`` is given."""
    url = url or postgres.create_database(coordination=True)
    sql = await asyncpg.connect(url)
    cluster = Cluster(url, sql, make_log or (lambda pool: PostgresLog(pool.database)))
    try:
        for _ in range(count):
            await cluster.join()
        yield cluster
    finally:
        for node in list(cluster.nodes):
            await cluster.leave(node)
        await cluster.sql.close()


async def repeat_a_call_whose_entry_was_kept(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trim the log all the time, but for an idempotent call: nodes old and new answer its repetition as the first time.

    A node that joins has nothing but the checkpoint, and looks the result up in the one entry that is left.
    """
    monkeypatch.setattr(replicas, "CHECKPOINT_ENTRIES", 5)
    monkeypatch.setattr(replicated, "TRIM_MS", 0)
    monkeypatch.setattr(limits, "LEASE_MS", 0)
    monkeypatch.setattr(limits, "EVENT_LOG_TRANSACTIONS", 3)
    one, two, three = cluster.nodes
    first = await one.rpc("create_task", "once", idempotency_key="k1")
    assert first.status == 200, first.body
    log = one.platform.node._log
    left: list[int] = []
    for number in range(100):
        await two.result("create_task", f"other {number}")
        left = [entry.position for entry in await log.entries(OWNER, range(1, 400))]
        if left and left[-1] - left[0] >= len(left) and number > 10:  # a hole: the call's entry is the one before it
            break
    else:
        pytest.fail(f"nothing was trimmed: {left}")
    assert left[0] <= 3 < left[1]
    again = await three.rpc("create_task", "once", idempotency_key="k1")
    joined = await cluster.join()
    late = await joined.rpc("create_task", "once", idempotency_key="k1")
    assert first.body == again.body == late.body
    assert late.headers["Idempotency-Replayed"] == "true"
    assert joined.platform.node.replica(OWNER).machine.position > left[1]
    assert len(await two.result("list_tasks")) == number + 2
