"""SIGTERM: what runs is finished, who listens is told to come back, and the process ends with 0."""

from __future__ import annotations

import asyncio
import json
import signal

import asyncpg
import httpx
import pytest
import websockets

from support.sessions import bearer_for


async def until_paused(api: httpx.AsyncClient, *names: str) -> None:
    while not set(names) <= set((await api.post("/rpc/paused", json=[])).json()["result"]["names"]):
        await asyncio.sleep(0.01)


async def ended(server) -> int:
    return await asyncio.to_thread(server.wait)


async def test_running_requests_are_finished_and_new_ones_are_not_accepted(serve, client):
    """A write that waits when the signal comes is answered and kept."""
    server = serve(KONTRACT_DRAIN_SECONDS="30")
    api, kept = client(server), client(server)
    waiting = asyncio.create_task(api.post("/rpc/pause_and_write", json=["late"]))
    await until_paused(kept, "late")
    server.send(signal.SIGTERM)
    await asyncio.to_thread(server.wait_for, "draining")
    ready = await kept.get("/ready")
    assert (ready.status_code, ready.json()["error"]) == (503, "UNAVAILABLE")
    assert ready.headers["connection"] == "close"
    assert (await kept.get("/health")).status_code == 200  # the process lives, it only wants no more
    assert (await kept.post("/rpc/let_go", json=["late"])).status_code == 200
    answer = await waiting
    assert (answer.status_code, answer.json()["result"]) == (200, "late")
    server.send(signal.SIGKILL)  # not for half a minute
    await ended(server)
    assert await balance(server, "late") == 1


async def test_with_nothing_to_do_it_ends_at_once_with_0(serve, client):
    """Idle connections do not keep it."""
    server = serve()
    api = client(server)
    assert (await api.get("/health")).status_code == 200
    server.send(signal.SIGTERM)
    assert await ended(server) == 0
    with pytest.raises(httpx.TransportError):
        await api.get("/health")
    assert [line["event"] for line in map(json.loads, server.lines)][-2:] == ["draining", "stopped"]


async def test_a_running_request_outlives_the_listener(serve, client):
    """Without a time for draining nobody new gets in, and what runs is finished all the same."""
    server = serve()
    api, other = client(server), client(server)
    waiting = asyncio.create_task(api.post("/rpc/pause_and_write", json=["late"]))
    await until_paused(other, "late")
    letting = asyncio.create_task(other.post("/rpc/pause", json=["late"]))
    await until_paused(other, "late")
    server.send(signal.SIGTERM)
    while True:  # until the listener is closed
        try:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as stranger:
                await stranger.get("/health")
        except httpx.TransportError:
            break
    assert not waiting.done()
    # Nobody can let it go: it is cut after its time, or sooner by a second signal.
    server.send(signal.SIGTERM)
    assert await ended(server) == 128 + signal.SIGTERM
    for task in (waiting, letting):
        with pytest.raises(httpx.TransportError):
            await task
    assert await balance(server, "late") is None


async def test_event_streams_end_cleanly_with_a_hint_when_to_come_back(serve, client):
    """Not cut: the body has its end, and its last words are a ``retry``."""
    server = serve()
    api = client(server)
    async with api.stream("GET", "/stream?table=tasks") as response:
        chunks = response.aiter_text()
        text = await anext(chunks)
        while "event: ready" not in text:
            text += await anext(chunks)
        server.send(signal.SIGTERM)
        async for chunk in chunks:  # raises when the connection is cut in the middle of the body
            text += chunk
    *_, last, nothing = text.split("\n\n")
    assert nothing == ""
    field, _, milliseconds = last.partition(": ")
    assert field == "retry"
    assert 200 <= int(milliseconds) <= 3000
    assert await ended(server) == 0
    assert server.events("cut") == [], "it was ended because it was told to, not because the time was over"


async def test_websockets_are_closed_with_1001(serve):
    """Going away: the client of a browser comes back by itself."""
    server = serve()
    address = f"{server.url.replace('http', 'ws')}/stream?table=tasks"
    async with websockets.connect(address, additional_headers=bearer_for(server), proxy=None) as socket:
        assert json.loads(await socket.recv())["event"] == "ready"
        server.send(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert await ended(server) == 0
    assert server.events("cut") == []


async def test_websockets_in_the_middle_of_a_message_are_too(serve):
    """The signal comes while most of them are being sent their first message."""
    server = serve()
    address = f"{server.url.replace('http', 'ws')}/stream?table=tasks"
    first = asyncio.Event()

    async def listen() -> int | None:
        async with websockets.connect(address, additional_headers=bearer_for(server), proxy=None) as socket:
            assert json.loads(await socket.recv())["event"] == "ready"
            if not first.is_set():
                first.set()
                server.send(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
        return closed.value.rcvd and closed.value.rcvd.code

    ends = await asyncio.gather(*(listen() for _ in range(40)), return_exceptions=True)
    late = (OSError, websockets.InvalidHandshake, websockets.ConnectionClosed)  # it was not there when the signal came
    assert {end for end in ends if not isinstance(end, late)} == {1001}
    assert await ended(server) == 0


async def test_under_load_no_write_that_was_answered_is_lost(serve, client):
    """And none that was refused is there."""
    server = serve()
    api = client(server)
    answered: list[str] = []
    refused: list[str] = []

    async def write(number: int) -> None:
        for turn in range(10_000):
            name = f"{number}-{turn}"
            try:
                response = await api.post("/rpc/open_account", json=[name, 1])
            except httpx.TransportError:
                return
            (answered if response.status_code == 200 else refused).append(name)
            if len(answered) == 200:
                server.send(signal.SIGTERM)

    await asyncio.gather(*(write(number) for number in range(20)))
    assert await ended(server) == 0
    assert len(answered) >= 200
    there = await accounts(server)
    assert set(answered) <= there
    assert not set(refused) & there


async def accounts(server) -> set[str]:
    connection = await asyncpg.connect(server.database_url)
    try:
        rows = await connection.fetch("SELECT id FROM tbl_accounts_9b27e4 WHERE _deleted_txid IS NULL")
    finally:
        await connection.close()
    return {row[0] for row in rows}


async def balance(server, account: str) -> int | None:
    connection = await asyncpg.connect(server.database_url)
    try:
        query = "SELECT (data->>'balance')::int FROM tbl_accounts_9b27e4 WHERE id = $1"
        return await connection.fetchval(query, account)
    finally:
        await connection.close()
