"""A coordinator that has lost its memory: sessions that were ended before stay so. And when they are forgotten.

`KONTRACT_COORDINATION=memory` loses it with every restart; others when a journal is lost.
"""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from kontract.core import limits
from kontract.core.messages import EndSession
from kontract.core.transaction.store import SqlStore
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from support.auth import Auth, Clock, claims, credentials
from support.cheap import CheapCrypto
from support.nodes import cluster_of
from support.sessions import ENVIRONMENT, OWNER, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAYS = [("read_notes",), ("write_note", "x"), ("without_storage",)]


@pytest.fixture
def restarted(auth, make):
    """The same deployment after a restart: nothing is left but the database."""

    def restart() -> Auth:
        platform = SingleProcess(auth.api.platform.open_database, ENVIRONMENT)
        platform.crypto = CheapCrypto()
        platform.clock = auth.api.platform.clock
        return Auth(make(platform=platform), platform.crypto)

    return restart


async def is_over(node: Auth, bearer: str) -> bool:
    statuses = {(await node.call(bearer, *way)).status for way in WAYS}
    assert statuses in ({200}, {401}), statuses
    return statuses == {401}


async def test_logging_out_outlives_the_memory_of_the_coordinator(auth, restarted):
    """Of one tenant and of another; others' sessions go on."""
    made, other = await auth.ok("anonymous"), await auth.ok("anonymous")
    elsewhere = token(owner="tenant-2", sid="elsewhere")
    for bearer in (made["token"], elsewhere):
        assert (await auth.post("logout", bearer=bearer)).status == 204
    node = restarted()
    assert await is_over(node, made["token"])
    assert (await node.call(elsewhere, "without_storage")).status == 401
    assert not await is_over(node, other["token"])
    assert await is_over(restarted(), made["token"]), "and the next restart"


async def test_a_session_that_became_an_account_stays_ended(auth, restarted):
    """Its anonymous token belongs to nobody any more."""
    before = await auth.ok("anonymous")
    after = await auth.ok("link", credentials("linked-before-a-restart"), before["token"])
    node = restarted()
    assert await is_over(node, before["token"])
    assert not await is_over(node, after["token"])


async def test_a_stolen_refresh_token_stays_an_alarm(auth, restarted):
    """The session that its second use has ended does not come back."""
    made = await auth.ok("anonymous")
    newest = await auth.ok("refresh", {"refresh_token": made["refresh_token"]})
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": made["refresh_token"]})
    assert await is_over(restarted(), newest["token"])


async def test_the_session_of_a_deleted_account_stays_ended(auth, restarted):
    made = await auth.ok("register", credentials("deleted-before-a-restart"))
    await auth.api.sql.execute("DELETE FROM tbl_users_c41d7a WHERE id = 'deleted-before-a-restart'")
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": made["refresh_token"]})
    assert await is_over(restarted(), made["token"])


async def test_a_token_that_lives_longer_than_usual_stays_ended_as_long(auth, restarted):
    """`kontract token --hours 24` makes such; it is remembered for all of its time, and no longer."""
    bearer = token(sid="0199-long", seconds=86_400)
    assert (await auth.post("logout", bearer=bearer)).status == 204
    auth.api.platform.clock.later_ms += (86_400 - 60) * 1000
    assert await is_over(restarted(), bearer)


async def test_without_the_table_of_sessions_a_coordinator_starts(auth, restarted):
    """A database without it gives out no sessions that could be ended, or may be read by another role alone."""
    sql = auth.api.sql
    for spoil, repair in [
        ("UPDATE storage SET id = 'x' WHERE id = '__sessions'", "UPDATE storage SET id = '__sessions' WHERE id = 'x'"),
        ("ALTER TABLE tbl_sessions_e08b53 RENAME TO gone", "ALTER TABLE gone RENAME TO tbl_sessions_e08b53"),
    ]:
        await sql.execute(spoil)
        try:
            assert (await restarted().call(token(), "without_storage")).status == 200
        finally:
            await sql.execute(repair)


