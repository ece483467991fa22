"""The contracts of kontract.testing, over everything that ships: memory, PostgreSQL and TiKV."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator

import pytest
from msgspec import Raw

from kontract.core import limits
from kontract.core.shared.state import (
    DictRows,
    SharedCount,
    SharedDelete,
    SharedGet,
    SharedRefused,
    SharedSet,
    SharedState,
    SharedValue,
)
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


async def test_a_full_room_of_counters_refuses_nobody_and_keeps_the_high_ones(nodes, monkeypatch):
    """A flood of new keys drives out new keys: whoever is near a limit stays there, and values are not touched."""
    monkeypatch.setattr(limits, "SHARED_COUNTERS", 400)
    owner = f"flooded-{secrets.token_hex(4)}"

    async def count(number: int, key: str) -> int:
        answer = await nodes[number % len(nodes)](owner).shared(SharedCount(key, 3_600_000))
        assert isinstance(answer, SharedValue), answer
        return json.loads(bytes(answer.value))

    high = [f"high-{n}" for n in range(5)]
    for key in high:
        assert [await count(n, key) for n in range(12)] == list(range(1, 13))
    await nodes[0](owner).shared(SharedSet("value", Raw(b"1")))
    for start in range(0, 1_500, 50):
        assert {await done for done in [count(n, f"flood-{n}") for n in range(start, start + 50)]} == {1}
    assert [await count(n, key) for n, key in enumerate(high)] == [13] * 5
    assert [await count(n, f"flood-{n}") for n in range(0, 100, 7)] == [1] * 15, "the first of the flood are forgotten"
    value = await nodes[-1](owner).shared(SharedGet("value"))
    assert isinstance(value, SharedValue)
    assert bytes(value.value) == b"1"


async def test_a_full_room_of_values_does_not_keep_counters_from_counting(nodes, monkeypatch):
    """Nor a full room of counters values: an application that fills ``ctx.shared`` locks nobody out."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 3)
    owner = f"full-{secrets.token_hex(4)}"
    stub = nodes[0](owner)
    answers = [await stub.shared(SharedSet(f"k{n}", Raw(b"1"))) for n in range(5)]
    assert [type(answer) for answer in answers] == [SharedValue] * 3 + [SharedRefused] * 2
    for n in range(20):
        assert isinstance(await stub.shared(SharedCount(f"c{n}", 3_600_000)), SharedValue)
    assert isinstance(await stub.shared(SharedDelete("k0")), SharedValue)
    assert isinstance(await stub.shared(SharedSet("k9", Raw(b"1"))), SharedValue)


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
