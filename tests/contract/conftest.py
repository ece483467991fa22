"""What the contracts run over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kontract.cli.toolchain.checkout import Checkout
from support.postgres import Postgres
from support.tikv.clients import Connect, connections


@pytest.fixture
async def tikv() -> AsyncIterator[Connect]:
    """Connects to a cluster; each call is another client, as on another node."""
    async with connections() as connect:
        yield connect


@pytest.fixture(scope="session")
def coordinated(postgres: Postgres, checkout: Checkout) -> str:
    """The URL of a database that has the tables of several nodes."""
    url = postgres.create_database()
    postgres.run(url, (checkout.root / "sql" / "coordination.sql").read_text(encoding="utf-8"))
    return url
