"""An older dump takes the place of the database while coordinators run: noticed, loud, and work goes on."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from kontract.cli.doctor.database import database_findings
from kontract.core import limits
from kontract.core.events import End, Parcel, Subscription
from kontract.core.protocol.hub import Subscriber
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request, Response
from kontract.gateway.routes import Registry
from kontract.server.database import Pool
from kontract.server.runtime import SingleProcess
from routes import ROUTES, TABLES
from support.sessions import ENVIRONMENT, bearer


class Process:
    """One server process, with a pool of connections."""

    def __init__(self, url: str) -> None:
        self.pool = Pool(url, 4)
        self.platform = SingleProcess(self.pool.database, ENVIRONMENT)
        self.pool.on_lost = self.platform.doubt
        self.gateway = Gateway(Registry(ROUTES, TABLES))
        self.log: list[dict] = []
        self.platform.log = lambda level, event, **fields: self.log.append({"level": level, "event": event, **fields})

    async def send(self, method: str, path: str, *args, **headers: str) -> Response:
        async def body(_: int) -> bytes:
            return json.dumps(args).encode() if method == "POST" else b""

        return await self.gateway.handle(Request(method, path, {**bearer(), **headers}, body), self.platform)

    async def call(self, function: str, *args, **headers: str) -> Response:
        return await self.send("POST", f"/rpc/{function}", *args, **headers)

    async def result(self, function: str, *args):
        response = await self.call(function, *args)
        assert response.status == 200, response.body
        return json.loads(response.body)["result"]

    @property
    def shell(self):
        return self.platform._shell("tenant-1")

    def said(self, event: str) -> list[dict]:
        return [line for line in self.log if line["event"] == event]

    async def stop(self) -> None:
        await self.platform.stop()
        await self.pool.aclose()


@pytest.fixture
def url(postgres):
    return postgres.create_database()


@pytest.fixture
async def process(url):
    process = Process(url)
    yield process
    await process.stop()


def error(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error"]


class Listener(Subscriber):
    """A stream, as the gateway holds it."""

    def __init__(self) -> None:
        self.subscription = Subscription(["accounts"], "u", "")
        self.closed = False

    def send(self, parcel: Parcel) -> None:
        self.last = parcel.frame

    def keep(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


async def go_back(process: Process, postgres, url: str) -> None:
    """Account a is in the dump; that b was opened, and what moved, was acknowledged and is lost."""
    await process.result("open_account", "a", 100)
    dump = postgres.dump(url)
    await process.result("open_account", "b", 0)
    assert (await process.call("transfer", "a", "b", 100, **{"idempotency-key": "pay"})).status == 200
    await asyncio.to_thread(postgres.restore, url, dump)


GONE = {
    "gone": "DELETE FROM trxs WHERE create_txid = 2 AND sid NOT LIKE 'epoch/%'",
    "an abort in its place": "UPDATE trxs SET create_txid = -2 WHERE create_txid = 2 AND sid NOT LIKE 'epoch/%'",
}
"""What has become of a fence: whoever was in doubt after the database went back has written an abort where none was."""


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
async def test_the_next_write_meets_it_and_is_not_kept(process, url, gone):
    """Even one that reads nothing, on connections that were never cut: each commit looks for the one before."""
    await process.result("open_account", "a", 100)
    await process.result("open_account", "b", 100)
    connection = await asyncpg.connect(url)
    await connection.execute(gone)
    await connection.execute("DELETE FROM tbl_accounts_9b27e4 WHERE id = 'b'")
    told = await process.call("open_account", "c", 1)
    assert error(told) == (503, "DATABASE_WENT_BACK")
    assert "kontract doctor" in json.loads(told.body)["message"]
    assert await connection.fetchval("SELECT count(*) FROM tbl_accounts_9b27e4 WHERE id = 'c'") == 0
    await connection.close()
    while (after := await process.call("open_account", "c", 1)).status == 503:
        assert error(after) == (503, "DATABASE_WENT_BACK")  # the coordinator is about to learn of it
    assert await process.result("total") == 101


async def test_a_reader_meets_it_when_its_connection_was_lost(process, postgres, url):
    """Nothing of before is shown, and calls go on by themselves."""
    await go_back(process, postgres, url)
    answers = [await process.call("balance", "a") for _ in range(3)]
    assert json.loads(answers[-1].body)["result"] == 100
    assert process.shell._coordinator.epoch == 2
    [line] = process.said("database_went_back")
    assert (line["level"], line["acknowledged"]) == ("error", 3)


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
async def test_a_reader_meets_it_with_the_regular_check(process, url, gone):
    """Within EPOCH_TRUST_MS, on connections that nothing has happened to."""
    await process.result("open_account", "a", 100)
    await process.result("open_account", "b", 100)
    connection = await asyncpg.connect(url)
    await connection.execute(gone)
    await connection.close()
    assert (await process.call("total")).status == 200
    process.shell._coordinator._in_charge_at -= limits.EPOCH_TRUST_MS
    assert error(await process.call("total")) == (503, "DATABASE_WENT_BACK")
    assert (await process.call("total")).status == 200


async def test_a_repetition_is_not_answered_for_an_effect_that_is_gone(process, postgres, url):
    """What was remembered of calls is asked of their fences. Those of before the point are there, and answered."""
    before = await process.call("open_account", "z", 5, **{"idempotency-key": "early"})
    await go_back(process, postgres, url)
    again = await process.call("transfer", "a", "b", 100, **{"idempotency-key": "pay"})
    while again.status == 503:
        again = await process.call("transfer", "a", "b", 100, **{"idempotency-key": "pay"})
    assert error(again) == (404, "NOT_FOUND"), "account b is gone"
    assert "Idempotency-Replayed" not in again.headers
    early = await process.call("open_account", "z", 5, **{"idempotency-key": "early"})
    assert (early.body, early.headers["Idempotency-Replayed"]) == (before.body, "true")
    assert await process.result("total") == 105


async def test_an_idle_coordinator_looks_before_it_repeats_an_answer(process, postgres, url):
    """Even when nobody else has come since: the commit of the first answer may be gone."""
    await process.result("open_account", "a", 100)
    key = {"idempotency-key": "k"}
    assert (await process.call("open_account", "b", 1, **key)).status == 200
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM trxs WHERE create_txid = 2 AND sid NOT LIKE 'epoch/%'")
    await connection.execute("DELETE FROM tbl_accounts_9b27e4 WHERE id = 'b'")
    await connection.close()
    process.shell._coordinator._in_charge_at -= limits.EPOCH_TRUST_MS
    again = await process.call("open_account", "b", 1, **key)
    assert (again.status, "Idempotency-Replayed" in again.headers) == (200, False)
    assert await process.result("balance", "b") == 1


async def test_numbers_go_on_and_streams_are_reset(process, postgres, url):
    """Nobody who saw what is lost may take it for a part of what comes."""
    await process.result("open_account", "first", 1)
    listener = Listener()
    process.shell.hub.add(listener)
    page = await process.shell.resume(listener, None)
    await go_back(process, postgres, url)
    for _ in range(3):
        await process.call("balance", "a")
    assert (listener.closed, listener.last) == (True, End("restart"))
    again = await process.shell.resume(Listener(), page.position)
    assert again.reset
    after = await process.call("open_account", "c", 1)
    assert int(after.headers["X-Kontract-Txid"]) > 4


async def test_sessions_that_were_ended_stay_ended(process, postgres, url):
    from kontract.core.messages import CheckSession, EndSession, SessionEnded

    await process.result("open_account", "first", 1)
    shell = process.shell
    await shell.ask(EndSession("s1", process.platform.clock.now() + 60_000))
    await go_back(process, postgres, url)
    for _ in range(3):
        await process.call("balance", "a")
    assert shell._coordinator.epoch == 2
    assert await shell.ask(CheckSession("s1")) == SessionEnded()
    assert shell._journal.load().ended.keys() == {"s1"}


async def test_ready_and_doctor_say_it_until_somebody_has_dealt_with_it(process, postgres, url):
    assert json.loads((await process.send("GET", "/ready")).body)["status"] == "ok"
    await go_back(process, postgres, url)
    for _ in range(3):
        await process.call("balance", "a")
    while process.shell._tasks:
        await asyncio.wait(list(process.shell._tasks))  # not one by one: one that has ended would not be discarded
    ready = await process.send("GET", "/ready")
    told = json.loads(ready.body)
    assert (ready.status, told["status"]) == (200, "data_lost")
    assert "kontract doctor" in told["message"]
    wrong = [finding for finding in await database_findings(url) if finding.wrong]
    assert [("tenant-1" in finding.what, "gone back" in finding.what) for finding in wrong] == [(True, True)]
    assert '"acknowledged":3' in wrong[0].what
    connection = await asyncpg.connect(url)
    await connection.execute(wrong[0].fix.rpartition(": ")[2])
    await connection.close()
    assert not [finding for finding in await database_findings(url) if finding.wrong]
    assert json.loads((await process.send("GET", "/ready")).body)["status"] == "ok"


async def test_a_schema_without_a_place_for_results_notices_as_well(process, postgres, url):
    """The three columns of the deployment document are enough for it."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE trxs DROP COLUMN result")
    await connection.close()
    await go_back(process, postgres, url)
    for _ in range(3):
        await process.call("balance", "a")
    assert len(process.said("database_went_back")) == 1
    while process.shell._tasks:
        await asyncio.wait(list(process.shell._tasks))  # not one by one: one that has ended would not be discarded
    assert json.loads((await process.send("GET", "/ready")).body)["status"] == "data_lost"