async def test_a_database_that_was_not_migrated_only_takes_longer(auth, restarted):
    """The index is for speed."""
    made = await auth.ok("anonymous")
    await auth.post("logout", bearer=made["token"])
    definition = await auth.api.sql.fetchval("SELECT pg_get_indexdef('tbl_sessions_e08b53_ended'::regclass)")
    await auth.api.sql.execute("DROP INDEX tbl_sessions_e08b53_ended")
    try:
        assert await is_over(restarted(), made["token"])
    finally:
        await auth.api.sql.execute(definition)


async def test_the_sessions_that_matter_are_found_by_their_index(auth):
    """Not by reading all sessions of all tenants."""
    await auth.api.sql.execute("SET enable_seqscan = off")
    try:
        plan = await auth.api.sql.fetch(
            "EXPLAIN SELECT id FROM tbl_sessions_e08b53 WHERE _deleted_txid IS NULL AND data @> '{\"ended\": true}' "
            "AND (data->>'until')::bigint > floor(extract(epoch FROM now()) * 1000)::bigint"
        )
    finally:
        await auth.api.sql.execute("SET enable_seqscan = on")
    assert any("tbl_sessions_e08b53_ended" in row[0] for row in plan), plan


async def test_as_many_ended_sessions_as_fit(auth, restarted, monkeypatch):
    """Those that last longest, when there are more."""
    monkeypatch.setattr(limits, "ENDED_SESSIONS", 2)
    bearers = [token(owner="busy", sid=f"busy-{n}", seconds=7_200 + n) for n in range(4)]
    for bearer in bearers:
        await auth.post("logout", bearer=bearer)
    node = restarted()
    assert [(await node.call(bearer, "without_storage")).status for bearer in bearers] == [200, 200, 401, 401]


async def test_what_was_read_back_is_in_the_journal(auth, restarted):
    """So that a start with the journal knows it as well, although it asks the database for nothing."""
    made = await auth.ok("anonymous")
    await auth.post("logout", bearer=made["token"])
    node = restarted()
    await node.call(made["token"], "without_storage")
    saved = node.api.platform._shells[OWNER]._journal.load()
    assert claims(made["token"])["sid"] in saved.ended


async def test_another_database_does_not_forgive(postgres):
    """One without the epoch, put in the place of the one before: what the coordinator knows, it still knows."""
    first, second = postgres.create_database(), postgres.create_database()
    urls = [first]
    platform = SingleProcess(lambda: AsyncpgDatabase(urls[0]), ENVIRONMENT, lambda *_, **__: None)
    shell = platform._shell(OWNER)
    await shell.ask(EndSession("over", Clock().now() + 10**7))
    urls[0] = second
    await shell._check_epoch()
    try:
        assert shell._coordinator is not None
        assert shell._coordinator.has_ended("over")
        assert "over" in shell._journal.load().ended
    finally:
        shell.rest()


async def test_nodes_whose_log_was_lost(postgres):
    """A coordination schema that was emptied: no node serves before it knows which sessions were ended."""
    url = postgres.create_database(coordination=True)
    bearers: list[dict[str, str]] = []
    async with cluster_of(postgres, 2, url=url) as cluster:
        one, two = cluster.nodes
        for _ in range(3):
            made = json.loads((await one.send("POST", "/auth/anonymous")).body)
            bearers.append({"authorization": f"Bearer {made['token']}"})
            assert (await two.rpc("list_tasks", **bearers[-1])).status == 200
            assert (await one.send("POST", "/auth/logout", **bearers[-1])).status == 204
    connection = await asyncpg.connect(url)
    await connection.execute("TRUNCATE coordination, coordination_log, coordination_checkpoints")
    await connection.close()
    async with cluster_of(postgres, 3, url=url) as cluster:
        asked = [node.rpc("list_tasks", **bearer) for bearer in bearers for node in cluster.nodes]
        assert [answer.status for answer in await asyncio.gather(*asked)] == [401] * 9


