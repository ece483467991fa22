"""A change stream while workerd is killed and PostgreSQL crashes: what was committed is heard once, in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.postgres import Postgres
from support.sessions import bearer_for
from support.worker import running_worker
from workerd.streaming import everything_is_heard

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def database(checkout: Checkout, reaper: Reaper) -> Iterator[Postgres]:
    """A server of its own, which the test crashes."""
    with Postgres.started(checkout, reaper, synchronous_commit="on") as server:
        yield server


@pytest.fixture(scope="module")
def server(checkout: Checkout, database: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory):
    with running_worker(checkout, database.create_database(), tmp_path_factory.mktemp("streaming"), reaper) as running:
        yield running


async def test_every_commit_is_heard_once_and_in_order_whatever_is_killed(server: DevServer, database: Postgres):
    """Kill workerd, crash PostgreSQL, kill workerd again, under writers; compare with the rows of the database."""
    limits = httpx.Limits(max_connections=50)
    async with (
        httpx.AsyncClient(
            base_url=server.url, headers=bearer_for(server), timeout=30, limits=limits, trust_env=False
        ) as api,
        everything_is_heard(api, server.database_url) as writers,
    ):
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await writers.some_more()
        await asyncio.to_thread(database.stop, signal.SIGQUIT)
        await asyncio.to_thread(database.start)
        await writers.some_more()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
