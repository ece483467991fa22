"""Fixtures for pytest. A line in ``tests/conftest.py`` enables them: ``pytest_plugins = ["kontract.testing.pytest"]``.

``api``: a caller of the application, which runs in this process with real transactions over a real PostgreSQL; each
test begins with empty tables. ``app``: the application itself: other callers, clock, rows, conflicts. ``worker``: the
application in workerd, started once per run.

A project may override ``kontract_environment``: the variables and secrets that its functions find in ``ctx.env``.
"""

from __future__ import annotations

import sys
import tomllib
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from kontract.cli import build
from kontract.cli.toolchain import dev_vars
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.gateway.routes import Registry
from kontract.testing.app import Api, App
from kontract.testing.database import Server
from kontract.testing.worker import Worker

OWNER = "tenant-1"
"""The tenant of the tests if wrangler.toml has no KONTRACT_OWNER."""


@pytest_asyncio.fixture
async def app(
    kontract_registry: Registry, kontract_database: str, kontract_environment: dict[str, str]
) -> AsyncIterator[App]:
    """The application in this process: ``app.as_user("ann")``, ``app.clock``, ``app.rows("tasks")``, ``app.log``."""
    owner = kontract_environment.get("KONTRACT_OWNER") or OWNER
    async with App(kontract_registry, kontract_database, kontract_environment, owner) as running:
        yield running


@pytest_asyncio.fixture
async def api(app: App) -> Api:
    """A caller of the application, the user "developer" of its tenant: ``await api.create_task("Buy milk")``."""
    return app.as_user()


@pytest.fixture(scope="session")
def worker(
    kontract_checkout: Checkout,
    kontract_server: Server,
    kontract_reaper: Reaper,
    kontract_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    """The application in workerd: ``async with worker.as_user("ann") as api``. Its data stays during the run."""
    folder, url = tmp_path_factory.mktemp("worker"), kontract_server.create("worker")
    owner = kontract_environment.get("KONTRACT_OWNER") or OWNER
    with Worker.started(kontract_checkout, url, folder, kontract_reaper, kontract_environment, owner) as running:
        yield running


@pytest.fixture(scope="session")
def kontract_environment(kontract_checkout: Checkout) -> dict[str, str]:
    """Variables and secrets: the ``[vars]`` of wrangler.toml, and a KONTRACT_SECRET for this run."""
    config = tomllib.loads(kontract_checkout.wrangler_toml.read_text(encoding="utf-8"))
    variables = {name: str(value) for name, value in config.get("vars", {}).items()}
    return {**variables, "KONTRACT_SECRET": dev_vars.new_secret()}


@pytest.fixture(scope="session")
def kontract_checkout(pytestconfig: pytest.Config) -> Checkout:
    """The checkout of the project."""
    return Checkout.find(pytestconfig.rootpath)


@pytest.fixture(scope="session")
def kontract_registry(kontract_checkout: Checkout) -> Registry:
    """The project's functions, tables and middleware, read from src/app: src/routes.py is neither read nor written."""
    source = kontract_checkout.root / "src"
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    compiled: dict[str, Any] = types.ModuleType("routes").__dict__
    exec(build.render(build.scan(source)), compiled)  # noqa: S102 - it is ours
    return Registry(compiled["ROUTES"], compiled["TABLES"])


@pytest.fixture(scope="session")
def kontract_database(kontract_server: Server) -> str:
    """The URL of this process's test database."""
    return kontract_server.create("in_process")


@pytest.fixture(scope="session")
def kontract_server(kontract_reaper: Reaper) -> Iterator[Server]:
    """A PostgreSQL for this run."""
    with Server.started(kontract_reaper) as server:
        yield server


@pytest.fixture(scope="session")
def kontract_reaper() -> Iterator[Reaper]:
    """Stops what is still running when pytest is killed."""
    process = Reaper()
    yield process
    process.close()
