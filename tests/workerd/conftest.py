"""The Worker in the real runtime, started once a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import support
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.laboratory import Laboratory, running_laboratory
from support.postgres import Postgres
from support.tls_front import certificate
from support.worker import running_worker


@pytest.fixture(scope="session")
def worker(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevServer]:
    """The Worker under `wrangler dev`, with a database of its own.

    `.url`, `.database_url`, `.log_text()`; `.kill()` ends wrangler and workerd with SIGKILL, and `.start()` brings them
    back on the same port and the same Durable Object state.
    """
    with running_worker(checkout, postgres.create_database(), tmp_path_factory.mktemp("worker"), reaper) as server:
        yield server


@pytest.fixture(scope="session")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for `localhost` that the laboratory trusts."""
    folder = tmp_path_factory.mktemp("trusted")
    certificate(folder)
    return folder


@pytest.fixture(scope="session")
def laboratory(
    checkout: Checkout, reaper: Reaper, trusted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    """A Worker of the tests' own, without a database: it runs functions of `support/in_workerd.py` in workerd."""
    folder = Path(support.__file__).parent
    modules = [
        folder / name for name in ("in_workerd.py", "crypto_operations.py", "noise_nk.py", "raystream_vectors.py")
    ]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NODE_EXTRA_CA_CERTS", str(trusted / "server.crt"))  # wrangler has workerd trust it
        with running_laboratory(checkout, tmp_path_factory.mktemp("laboratory"), reaper, modules) as running:
            yield running
