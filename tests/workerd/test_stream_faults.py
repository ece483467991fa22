"""A change stream while workerd is killed and PostgreSQL crashes: what was committed is heard once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.postgres import Postgres
from support.sessions import bearer_for
from support.worker import running_worker
from workerd.test_stream import Events, listening

pytestmark = pytest.mark.timeout(600)

WRITERS = 4
BETWEEN = 15
"""Commits acknowledged before, between and after the faults."""


@pytest.fixture(scope="module")
def database(checkout: Checkout, reaper: Reaper) -> Iterator[Postgres]:
    """A server of its own, which the test crashes."""
    with Postgres.started(checkout, reaper, synchronous_commit="on") as server:
        yield server


@pytest.fixture(scope="module")
def server(checkout: Checkout, database: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory):
    with running_worker(checkout, database.create_database(), tmp_path_factory.mktemp("streaming"), reaper) as running:
        yield running


class Reader:
    """A client that comes back whenever its stream ends, with the last id; it forgets half of a transaction."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self.api = api
        self.last_id = ""
        self.seen: list[tuple[int, str]] = []
        self.connections = 0
        self.resets = 0

    async def run(self) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError, AssertionError, EOFError):
                async with listening(self.api, "table=accounts", self.last_id) as events:
                    self.connections += 1
                    await self._read(events)
            await asyncio.sleep(0.2)

    async def _read(self, events: Events) -> None:
        pending: list[tuple[int, str]] = []
        before = events.last_id
        while True:
            name, data = await events()
            self.resets += name == "reset"
            if name == "end":
                return
            if not name:
                pending.append((data["txid"], data["id"]))
            if events.last_id != before:
                self.seen += pending
                pending, before = [], events.last_id
                self.last_id = before


async def test_every_commit_is_heard_once_and_in_order_whatever_is_killed(server: DevServer, database: Postgres):
    """Kill workerd, crash PostgreSQL, kill workerd again, under writers; compare with the rows of the database."""
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(
        base_url=server.url, headers=bearer_for(server), timeout=30, limits=limits, trust_env=False
    ) as api:
        names = [f"s{n}" for n in range(8)]
        for name in names:
            assert (await api.post("/rpc/open_account", json=[name, 1000])).status_code == 200
        reader = Reader(api)
        reading = asyncio.ensure_future(reader.run())
        while not reader.connections:
            await asyncio.sleep(0.05)
        first = int(reader.last_id.rpartition("-")[2]) if reader.last_id else await newest(server)
        acknowledged: set[int] = set()
        going = True

        async def write(number: int) -> None:
            dice = random.Random(number)
            for n in itertools.count():
                if not going:
                    return
                src, dst = dice.sample(names, 2)
                with contextlib.suppress(httpx.HTTPError):
                    key = {"Idempotency-Key": f"w{number}-{n}"}
                    response = await api.post("/rpc/transfer", json=[src, dst, 1], headers=key)
                    if response.status_code == 200:
                        acknowledged.add(int(response.headers["x-kontract-txid"]))

        async def some_more() -> None:
            target = len(acknowledged) + BETWEEN
            while len(acknowledged) < target:
                await asyncio.sleep(0.02)

        writers = [asyncio.ensure_future(write(number)) for number in range(WRITERS)]
        await some_more()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await some_more()
        await asyncio.to_thread(database.stop, signal.SIGQUIT)
        await asyncio.to_thread(database.start)
        await some_more()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await some_more()
        going = False
        await asyncio.gather(*writers)
        assert (await api.post("/rpc/open_account", json=["the-end", 0])).status_code == 200
        async with asyncio.timeout(60):
            while not any(name == "the-end" for _, name in reader.seen):
                await asyncio.sleep(0.05)
        reading.cancel()

    committed = [row for row in await versions(server) if row[0] > first]
    assert len(reader.seen) == len(set(reader.seen))
    assert [txid for txid, _ in reader.seen] == sorted(txid for txid, _ in reader.seen)
    assert sorted(reader.seen) == sorted(committed)
    assert acknowledged - {txid for txid, _ in committed} - set(range(first + 1)) == set()
    assert reader.resets == 0
    assert reader.connections >= 3, "nothing was interrupted: the test shows nothing"


async def versions(server: DevServer) -> list[tuple[int, str]]:
    connection = await asyncpg.connect(server.database_url)
    try:
        rows = await connection.fetch("SELECT _txid, id FROM tbl_accounts_9b27e4")
        return [(row[0], row[1]) for row in rows]
    finally:
        await connection.close()


async def newest(server: DevServer) -> int:
    return max(txid for txid, _ in await versions(server))
