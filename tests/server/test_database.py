"""The pool: network turns, limits of time that outlive the process, poolers, and connections that break."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import asyncpg
import pytest

from kontract.core.statements import Statement
from kontract.ports import DatabaseError, DatabaseUnavailableError
from kontract.server import database
from kontract.server.database import Pool
from support.turns import counted

READ = Statement("SELECT $1::text WHERE now() IS NOT NULL", ("a",))
WRITE = Statement("SELECT $1::text WHERE now() IS NOT NULL", ("a",), 5_000)
BACKEND = Statement("SELECT pg_backend_pid() WHERE now() IS NOT NULL")
TIMEOUT = Statement("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'")


@pytest.fixture
def url(postgres):
    return postgres.create_database()


@pytest.fixture
async def pool(url):
    one = Pool(url, 2)
    yield one
    await one.aclose()


async def turns_of(pool: Pool, statement: Statement, turns) -> float:
    await pool.run(statement)
    before = turns.count
    for _ in range(5):
        await pool.run(statement)
    return (turns.count - before) / 5


@pytest.mark.parametrize(("prepared", "read", "write"), [("auto", 1, 1), ("on", 1, 1), ("off", 1, 1)])
async def test_turns_to_postgresql(url, prepared, read, write):
    """One for everything, even where statements must not be prepared."""
    async with counted(url) as turns:
        pool = Pool(turns.url, 1, prepared)
        assert [await turns_of(pool, READ, turns), await turns_of(pool, WRITE, turns)] == [read, write]
        assert not (await pool.access()).pooled
        assert await pool.run(TIMEOUT) == [(5000,)]
        await pool.aclose()


async def test_turns_through_a_pooler(url, pooler):
    """One for everything, although statements cannot stay prepared. Never a transaction around one (see `_run`)."""
    async with counted(pooler.url(url)) as turns:
        pool = Pool(turns.url, 1)
        assert [await turns_of(pool, READ, turns), await turns_of(pool, WRITE, turns)] == [1, 1]
        access = await pool.access()
        assert (access.pooled, access.prepared, access.is_unbounded) == (True, False, True)
        await pool.aclose()


@pytest.fixture
async def limited(postgres):
    """A database whose statements PostgreSQL ends after a while, whoever connects; as ALTER ROLE does it."""
    url = postgres.create_database()
    sql = await asyncpg.connect(url)
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET statement_timeout = '2s'")
    await sql.close()
    return url


async def test_a_limit_of_the_role_is_known(limited, pooler):
    """PostgreSQL applies it to every connection that the pooler opens."""
    pool = Pool(pooler.url(limited), 1)
    access = await pool.access()
    assert (access.role_timeout_ms, access.is_unbounded) == (2_000, False)
    await pool.aclose()


@pytest.mark.parametrize("way", ["direct", pytest.param("pooled", marks=pytest.mark.needs("pgbouncer"))])
async def test_a_statement_that_takes_too_long_is_ended_by_the_server(limited, way, request):
    """And its connection is as good as before."""
    reached = limited if way == "direct" else request.getfixturevalue("pooler").url(limited)
    pool = Pool(reached, 1)
    with pytest.raises(DatabaseError) as caught:
        await pool.run(Statement("SELECT pg_sleep(600) WHERE now() IS NOT NULL", (), 5_000))
    assert caught.value.sqlstate == "57014"
    connection = pool._idle[0].connection
    assert await pool.run(READ) == [("a",)]
    assert pool._idle[0].connection is connection
    await pool.aclose()


@pytest.mark.parametrize("way", ["direct", pytest.param("pooled", marks=pytest.mark.needs("pgbouncer"))])
async def test_a_statement_of_a_process_that_was_killed_does_not_wait_for_ever(limited, way, request):
    """It waits on a lock when its process dies; PostgreSQL does not notice that, but the time is over."""
    url = limited
    reached = url if way == "direct" else request.getfixturevalue("pooler").url(url)
    program = (
        "import asyncio, sys\n"
        "from kontract.core.statements import Statement\n"
        "from kontract.server.database import Pool\n"
        "statement = Statement('UPDATE storage SET owner = owner', (), 5000)\n"
        "asyncio.run(Pool(sys.argv[1], 1).run(statement))\n"
    )
    sql, look = await asyncpg.connect(url), await asyncpg.connect(url)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'storage'::regclass"
    try:
        async with sql.transaction():
            await sql.execute("LOCK TABLE storage")
            process = subprocess.Popen([sys.executable, "-c", program, reached])
            while not await look.fetchval(waiting):
                assert process.poll() is None
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            async with asyncio.timeout(60):
                while await look.fetchval(waiting):
                    await asyncio.sleep(0.1)
    finally:
        await sql.close()
        await look.close()


async def test_statements_that_a_pooler_has_forgotten_are_prepared_no_more(url, pooler):
    """`on` for a pooler that cannot: the first error turns it off, and nobody notices."""
    pools = [Pool(pooler.url(url), 2, "on") for _ in range(4)]
    rounds = 0
    while any([(await pool.access()).prepared for pool in pools]):
        rows = await asyncio.gather(*(pool.run(READ) for pool in pools for _ in range(4)))
        assert rows == [[("a",)]] * 16
        rounds += 1
        assert rounds < 1_000, "the pooler did not forget anything"
    for pool in pools:
        await pool.aclose()


async def test_connections_are_shared_statement_by_statement(url):
    """More tasks than connections, none waits for more than its turn; the newest is used first."""
    pool = Pool(url, 3)
    answers = await asyncio.gather(*(pool.run(BACKEND) for _ in range(60)))
    assert len({answer[0][0] for answer in answers}) <= 3
    assert (pool.open_connections, pool.in_use, pool.waiting) == (len({a[0][0] for a in answers}), 0, 0)
    again = {(await pool.run(BACKEND))[0][0] for _ in range(10)}
    assert len(again) == 1
    await pool.aclose()
    with pytest.raises(DatabaseUnavailableError, match="shutting down"):
        await pool.run(READ)


async def test_who_waits_is_not_forgotten_and_not_for_ever(url, monkeypatch):
    """A caller that gives up while it waits leaves its turn to the next; one that waits too long is told so."""
    pool = Pool(url, 1)
    await pool.run(READ)
    held = await pool._take()
    first = asyncio.create_task(pool.run(READ))
    second = asyncio.create_task(pool.run(READ))
    while pool.waiting < 2:
        await asyncio.sleep(0)
    pool._give_back(held)  # the first one's turn, which is cancelled before it knows
    first.cancel()
    assert await second == [("a",)]
    held = await pool._take()
    monkeypatch.setattr(database.limits, "TRANSACTION_MS", 50)
    with pytest.raises(DatabaseUnavailableError, match="all 1 connections were in use"):
        await pool.run(READ)
    pool._give_back(held)
    assert await pool.run(READ) == [("a",)]
    await pool.aclose()


async def test_a_cancelled_statement_leaves_nothing_in_its_connection(url, pool):
    """The next statement gets its own answer."""
    task = asyncio.create_task(pool.run(Statement("SELECT pg_sleep(600), 'other'")))
    sql = await asyncpg.connect(url)
    while not await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        await asyncio.sleep(0.01)
    await sql.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.in_use == 0
    assert await pool.run(READ) == [("a",)]


async def test_connections_that_broke_are_replaced(url):
    """Those that were idle without a word to anybody; one in use says that the outcome is not known."""
    async with counted(url) as turns:
        pool = Pool(turns.url, 2)
        await asyncio.gather(pool.run(READ), pool.run(READ))
        turns.cut()
        while not all(held.connection.is_closed() for held in pool._idle):
            await asyncio.sleep(0.01)
        assert await pool.run(READ) == [("a",)]
        task = asyncio.create_task(pool.run(Statement("SELECT pg_sleep(600)")))
        while pool.in_use == 0:
            await asyncio.sleep(0)
        before = turns.count
        while turns.count == before:
            await asyncio.sleep(0.01)
        turns.cut()
        with pytest.raises(DatabaseUnavailableError):
            await task
        assert await pool.run(READ) == [("a",)]
        await pool.aclose()


async def test_a_pool_outlives_a_restart_of_its_server(checkout, reaper):
    """Errors while it is away, answers when it is back, no connection lost count of."""
    from support.postgres import Postgres

    with Postgres.started(checkout, reaper) as server:
        pool = Pool(server.create_database(), 2)
        await asyncio.gather(pool.run(READ), pool.run(READ))
        await asyncio.to_thread(server.stop, signal.SIGINT)
        for _ in range(3):
            with pytest.raises((DatabaseUnavailableError, DatabaseError)):
                await pool.run(READ)
        await asyncio.to_thread(server.start)
        assert await pool.run(READ) == [("a",)]
        assert pool.open_connections == 1
        await pool.aclose()


async def test_old_and_idle_connections_are_closed(url, monkeypatch):
    """A connection that nobody needs does not stay open for ever, and none gets older than its time."""
    monkeypatch.setattr(database, "IDLE_SECONDS", 0.05)
    pool = Pool(url, 2)
    first = await pool.run(BACKEND)
    while pool.open_connections:
        await asyncio.sleep(0.01)
    assert await pool.run(BACKEND) != first
    monkeypatch.setattr(database, "LIFE_SECONDS", 0.0)
    await pool.run(BACKEND)
    assert pool.open_connections == 0
    await pool.aclose()


async def test_rows_that_a_policy_hides_do_not_vanish_without_a_word(postgres):
    """The statement fails: an answer without them would look like a whole one."""
    url = postgres.create_database()
    sql = await asyncpg.connect(url)
    await sql.execute(
        "DROP ROLE IF EXISTS shaded; CREATE ROLE shaded LOGIN PASSWORD 's'; GRANT SELECT ON tbl_tasks_5f0c1d TO shaded;"
        "ALTER TABLE tbl_tasks_5f0c1d ENABLE ROW LEVEL SECURITY"
    )
    pool = Pool(f"postgresql://shaded:s@{url.partition('@')[2]}", 1)
    with pytest.raises(DatabaseError, match="row-level security") as caught:
        await pool.run(Statement("SELECT id FROM tbl_tasks_5f0c1d"))
    assert caught.value.sqlstate == "42501"
    await pool.aclose()
    await sql.execute("DROP OWNED BY shaded; DROP ROLE shaded")
    await sql.close()


async def test_only_a_connection_of_its_own_has_to_be_given_back(url, pool):
    """A request's end costs a task where there is something to close, and nothing with the pool."""
    pooled, single = pool.database(), database.AsyncpgDatabase(url)
    assert [pooled.is_open, single.is_open] == [False, False]
    for one in (pooled, single):
        await one.run(READ)
    assert [pooled.is_open, single.is_open] == [False, True]
    await single.aclose()
    assert not single.is_open
