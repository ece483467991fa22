"""Three servers, the proxy in front of them, the pooler behind, and a PostgreSQL that the tests may crash."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from nodes.fleet import POOL, new_database, start_nodes
from support.pgbouncer import PgBouncer, pgbouncer
from support.postgres import Postgres
from support.programs import needing
from support.proxies import proxy
from support.serving import Server
from workerd.runs import prepare


@dataclass
class Cluster:
    """What the tests work on. `url` is the proxy's, `database_url` leads to PostgreSQL itself."""

    url: str
    database_url: str
    nodes: list[Server]
    pooler: PgBouncer
    postgres: Postgres


@pytest.fixture(scope="package")
def database(checkout: Checkout, reaper: Reaper) -> Iterator[Postgres]:
    """A server of its own, which the tests may crash; so it must not acknowledge what a crash would undo."""
    with Postgres.started(checkout, reaper, synchronous_commit="on") as server:
        yield server


@pytest.fixture(scope="package")
@needing("haproxy", "pgbouncer")
def served(
    checkout: Checkout, database: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Three nodes behind HAProxy, in front of PgBouncer in transaction mode."""
    url = new_database(database)
    asyncio.run(prepare(url))
    with ExitStack() as stack:
        pooler = stack.enter_context(pgbouncer(database.cluster, reaper, POOL))
        nodes = start_nodes(stack, 3, checkout, pooler.url(url), tmp_path_factory.mktemp, reaper)
        port = stack.enter_context(proxy("haproxy", [node.port for node in nodes], reaper)).port
        yield Cluster(f"https://127.0.0.1:{port}", url, nodes, pooler, database)
