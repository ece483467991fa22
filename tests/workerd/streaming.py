"""A stream and writers, while something is killed: what has to come out, wherever the gateway runs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx

from workerd.test_stream import Events, listening

WRITERS = 4
BETWEEN = 15
"""Commits acknowledged before, between and after the faults."""


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


class Writers:
    """Transfers that go on through everything, and which of them were acknowledged."""

    def __init__(self, api: httpx.AsyncClient, names: list[str]) -> None:
        self.acknowledged: set[int] = set()
        self._api = api
        self._names = names
        self._going = True

    async def run(self) -> None:
        await asyncio.gather(*(self._write(number) for number in range(WRITERS)))

    async def some_more(self) -> None:
        """Wait until BETWEEN more have been acknowledged."""
        target = len(self.acknowledged) + BETWEEN
        while len(self.acknowledged) < target:
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._going = False

    async def _write(self, number: int) -> None:
        dice = random.Random(number)
        for n in itertools.count():
            if not self._going:
                return
            src, dst = dice.sample(self._names, 2)
            with contextlib.suppress(httpx.HTTPError):
                key = {"Idempotency-Key": f"w{number}-{n}"}
                response = await self._api.post("/rpc/transfer", json=[src, dst, 1], headers=key)
                if response.status_code == 200:
                    self.acknowledged.add(int(response.headers["x-kontract-txid"]))


@asynccontextmanager
async def everything_is_heard(api: httpx.AsyncClient, database_url: str) -> AsyncIterator[Writers]:
    """Write and listen while the block injects its faults; then every commit has been heard once, in order."""
    names = [f"s{n}" for n in range(8)]
    for name in names:
        assert (await api.post("/rpc/open_account", json=[name, 1000])).status_code == 200
    reader = Reader(api)
    reading = asyncio.ensure_future(reader.run())
    while not reader.connections:
        await asyncio.sleep(0.05)
    first = max(txid for txid, _ in await versions(database_url))
    if reader.last_id:
        first = int(reader.last_id.rpartition("-")[2])
    writers = Writers(api, names)
    writing = asyncio.ensure_future(writers.run())
    await writers.some_more()
    yield writers
    await writers.some_more()
    writers.stop()
    await writing
    assert (await api.post("/rpc/open_account", json=["the-end", 0])).status_code == 200
    async with asyncio.timeout(60):
        while not any(name == "the-end" for _, name in reader.seen):
            await asyncio.sleep(0.05)
    reading.cancel()
    committed = [row for row in await versions(database_url) if row[0] > first]
    assert len(reader.seen) == len(set(reader.seen))
    assert [txid for txid, _ in reader.seen] == sorted(txid for txid, _ in reader.seen)
    assert sorted(reader.seen) == sorted(committed)
    assert writers.acknowledged <= {txid for txid, _ in committed} | set(range(first + 1))
    assert reader.resets == 0
    assert reader.connections >= 2, "nothing was interrupted: the test shows nothing"


async def versions(database_url: str) -> list[tuple[int, str]]:
    """Each commit of a row of accounts: (txid, id)."""
    connection = await asyncpg.connect(database_url)
    try:
        return [(row[0], row[1]) for row in await connection.fetch("SELECT _txid, id FROM tbl_accounts_9b27e4")]
    finally:
        await connection.close()
