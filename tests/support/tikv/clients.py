"""Clients for tests that can use a real cluster as well as the fake one."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kontract.server.tikv import KeyValue, TiKV, connect_tikv
from support.tikv.cluster import FakeCluster

Connect = Callable[[], TiKV]

KEYSPACE = "contract/"

LOG = b"contract/log/5:owner/"
SPLITS = (
    b"contract/contract-8", b"contract/log", LOG + b"c", LOG + b"e\0\0\0\0\0\0\0\x04", LOG + b"e\0\0\0\0\0\0\0\x20",
    b"contract/shared/34", b"contract/t",
)  # fmt: skip
"""Where regions of the fake begin: in the middle of what the tests write."""


@asynccontextmanager
async def connections() -> AsyncIterator[Connect]:
    """Connect to the cluster that KONTRACT_TEST_TIKV names, or to a fake one: each call is another client."""
    clients: list[TiKV] = []
    real = os.environ.get("KONTRACT_TEST_TIKV")
    keyspace = f"kontract-test-{secrets.token_hex(6)}/" if real else KEYSPACE

    def connect(endpoints: str | list[str]) -> TiKV:
        clients.append(connect_tikv(endpoints, keyspace=keyspace))
        return clients[-1]

    try:
        if real:
            yield lambda: connect(real)
            while keys := await connect(real).raw.scan_keys(b"", b"\xff", 512):
                await clients[-1].raw.delete_many(keys)
        else:
            async with FakeCluster.started() as cluster:
                cluster.topology.split(*SPLITS)
                yield lambda: connect(cluster.endpoints)
                assert cluster.data.mixed == set(), "written with and without single-row transactions"
    finally:
        for client in clients:
            await client.aclose()


class Plain:
    """A client of somebody's own with the document's four methods, over a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def put(self, key: str, value: str) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def scan(self, prefix: str, limit: int) -> list[KeyValue]:
        keys = sorted((key for key in self.values if key.startswith(prefix)), key=str.encode)
        return [KeyValue(key, self.values[key]) for key in keys[:limit]]
