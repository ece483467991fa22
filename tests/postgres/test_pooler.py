"""More clients than connections: no statement may need anything that an earlier one left in its session."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from msgspec import Raw

from kontract.core.messages import ABSENT, Write
from kontract.core.statements import ApplyPlan, Statement, Window
from kontract.core.transaction.store import SqlStore
from kontract.core.types import EVERY_ROW, Filter
from kontract.ports import ApplyOutcome
from kontract.server.database import AsyncpgDatabase
from support.pgbouncer import POOL
from support.postgres import apply

OWNER = "tenant-1"
CLIENTS = 16
ROUNDS = 8
BACKEND = Statement("SELECT pg_backend_pid() WHERE now() IS NOT NULL")

IN_USE = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
async def crowd(postgres, pooler):
    """Many stores over few connections, and a connection of one's own to look at them."""
    direct = postgres.create_database()
    stores = [SqlStore(AsyncpgDatabase(pooler.url(direct))) for _ in range(CLIENTS)]
    sql = await asyncpg.connect(direct)
    yield stores, sql
    await sql.close()
    for store in stores:
        await store.aclose()


async def test_every_client_is_served_and_told_the_truth(crowd):
    """Applies, repeated applies, resolvers, epochs, reads and the collection, all at once."""
    stores, sql = crowd
    await stores[0].take_over(OWNER, 1)
    table = await stores[0].lookup(OWNER, "tasks")
    backends: list[set[int]] = [set() for _ in stores]
    most = 0

    async def client(number: int, store: SqlStore) -> None:
        nonlocal most
        row = f"row{number}"
        for turn in range(ROUNDS):
            txid = 1 + turn * CLIENTS + number
            before = txid - CLIENTS if turn else ABSENT
            write = Write(table.name, table.ptr, row, before, Raw(b'{"client":%d,"turn":%d}' % (number, turn)))
            plan = ApplyPlan(f"s/{txid}", OWNER, "ann", txid, 1, [(table, [write])])
            assert await store.apply(plan) is ApplyOutcome.APPLIED
            assert await apply(store, plan) is ApplyOutcome.FAILED
            assert await store.resolve(f"s/{txid}", OWNER, txid) == txid
            assert await store.resolve(f"never/{txid}", OWNER, txid) == -txid
            assert await store.read_epoch(OWNER) == 1
            version = await store.read_row(table, row, txid)
            assert (version.txid, version.data) == (txid, f'{{"turn": {turn}, "client": {number}}}')
            [found] = await store.query(table, Filter({"client": number}), txid, Window(), ())
            assert found == version
            assert await store.count(table, EVERY_ROW, txid, ()) >= 1
            backends[number].add((await store._database.run(BACKEND))[0][0])
            most = max(most, await in_use())

    turn = asyncio.Lock()

    async def in_use() -> int:
        async with turn:
            return await sql.fetchval(IN_USE)

    await asyncio.gather(*(client(number, store) for number, store in enumerate(stores)))
    assert most <= POOL
    assert max(len(seen) for seen in backends) > 1, "nobody was ever given another connection"
    removed = await asyncio.gather(*(store.collect_versions(OWNER, 1, table.ptr, 10**6) for store in stores))
    assert sum(removed) == CLIENTS * (ROUNDS - 1)
    assert await sql.fetchval(f"SELECT count(*) FROM {table.ptr}") == CLIENTS
    assert await sql.fetch(f"SELECT id FROM {table.ptr} WHERE _deleted_txid IS NOT NULL") == []


async def test_a_statement_that_is_given_up_disturbs_nobody_else(crowd):
    """A client's time limit cancels its own statement, not that of whoever has its connection next."""
    stores, _ = crowd

    async def impatient(store: SqlStore) -> str:
        try:
            await store._database.run(Statement("SELECT pg_sleep(60)", (), 100))
        except Exception as error:  # noqa: BLE001 - whatever it is: it is told below
            return type(error).__name__
        return "answered"

    async def patient(store: SqlStore) -> list[int]:
        return [(await store._database.run(Statement("SELECT 1 FROM pg_sleep(0.02)")))[0][0] for _ in range(10)]

    half = CLIENTS // 2
    gave_up, served = await asyncio.gather(
        asyncio.gather(*(impatient(store) for store in stores[:half])),
        asyncio.gather(*(patient(store) for store in stores[half:])),
    )
    assert set(gave_up) == {"DatabaseUnavailableError"}
    assert served == [[1] * 10] * half
