"""What the database will not accept is tried once, and the caller learns whose business it is."""

from __future__ import annotations

import asyncio
import time

import pytest

from kontract.core.statements import Statement
from kontract.server.database import AsyncpgDatabase, Pool
from postgres.test_gateway import own_table, put_account
from support.api import Api, apis, check_error


@pytest.fixture
async def api(postgres):
    async with apis(postgres, [put_account]) as make:
        yield make()


def url_of(api: Api) -> str:
    return api.platform.open_database()._url


async def refuse_with(api, body: str) -> None:
    """Have a trigger on the table that runs ``body``."""
    await own_table(api)
    await api.sql.execute(
        f"""CREATE SEQUENCE tries;
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON tbl_own_1 FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )


@pytest.mark.parametrize(
    ("sqlstate", "status", "code", "says"),
    [
        ("P0001", 400, "INVALID_REQUEST", "a trigger or function of the database refuses this"),
        ("KW042", 400, "INVALID_REQUEST", "a trigger or function of the database refuses this"),
        ("23514", 400, "INVALID_REQUEST", "refuses these values"),
        ("P0004", 500, "INTERNAL", "a trigger or function of the database failed"),
        ("42501", 500, "INTERNAL", "does not allow this to the gateway's role"),
        ("42P01", 503, "UNAVAILABLE", "a table of this application is missing"),
        ("53100", 503, "UNAVAILABLE", "disk is full"),
        ("25006", 503, "UNAVAILABLE", "the database accepts no writes now"),
    ],
)
async def test_what_trying_again_cannot_help_is_tried_once(api, sqlstate, status, code, says):
    await refuse_with(api, f"RAISE EXCEPTION 'secret words' USING ERRCODE = '{sqlstate}';")
    started = time.monotonic()
    refused = await api.rpc("put_account", "a", {"n": 1})
    assert says in check_error(refused, status, code)["message"]
    assert api.log[-1]["attempts"] == 1
    assert time.monotonic() - started < 2
    assert "secret words" not in refused.body.decode()
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_own_1") == 0


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "57014", "XX000"])
async def test_what_comes_from_the_moment_is_tried_again(api, sqlstate):
    await refuse_with(
        api, f"IF nextval('tries') < 3 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{sqlstate}'; END IF;"
    )
    await api.result("put_account", "a", {"n": 1})
    assert api.log[-1]["attempts"] == 3
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_own_1") == 1


async def test_a_right_that_the_role_has_not_is_tried_once(api):
    await own_table(api)
    role = "CREATE ROLE poor LOGIN PASSWORD 'poor'; GRANT USAGE ON SCHEMA public TO poor; GRANT ALL ON trxs TO poor"
    await api.sql.execute(f"DROP ROLE IF EXISTS poor; {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO poor")
    try:
        url = f"postgresql://poor:poor@{url_of(api).rpartition('@')[2]}"
        api.platform.open_database = lambda: AsyncpgDatabase(url)
        body = await api.error(500, "INTERNAL", "put_account", "a", {"n": 1})
        assert "does not allow this to the gateway's role" in body["message"]
        assert api.log[-1]["attempts"] == 1
    finally:
        await api.sql.execute("DROP OWNED BY poor; DROP ROLE poor")


@pytest.fixture
async def poor(api):
    """The gateway as a role that has all rights, until a test takes one away. Returns its pool."""
    await own_table(api)
    role = "CREATE ROLE poor LOGIN PASSWORD 'poor'; GRANT USAGE ON SCHEMA public TO poor"
    await api.sql.execute(f"DROP ROLE IF EXISTS poor; {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO poor")
    await api.sql.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO poor")
    pool = Pool(f"postgresql://poor:poor@{url_of(api).rpartition('@')[2]}", 3)
    pool.on_lost = api.platform.doubt
    api.platform.open_database = pool.database
    yield pool
    await pool.aclose()
    await api.sql.execute("DROP OWNED BY poor; DROP ROLE poor")


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "a-key-of-ours"}])
async def test_a_commit_is_refused_as_the_database_said_where_its_fence_is_refused_too(api, poor, headers):
    """The database said that nothing was applied, so the outcome is known, though the row waits for its fence."""
    await api.result("put_account", "a", {"n": 1})
    await api.sql.execute("REVOKE INSERT ON trxs FROM poor")
    body = check_error(await api.rpc("put_account", "a", {"n": 2}, **headers), 500, "INTERNAL")
    assert "does not allow this to the gateway's role" in body["message"]
    await api.sql.execute("GRANT INSERT ON trxs TO poor")
    await api.result("put_account", "a", {"n": 3})
    assert await api.sql.fetch("SELECT data->>'n' FROM tbl_own_1 ORDER BY _txid") == [("1",), ("3",)]


async def test_without_its_fences_a_commit_is_refused_as_the_database_said(api, poor):
    await api.result("put_account", "a", {"n": 1})
    await api.sql.execute("ALTER TABLE trxs RENAME TO elsewhere")
    body = await api.error(503, "UNAVAILABLE", "put_account", "a", {"n": 2})
    assert "a table of this application is missing" in body["message"]


@pytest.mark.parametrize(
    ("change", "back", "says"),
    [
        ("ALTER ROLE poor NOLOGIN", "ALTER ROLE poor LOGIN", "the database rejects the gateway's login"),
        ("ALTER ROLE poor CONNECTION LIMIT 0", "ALTER ROLE poor CONNECTION LIMIT -1", "takes no more connections"),
        ("ALTER DATABASE {} ALLOW_CONNECTIONS false", "ALTER DATABASE {} ALLOW_CONNECTIONS true", "not in a state to"),
    ],
)
async def test_a_coordinator_that_cannot_ask_says_what_the_database_said(api, postgres, poor, change, back, says):
    await api.result("put_account", "a", {"n": 1})
    database = await api.sql.fetchval("SELECT current_database()")
    try:
        postgres.run(postgres.server_url, change.format(database))
        async with asyncio.timeout(20):
            # Also those that something in the background is using: a call that lost one of them would be in doubt.
            while poor.in_use or not all(held.connection.is_closed() for held in poor._idle):
                await api.sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'poor'")
                await asyncio.sleep(0.01)
        body = await api.error(503, "UNAVAILABLE", "put_account", "a", {"n": 2})
        assert says in body["message"]
        assert says in check_error(await api.send("GET", "/ready"), 503, "UNAVAILABLE")["message"]
    finally:
        postgres.run(postgres.server_url, back.format(database))
    await api.result("put_account", "a", {"n": 3})


# --- a database that takes no writes ---------------------------------------------------------------------------------


async def read_only(api: Api, setting: str) -> None:
    """For connections that are opened from now on, as a provider does it when a disk is almost full."""
    database = api.url.rpartition("/")[2]
    await api.sql.execute("SET default_transaction_read_only = off")
    await api.sql.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = {setting}")


@pytest.fixture
async def pooled(api):
    """The gateway over a pool, as `kontract serve` has it; ``api.url`` is its database."""
    api.url = url_of(api)
    pool = Pool(api.url, 3)
    api.platform.open_database = pool.database
    yield api, pool
    await pool.aclose()


async def test_a_read_only_database_is_said_at_once_and_over_when_it_is_over(pooled, monkeypatch):
    """Sessions that were opened meanwhile stay read-only for as long as they live; the pool does not keep them."""
    api, pool = pooled
    await own_table(api)
    await api.result("put_account", "before", {"n": 1})
    assert (await api.send("GET", "/ready")).status == 200
    await read_only(api, "on")
    await pool.aclose()
    pool._closed = False
    for number in range(3):
        started = time.monotonic()
        body = await api.error(503, "UNAVAILABLE", "put_account", "meanwhile", {"n": number})
        assert "the database accepts no writes now" in body["message"]
        assert time.monotonic() - started < 2
    ready = check_error(await api.send("GET", "/ready"), 503, "UNAVAILABLE")
    assert "the database accepts no writes now" in ready["message"]
    assert (await api.send("GET", "/health")).status == 200
    pool._renewed_at -= 120
    held = [await pool._take() for _ in range(3)]  # all of them are read-only sessions
    for each in held:
        each.opened -= 60
        pool._give_back(each)
    assert pool.open_connections == 3
    await read_only(api, "off")
    assert (await api.send("GET", "/ready")).status == 200
    await api.result("put_account", "after", {"n": 1})
    assert await pool.run(Statement("SHOW transaction_read_only")) == [("off",)]
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_own_1") == 2


async def test_what_was_prepared_for_a_read_only_database_is_settled_when_it_takes_writes_again(pooled):
    """Its row is not blocked for others, and it is not there."""
    api, pool = pooled
    await own_table(api)
    await api.result("put_account", "a", {"n": 1})
    await read_only(api, "on")
    await pool.aclose()
    pool._closed = False
    await api.error(503, "UNAVAILABLE", "put_account", "a", {"n": 2})
    await read_only(api, "off")
    await api.result("put_account", "a", {"n": 3})
    assert await api.sql.fetch("SELECT data->>'n' FROM tbl_own_1 ORDER BY _txid") == [("1",), ("3",)]
