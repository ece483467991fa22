"""The Worker's own way of speaking PostgreSQL, through a pooler in transaction mode with two connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.pgbouncer import POOL, PgBouncer
from support.postgres import Postgres
from support.scratch import product_checkout
from support.sessions import bearer_for
from support.worker import running_worker
from workerd.faults import Hold, connected

STATEMENT_MS = 800

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    return postgres.create_database()


@pytest.fixture(scope="module")
def server(
    checkout: Checkout,
    direct: str,
    pooler: PgBouncer,
    reaper: Reaper,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DevServer]:
    """The product's Worker, less patient with PostgreSQL than usual."""
    setup.prepare(checkout)
    folder = tmp_path_factory.mktemp("pooled")
    copy = product_checkout(checkout, folder / "checkout", limits={"STATEMENT_MS": STATEMENT_MS})
    with running_worker(copy, pooler.url(direct), folder, reaper) as running:
        yield running


@pytest.fixture
async def api(server: DevServer):
    headers = bearer_for(server)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


async def rpc(api: httpx.AsyncClient, function: str, *args) -> httpx.Response:
    response = await api.post(f"/rpc/{function}", json=args)
    assert response.status_code == 200, response.text
    return response


async def test_more_callers_than_connections(api: httpx.AsyncClient, direct: str):
    """Twelve at once over two connections: every statement finds what it needs, or rather needs nothing."""

    async def caller(number: int) -> None:
        await rpc(api, "open_account", f"a{number}", 100)
        await rpc(api, "transfer", f"a{number}", "common", number + 1)
        assert (await rpc(api, "balance", f"a{number}")).json()["result"] == 99 - number
        await rpc(api, "list_tasks", False, 10)

    await rpc(api, "open_account", "common", 0)
    await asyncio.gather(*(caller(number) for number in range(12)))
    assert (await rpc(api, "total")).json()["result"] == 1200
    async with connected(direct) as sql:
        pids = await sql.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    assert len(pids) - 1 <= POOL


async def test_the_time_limit_of_a_commit_does_not_outlive_it(api: httpx.AsyncClient, direct: str, pooler: PgBouncer):
    """PostgreSQL ends an apply that takes too long; whoever gets its connection next has all the time it wants."""
    await rpc(api, "create_task", "first")
    async with Hold.of(direct, 0) as hold:
        call = asyncio.create_task(rpc(api, "create_task", "late"))
        # Nobody waits for it, so that it is PostgreSQL's own clock that ends the apply: only then is the fence asked.
        while not await hold.aborted():
            await asyncio.sleep(0.01)
        await hold.release()
    attempts = re.search(r'attempts;desc="(\d+)"', (await call).headers["server-timing"])
    assert int(attempts[1]) > 1

    async def stranger(barrier: asyncio.Barrier) -> tuple[str, int]:
        connection = await asyncpg.connect(pooler.url(direct), statement_cache_size=0)
        try:
            async with connection.transaction():
                await barrier.wait()  # all of them have a connection of the pool
                setting, pid, _ = await connection.fetchrow(
                    "SELECT current_setting('statement_timeout'), pg_backend_pid(), pg_sleep($1)",
                    1.5 * STATEMENT_MS / 1000,
                )
            return setting, pid
        finally:
            await connection.close()

    barrier = asyncio.Barrier(POOL)
    found = await asyncio.gather(*(stranger(barrier) for _ in range(POOL)))
    assert [setting for setting, _ in found] == ["0"] * POOL
    assert len({pid for _, pid in found}) == POOL
