"""Nodes of `kontract serve` with the histories application, over one database behind a pooler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from support.postgres import Postgres
from support.serving import Server, new_server
from support.sessions import SECRET
from workerd.runs import APP

POOL = 16
"""Connections from the pooler to PostgreSQL; each server has eight."""

_LIMIT = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 5000', current_database()); END $$"
"""What docs/how-to/self-hosting.md does for the role."""


def new_database(postgres: Postgres) -> str:
    """The URL of a database for several nodes; the application's tables are still missing."""
    url = postgres.create_database(coordination=True)
    postgres.run(url, _LIMIT)
    return url


def start_nodes(
    stack: ExitStack, count: int, checkout: Checkout, url: str, folder: Callable[[str], Path], reaper: Reaper
) -> list[Server]:
    """Start nodes at once, and return them when all answer; `stack` stops them."""
    nodes = []
    for number in range(count):
        node = new_server(
            checkout,
            url,
            folder(f"node{number}"),
            reaper,
            modules=[APP],
            KONTRACT_SECRET=SECRET,
            KONTRACT_COORDINATION="postgres",
            KONTRACT_POOL="8",
        )
        node.spawn()
        stack.callback(node.stop)
        nodes.append(node)
    for node in nodes:
        node.wait_until_it_answers()
    return nodes
