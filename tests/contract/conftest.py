"""TiKV for the contracts: a fake cluster with several regions, or the real one that KONTRACT_TEST_TIKV names."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.server.tikv import TiKV, connect_tikv
from support.postgres import Postgres
from support.tikv import FakeCluster

KEYSPACE = "contract/"

Connect = Callable[[], TiKV]


@pytest.fixture
async def tikv() -> AsyncIterator[Connect]:
    """Connects to a cluster; each call is another client, as on another node."""
    clients: list[TiKV] = []

    def connect(endpoints: list[str] | str, keyspace: str) -> TiKV:
        clients.append(connect_tikv(endpoints, keyspace=keyspace))
        return clients[-1]

    try:
        real = os.environ.get("KONTRACT_TEST_TIKV")
        if real:
            keyspace = f"kontract-test-{secrets.token_hex(6)}/"
            yield lambda: connect(real, keyspace)
        else:
            async with FakeCluster.started() as cluster:
                middle = b"contract/log/5:owner/"
                cluster.topology.split(
                    b"contract/contract-8", b"contract/log", middle + b"c", middle + b"e\0\0\0\0\0\0\0\x04",
                    middle + b"e\0\0\0\0\0\0\0\x20", b"contract/shared/34", b"contract/t",
                )  # fmt: skip
                yield lambda: connect(cluster.endpoints, KEYSPACE)
                assert cluster.data.mixed == set(), "written with and without single-row transactions"
    finally:
        for client in clients:
            await client.aclose()


@pytest.fixture(scope="session")
def coordinated(postgres: Postgres, checkout: Checkout) -> str:
    """The URL of a database that has the tables of several nodes."""
    url = postgres.create_database()
    postgres.apply(url, checkout.root / "sql" / "coordination.sql")
    return url
