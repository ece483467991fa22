"""`kontract serve`, started once a run: with the demo and the functions of `support/apps/pausing.py`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from support import apps
from support.postgres import Postgres
from support.serving import Server, new_server, running_server
from support.sessions import bearer_for

TESTS = Path(__file__).parents[1]
PAUSING = Path(apps.__path__[0]) / "pausing.py"


@contextmanager
def fake_tikv() -> Iterator[str]:
    """The address of PD of a fake TiKV cluster, which is a process of its own and ends with its standard input."""
    command = [sys.executable, "-m", "support.tikv"]
    with subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture(scope="session")
def pd() -> Iterator[str]:
    """The address of PD of a fake TiKV cluster."""
    with fake_tikv() as address:
        yield address


@pytest.fixture(scope="session", params=["memory", "postgres", "tikv"])
def worker(
    request: pytest.FixtureRequest,
    checkout: Checkout,
    postgres: Postgres,
    reaper: Reaper,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """In place of the Worker of tests/workerd, for the same tests: the demo alone, with each kind of coordination."""
    where = request.param
    variables: dict[str, str | None] = {"KONTRACT_COORDINATION": where}
    url = postgres.create_database(coordination=where == "postgres")
    with ExitStack() as stack:
        if where == "tikv":  # its own: a log that knows of another database would take this one for an older state
            variables["TIKV_PD_ENDPOINT"] = stack.enter_context(fake_tikv())
        yield stack.enter_context(running_server(checkout, url, tmp_path_factory.mktemp("served"), reaper, **variables))


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
