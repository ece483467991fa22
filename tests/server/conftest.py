"""`kontract serve`, started once a run: with the demo and the functions of `support/apps/pausing.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from support import apps
from support.postgres import Postgres
from support.serving import Server, new_server, running_server
from support.sessions import bearer_for

PAUSING = Path(apps.__path__[0]) / "pausing.py"


@pytest.fixture(scope="session")
def worker(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """In place of the Worker of tests/workerd, for the same tests: the demo alone."""
    with running_server(checkout, postgres.create_database(), tmp_path_factory.mktemp("served"), reaper) as server:
        yield server


@pytest.fixture
def serve(checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """How to start servers of one's own, each over a database of its own; they are stopped at the end."""
    made: list[Server] = []

    def start(database_url: str | None = None, **more) -> Server:
        url = database_url or postgres.create_database()
        given = {"modules": [PAUSING]} | more
        server = new_server(checkout, url, tmp_path / f"server-{len(made)}", reaper, **given)
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.stop()


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
    """How to make HTTP clients of a server; with the token of a developer, or of ``who``."""
    made: list[httpx.AsyncClient] = []

    def make(server: Server, **who) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        client = httpx.AsyncClient(
            base_url=server.url, headers=bearer_for(server, **who), timeout=60, limits=limits, trust_env=False
        )
        made.append(client)
        return client

    yield make
    for one in made:
        await one.aclose()
