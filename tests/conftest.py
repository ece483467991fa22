"""Fixtures for all tests.

`postgres`: a real PostgreSQL server, thrown away after the run. `pooler`: a PgBouncer in front of it.
`tests/workerd/conftest.py` has `worker`, the Worker in the real runtime. They are started once a run, at their first
use, and stopped by their process ids; a helper process stops them even if pytest itself is killed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from support import parts, programs
from support.pgbouncer import PgBouncer, pgbouncer
from support.postgres import Postgres

# What users have for their applications, as tests/app uses it.
pytest_plugins = ["kontract.testing.pytest"]

# No deadline: a busy machine is not a defect. No database of earlier failures: every run begins alike.
settings.register_profile("kontract", deadline=None, database=None, print_blob=True)
settings.load_profile("kontract")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> parts.Scheduling:
    """Give files that share something expensive to one process, whatever --dist says."""
    return parts.Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and skip what this machine has no program for."""
    items.sort(key=lambda item: parts.place(item.nodeid))
    for item in items:
        needs = programs.needs_of(item)
        if needs:
            item.add_marker("optional")  # `-m optional` chooses these
        if (reason := programs.reason(needs)) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Without optional programs there are none on PATH either, for whatever a test runs."""
    if programs.hidden():
        folder = Path(tempfile.mkdtemp(prefix="kontract-path-"))
        config.add_cleanup(lambda: shutil.rmtree(folder))
        programs.hide(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Without optional programs, a test that needs one and is not skipped has failed: it found another way to it."""
    report = yield
    if programs.hidden() and "optional" in item.keywords and report.when == "setup" and not report.skipped:
        report.outcome = "failed"
        report.longrepr = f"it needs {programs.needs_of(item)}, and was not skipped without: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """This clone."""
    return Checkout.find(Path(__file__).parent)


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Stops what is left when pytest dies: tell it what was started."""
    process = Reaper()
    yield process
    process.close()


@pytest.fixture(scope="session")
def postgres(checkout: Checkout, reaper: Reaper) -> Iterator[Postgres]:
    """A PostgreSQL server. `.url` is a database with the schema; `.create_database()` gives a fresh one."""
    with Postgres.started(checkout, reaper) as server:
        yield server


@pytest.fixture(scope="session")
@programs.needing("pgbouncer")
def pooler(postgres: Postgres, reaper: Reaper) -> Iterator[PgBouncer]:
    """A pooler in transaction mode; tests that ask for it are skipped where there is none."""
    with pgbouncer(postgres.cluster, reaper) as server:
        yield server
