"""The contracts of kontract.testing, over everything that ships: memory, PostgreSQL and TiKV."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kontract.core.shared import DictRows, SharedState
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import LocalShared
from kontract.server.shared_postgres import PostgresShared
from kontract.server.shared_tikv import create_tikv_adapter
from kontract.server.system import SystemClock
from kontract.testing import contracts
from support.tikv.clients import Plain, connections


@pytest.fixture(params=["memory", "postgres", "tikv", "a client without swaps"])
async def nodes(request) -> AsyncIterator[contracts.Nodes]:
    """Three nodes that share their state; one, where the state is that of one process."""
    match request.param:
        case "memory":
            states: dict[str, LocalShared] = {}

            def local(owner: str) -> LocalShared:
                return states.setdefault(owner, LocalShared(SharedState(DictRows()), SystemClock()))

            yield [local]
        case "postgres":
            databases = [AsyncpgDatabase(request.getfixturevalue("coordinated")) for _ in range(3)]
            yield [PostgresShared(database).for_owner for database in databases]
            for database in databases:
                await database.aclose()
        case "tikv":
            async with connections() as connect:
                yield [create_tikv_adapter(connect())[0].for_owner for _ in range(3)]
        case _:
            yield [create_tikv_adapter(Plain())[0].for_owner]


@pytest.mark.parametrize("case", contracts.DO_STUB, ids=contracts.name)
async def test_shared_state(nodes, case):
    """A shared state is the same wherever it is kept."""
    await case(nodes)


@pytest.mark.parametrize("case", contracts.TIKV_CLIENT, ids=contracts.name)
@pytest.mark.parametrize("client", ["built in", "plain"])
async def test_tikv_client(tikv, client, case):
    """The client that is built in, and a plain one, do what the document asks of a client."""
    await case(tikv() if client == "built in" else Plain())


@pytest.mark.parametrize("case", contracts.ATOMIC_TIKV_CLIENT, ids=contracts.name)
async def test_atomic_tikv_client(tikv, case):
    """The one that is built in can compare and swap."""
    await case(tikv())


@pytest.mark.parametrize("case", contracts.KV_STORE, ids=contracts.name)
@pytest.mark.parametrize("client", ["built in", "plain"])
async def test_kv_store(tikv, client, case):
    """Copies are kept in TiKV by either."""
    await case(create_tikv_adapter(tikv() if client == "built in" else Plain())[1])