# --- forgetting ------------------------------------------------------------------------------------------------------

DAY = 86_400_000


async def sids(auth: Auth) -> set[str]:
    return {row["id"] for row in await auth.rows("sessions")}


async def come_and_go(auth: Auth) -> None:
    """A session that is ended at once."""
    assert (await auth.post("logout", bearer=(await auth.ok("anonymous"))["token"])).status == 204


async def collect(auth: Auth) -> int:
    store = SqlStore(auth.api.platform.open_database())
    try:
        return await store.collect_sessions(auth.api.platform.clock.now())
    finally:
        await store.aclose()


async def test_sessions_go_when_their_last_token_has_expired(auth):
    """Ended, refreshed once, still in use: each by its own last refresh token, and not a day before."""
    clock = auth.api.platform.clock
    ended, idle, used = [await auth.ok("anonymous") for _ in range(3)]
    await auth.post("logout", bearer=ended["token"])
    long = token(sid="00000000-0000-7000-8000-000000000000", seconds=60 * 86_400)
    await auth.post("logout", bearer=long)
    idle = await auth.ok("refresh", {"refresh_token": idle["refresh_token"]})
    used = await auth.ok("refresh", {"refresh_token": used["refresh_token"]})
    names = {name: claims(made["token"])["sid"] for name, made in [("ended", ended), ("idle", idle), ("used", used)]}
    names["long"] = "00000000-0000-7000-8000-000000000000"

    async def left() -> set[str]:
        kept = await sids(auth)
        return {name for name, sid in names.items() if sid in kept}

    clock.later_ms += 29 * DAY
    used = await auth.ok("refresh", {"refresh_token": used["refresh_token"]})
    await collect(auth)
    assert await left() == {"ended", "idle", "used", "long"}
    clock.later_ms += DAY + 120_000
    await collect(auth)
    assert await left() == {"used", "long"}
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": idle["refresh_token"]})
    await auth.ok("refresh", {"refresh_token": used["refresh_token"]})
    clock.later_ms += 31 * DAY
    await come_and_go(auth)  # a younger transaction: the newest txid stays on record
    await collect(auth)
    assert await left() == set()


async def test_it_is_done_by_the_way_at_most_once_an_hour(auth, make, monkeypatch):
    """By whoever logs in, refreshes or logs out; a full batch is followed by the next."""
    here = Auth(make(platform=auth.api.platform), auth.crypto)
    collected: list[int] = []
    monkeypatch.setattr(limits, "COLLECT_ROWS", 2)

    async def counting(self: SqlStore, now: int, plain=SqlStore.collect_sessions) -> int:
        collected.append(await plain(self, now))
        return collected[-1]

    monkeypatch.setattr(SqlStore, "collect_sessions", counting)
    for _ in range(3):
        await come_and_go(auth)
    collected.clear()
    here.api.platform.clock.later_ms += 40 * DAY
    await come_and_go(here)
    while collected[-1] == 2:
        await come_and_go(here)
    assert 2 in collected
    times = len(collected)
    await come_and_go(here)
    assert len(collected) == times
    here.api.platform.clock.later_ms += limits.TIDY_MS
    await come_and_go(here)
    assert len(collected) == times + 1


async def test_a_failure_of_it_is_nobodys_failure(auth, make, monkeypatch):
    """It is logged."""
    here = Auth(make(platform=auth.api.platform), auth.crypto)

    async def failing(_self: SqlStore, _now: int) -> int:
        raise OSError

    monkeypatch.setattr(SqlStore, "collect_sessions", failing)
    assert (await here.post("logout", bearer=token())).status == 204
    assert "session_collection" in [line["event"] for line in here.api.log]
