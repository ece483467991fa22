"""Change streams through real workerd: the Worker ends SSE, the Durable Object is behind a hibernating WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager

import httpx
import pytest
import websockets

from kontract.cli.toolchain.wrangler import DevServer
from kontract.core import limits
from support.sessions import bearer_for


@pytest.fixture
async def api(worker: DevServer):
    async with httpx.AsyncClient(
        base_url=worker.url,
        headers=bearer_for(worker),
        timeout=60,
        limits=httpx.Limits(max_connections=200),
        trust_env=False,
    ) as client:
        yield client


async def result(api: httpx.AsyncClient, function: str, *args):
    response = await api.post(f"/rpc/{function}", json=list(args))
    assert response.status_code == 200, response.text
    return response.json()["result"]


class Events:
    """A stream that is read line by line."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id = ""
        self.heartbeats = 0

    async def __call__(self) -> tuple[str, dict]:
        name, data = "", ""
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                self.last_id = value
            elif field == "data":
                data = value
            elif line.startswith(":"):
                self.heartbeats += 1
            elif not line and data:
                return name, json.loads(data)
        raise EOFError


@asynccontextmanager
async def listening(api: httpx.AsyncClient, query: str = "table=tasks&table=accounts", last_id: str = ""):
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with api.stream("GET", f"/stream?{query}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Events(response)


async def test_what_one_client_does_another_sees(api):
    async with listening(api) as events:
        assert await events() == ("ready", {"tables": ["accounts", "tasks"], "denied": []})
        task = await result(api, "create_task", "seen")
        assert await events() == (
            "",
            {
                "type": "insert",
                "table": "tasks",
                "id": task["id"],
                "data": task,
                "txid": int(events.last_id.rpartition("-")[2]),
            },
        )
        await result(api, "delete_task", task["id"])
        _, change = await events()
        assert (change["type"], change["oldData"]) == ("delete", task)


@pytest.mark.long
async def test_clients_that_leave_are_noticed_by_the_heartbeat(api, worker):
    """64 streams of one user and no more; when they are left without a word, their places are free again soon."""
    api.headers.update(bearer_for(worker, user="with-many-streams"))
    kept = []  # httpx closes a response whose reader is collected
    async with contextlib.AsyncExitStack() as open_ones:
        for _ in range(limits.STREAMS_PER_USER):
            kept.append(await open_ones.enter_async_context(listening(api, "table=tasks")))
            await kept[-1]()
        refused = await api.get("/stream?table=tasks")
        assert (refused.status_code, refused.json()["error"]) == (429, "RATE_LIMITED")
    async with asyncio.timeout(120):  # 30 s on a quiet machine
        while await first_status(api) == 429:
            await asyncio.sleep(0.5)


async def first_status(api: httpx.AsyncClient) -> int:
    async with api.stream("GET", "/stream?table=tasks") as response:
        return response.status_code


async def test_a_websocket_carries_the_same(api, worker):
    """Through the Worker's own WebSocket, with a ticket: browsers send no header with it."""
    ticket = (await api.post("/stream/ticket")).json()["ticket"]
    address = f"{worker.url.replace('http', 'ws')}/stream?table=tasks&ticket={ticket}"
    async with websockets.connect(address, proxy=None) as socket:
        ready = json.loads(await socket.recv())
        assert (ready["event"], ready["tables"]) == ("ready", ["tasks"])
        task = await result(api, "create_task", "over a socket")
        change = json.loads(await socket.recv())
        assert (change["event"], change["change"]["data"]) == ("change", task)
        await socket.send('{"subscribe": ["accounts"]}')
        again = json.loads(await socket.recv())
        assert (again["event"], again["tables"], again["id"]) == ("ready", ["accounts", "tasks"], change["id"])


async def test_nobody_opens_a_stream_without_a_token(api, worker):
    async with httpx.AsyncClient(base_url=worker.url, timeout=60, trust_env=False) as stranger:
        response = await stranger.get("/stream?table=tasks")
    assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")
