"""Two coordinators for one owner: the epoch row lets one of them commit, and the other stops and says so."""

from __future__ import annotations

import json

import asyncpg
import pytest

from kontract.coordination.shell import CoordinatorShell
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request, Response
from kontract.gateway.routes import Registry
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from routes import ROUTES, TABLES
from support.sessions import ENVIRONMENT, bearer


class Node:
    """One gateway with coordinators of its own."""

    def __init__(self, url: str) -> None:
        self.platform = SingleProcess(lambda: AsyncpgDatabase(url), ENVIRONMENT)
        self.gateway = Gateway(Registry(ROUTES, TABLES))

    async def call(self, function: str, *args, **headers: str) -> Response:
        async def body(_: int) -> bytes:
            return json.dumps(args).encode()

        return await self.gateway.handle(
            Request("POST", f"/rpc/{function}", {**bearer(), **headers}, body), self.platform
        )


@pytest.fixture
def url(postgres):
    return postgres.create_database()


async def test_the_later_coordinator_wins_and_the_earlier_one_stops(url):
    """A second environment on the same database takes over; nothing the first one tries is written."""
    first, second = Node(url), Node(url)
    assert (await first.call("open_account", "a", 100)).status == 200
    assert (await second.call("open_account", "b", 50)).status == 200

    late = await first.call("create_task", "too late")
    assert (late.status, json.loads(late.body)["error"]) == (503, "FENCED")
    assert "another deployment" in json.loads(late.body)["message"]
    read = await first.call("balance", "a")
    assert (read.status, json.loads(read.body)["error"]) == (503, "FENCED")

    assert json.loads((await second.call("total")).body)["result"] == 150
    moved = await second.call("transfer", "a", "b", 30)
    assert moved.status == 200

    connection = await asyncpg.connect(url)
    fences = [row[0] for row in await connection.fetch("SELECT create_txid FROM trxs WHERE sid NOT LIKE 'epoch/%'")]
    epoch = await connection.fetchval("SELECT create_txid FROM trxs WHERE sid = 'epoch/tenant-1'")
    await connection.close()
    assert epoch == 2
    assert len([fence for fence in fences if fence > 0]) == 3
    assert json.loads((await second.call("list_tasks")).body)["result"] == []


async def test_a_superseded_coordinator_that_starts_again_shows_nothing(url):
    """From its journal it cannot know: readers wait for the epoch row, and are not shown a state of long ago."""
    first, second = Node(url), Node(url)
    assert (await first.call("open_account", "a", 100)).status == 200
    shells = first.platform._shells
    before = shells["tenant-1"]

    def start_again() -> None:
        platform = first.platform
        shells["tenant-1"] = CoordinatorShell(
            "tenant-1", before._journal, platform.open_database, platform.clock, platform.log
        )

    start_again()
    assert json.loads((await first.call("balance", "a")).body)["result"] == 100
    assert (await second.call("open_account", "b", 50)).status == 200
    start_again()
    read = await first.call("balance", "a")
    assert (read.status, json.loads(read.body)["error"]) == (503, "FENCED")


async def test_txids_go_on_above_everything_an_earlier_coordinator_wrote(url):
    """A coordinator that starts without its journal never gives a txid twice."""
    first = Node(url)
    given = [(await first.call("create_task", f"task {n}")).headers["X-Kontract-Txid"] for n in range(5)]
    second = Node(url)
    next_one = (await second.call("create_task", "another")).headers["X-Kontract-Txid"]
    assert int(next_one) > max(map(int, given))


async def test_a_database_that_was_reset_is_started_anew(url):
    """`epoch` gone means that the journal belongs to another database: one call fails, then work goes on."""
    node = Node(url)
    before = await node.call("open_account", "a", 100)
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM trxs")
    await connection.execute("DELETE FROM tbl_accounts_9b27e4")
    await connection.close()
    answers = [await node.call("open_account", f"c{n}", 1) for n in range(3)]
    assert answers[-1].status == 200, answers[-1].body
    assert int(answers[-1].headers["X-Kontract-Txid"]) > int(before.headers["X-Kontract-Txid"])


async def test_an_applied_call_is_not_applied_again_by_a_coordinator_without_its_journal(url):
    """The fence keeps an Idempotency-Key, and the answer beside it, when the journal is lost."""
    first, second = Node(url), Node(url)
    assert (await first.call("open_account", "a", 100)).status == 200
    assert (await first.call("open_account", "b", 0)).status == 200
    key = {"idempotency-key": "pay-1"}
    answered = await first.call("transfer", "a", "b", 100, **key)
    assert answered.status == 200
    again = await second.call("transfer", "a", "b", 100, **key)
    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, answered.body, "true")
    assert json.loads((await second.call("balance", "a")).body)["result"] == 0
