"""Dead versions and old fences are removed by the Durable Object's own alarm, in workerd, with nobody calling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support import apps
from support.postgres import Postgres
from support.scratch import product_checkout
from support.sessions import bearer_for
from support.worker import running_worker
from workerd.faults import connected

APP = Path(apps.__path__[0]) / "aging.py"

# Minutes and days become seconds; only a snapshot stays in use for as long as the test can last.
RETENTION_MS = 2_000
LIMITS = {
    "RETENTION_MS": RETENTION_MS,
    "FENCE_RETENTION_MS": 3 * RETENTION_MS,
    "LEASE_MS": 3_600_000,
    "SESSION_TRUST_MS": 3_600_000,  # a blind write begins, and takes a snapshot, where the session is not known
    "COLLECT_PAUSE_MS": 1_000,
}

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def server(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevServer]:
    """The product's Worker, in which time passes quickly."""
    setup.prepare(checkout)
    folder = tmp_path_factory.mktemp("aging")
    copy = product_checkout(checkout, folder / "checkout", modules=[APP], limits=LIMITS)
    with running_worker(copy, postgres.create_database(), folder, reaper) as running:
        known = httpx.get(f"{running.url}/openapi.json", headers=session(running), timeout=60, trust_env=False)
        assert known.status_code == 200, known.text
        yield running


def session(server: DevServer) -> dict[str, str]:
    """The same one for every call."""
    return bearer_for(server, sid="aging")


def call(server: DevServer, function: str, *args) -> httpx.Response:
    answer = httpx.post(f"{server.url}/rpc/{function}", json=args, headers=session(server), timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer


def put(server: DevServer, key: str, value: int) -> int:
    return int(call(server, "put", key, value).headers["x-kontract-txid"])


async def versions(sql: asyncpg.Connection) -> list[tuple[str, int, bool]]:
    """(id, value, live) of every version."""
    rows = await sql.fetch(
        "SELECT id, (data->>'balance')::int, _deleted_txid IS NULL FROM tbl_accounts_9b27e4 ORDER BY id, _txid"
    )
    return [tuple(row) for row in rows]


async def fences(sql: asyncpg.Connection) -> list[int]:
    rows = await sql.fetch("SELECT create_txid FROM trxs WHERE sid NOT LIKE 'epoch/%' ORDER BY create_txid")
    return [row[0] for row in rows]


async def until(condition: Callable[[], Awaitable[bool]], server: DevServer) -> None:
    """Wait, some seconds; what the Worker said is in the failure."""
    try:
        async with asyncio.timeout(120):
            while not await condition():
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(server.log_text()[-20_000:])


async def test_the_alarm_removes_what_is_dead_and_nothing_that_is_live_or_can_be_seen(server: DevServer):
    """Old versions and fences go by themselves; a version that a snapshot in use can see does not."""
    async with connected(server.database_url) as sql:
        for value in range(3):
            put(server, "a", value)
        last = put(server, "b", 0)
        assert len(await versions(sql)) == 4

        async def only_live() -> bool:
            return all(live for _, _, live in await versions(sql))

        await until(only_live, server)
        assert await versions(sql) == [("a", 2, True), ("b", 0, True)]

        async def only_the_newest_fence() -> bool:
            return await fences(sql) == [last]

        await until(only_the_newest_fence, server)

        put(server, "a", 3)  # the version before it has ended when the snapshot is taken
        assert call(server, "see", "b").json()["result"] == 0
        put(server, "b", 1)  # this one has not

        async def the_first_is_gone() -> bool:
            return ("a", 2, False) not in await versions(sql)

        await until(the_first_is_gone, server)
        await asyncio.sleep(3 * RETENTION_MS / 1000)  # long after the other one could have gone
        assert await versions(sql) == [("a", 3, True), ("b", 0, False), ("b", 1, True)]


async def test_the_alarm_rings_after_a_restart_with_nobody_calling(server: DevServer):
    """It is kept with the object: a runtime that was killed wakes the object when it is back."""
    async with connected(server.database_url) as sql:

        async def dead() -> list[tuple[str, int, bool]]:
            return [version for version in await versions(sql) if not version[2]]

        value = 10
        while True:
            put(server, "c", value)
            put(server, "c", value + 1)
            await asyncio.to_thread(server.kill)
            if ("c", value, False) in await dead():
                break
            # The machine was so slow that the alarm has rung before: once more.
            await asyncio.to_thread(server.start)
            value += 2
        await asyncio.to_thread(server.start)  # asks for /health, which has nothing to do with the object

        async def nothing_dead() -> bool:
            return not await dead()

        await until(nothing_dead, server)
        assert ("c", value + 1, True) in await versions(sql)


async def test_a_database_that_is_away_is_asked_again_until_it_is_there(server: DevServer):
    """By alarms that succeed: one that fails is repeated a few times by the platform, and forgotten then."""
    async with connected(server.database_url) as sql:
        name = await sql.fetchval("SELECT current_database()")
        put(server, "d", 1)
        put(server, "d", 2)
        await asyncio.to_thread(server.kill)
        other = urlsplit(server.database_url)._replace(path="/postgres").geturl()
        async with connected(other) as elsewhere:
            await elsewhere.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            said = server.log_text().count('"event":"collection"')
            await asyncio.to_thread(server.start)

            async def asked_thrice() -> bool:
                return server.log_text().count('"event":"collection"') >= said + 3

            await until(asked_thrice, server)
            assert "Uncaught" not in server.log_text()
            await elsewhere.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')

        async def nothing_dead() -> bool:
            return all(live for key, _, live in await versions(sql) if key == "d")

        await until(nothing_dead, server)
