"""A server and its database start together: what helps is waited for, what does not help is said at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from kontract.cli.toolchain.processes import free_port
from kontract.server import serve
from kontract.server.database import Pool
from kontract.server.serve import LineLog, await_database
from kontract.server.settings import SettingsError
from support.serving import new_server


class Relay:
    """A port that leads to PostgreSQL once it is opened."""

    def __init__(self, url: str) -> None:
        self.port = free_port()
        head, _, database = url.rpartition("/")
        credentials, _, self._address = head.rpartition("@")
        self.url = f"{credentials}@127.0.0.1:{self.port}/{database}"
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._address.partition(":")
        there, back = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
        self._tasks.update(ways)

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def ends(url: str, capsys) -> tuple[str, float, str]:
    """What the start says in the end, after how many seconds, and what it said on the way."""
    pool = Pool(url, 1)
    started = time.monotonic()
    try:
        with pytest.raises(SettingsError) as caught:
            await await_database(pool, "memory", LineLog("info"))
    finally:
        await pool.aclose()
    return str(caught.value), time.monotonic() - started, capsys.readouterr().out


async def test_it_waits_for_a_database_that_is_not_there_yet(postgres, capsys):
    relay = Relay(postgres.url)
    pool = Pool(relay.url, 1)
    waiting = asyncio.create_task(await_database(pool, "memory", LineLog("info")))
    while "database_awaited" not in (said := capsys.readouterr().out):
        await asyncio.sleep(0.01)
    assert "the database cannot be reached" in said
    assert not waiting.done()
    await relay.open()
    await asyncio.wait_for(waiting, 20)
    assert capsys.readouterr().out == "", "one line for all tries"
    await pool.aclose()
    await relay.close()


async def test_it_gives_up_after_a_while(monkeypatch, capsys):
    monkeypatch.setattr(serve, "DATABASE_SECONDS", 1.2)
    url = f"postgresql://u:p4ss@127.0.0.1:{free_port()}/d"
    message, seconds, said = await ends(url, capsys)
    assert "the database cannot be reached" in message
    assert message.endswith("This server has waited 1 s")
    assert 0.5 < seconds < 10
    assert said.count("database_awaited") == 1
    assert "p4ss" not in message + said


@pytest.mark.parametrize("what", ["password", "database", "schema"])
async def test_what_waiting_does_not_change_is_said_at_once(postgres, capsys, what):
    url = postgres.create_database(empty=True)
    credentials, _, place = url.rpartition("@")
    user = credentials.removeprefix("postgresql://").partition(":")[0]
    changed, says = {
        "password": (f"postgresql://{user}:wr0ng@{place}", "SQLSTATE 28P01: password authentication failed"),
        "database": (f"{url}-none", "SQLSTATE 3D000"),
        "schema": (url, "run: kontract migrate"),
    }[what]
    message, seconds, said = await ends(changed, capsys)
    assert says in message
    assert seconds < 10
    assert said == ""
    assert "wr0ng" not in message


async def test_a_server_that_was_started_before_its_database_serves(checkout, postgres, reaper, tmp_path):
    relay = Relay(postgres.url)
    server = new_server(checkout, relay.url, tmp_path, reaper)
    server.spawn()
    try:
        [said] = await asyncio.to_thread(server.wait_for, "database_awaited")
        assert said["seconds"] == 60
        await relay.open()
        await asyncio.to_thread(server.wait_until_it_answers)
        assert await asyncio.to_thread(server.stop) == 0
    finally:
        server.kill()
        await relay.close()
