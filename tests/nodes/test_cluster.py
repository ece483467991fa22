"""Three servers behind one address are one server: streams, tickets and sessions go on wherever they are taken up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import asyncpg
import httpx
import pytest

from kontract.client import Client
from support.sessions import bearer, token
from workerd.test_stream_faults import Reader

pytestmark = pytest.mark.timeout(600)

WRITERS = 3
BETWEEN = 15


class OneAfterTheOther(httpx.AsyncHTTPTransport):
    """Sends each request to the next node."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self.paths: list[str] = []
        self._ports = itertools.cycle(ports)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        request.url = request.url.copy_with(port=next(self._ports))
        return await super().handle_async_request(request)


def proxied(served, **more) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=50)
    return httpx.AsyncClient(
        base_url=served.url, headers=bearer(), timeout=60, limits=limits, trust_env=False, verify=False, **more
    )


async def commits(served, table: str) -> list[tuple[int, str]]:
    connection = await asyncpg.connect(served.database_url)
    try:
        return [(row[0], row[1]) for row in await connection.fetch(f"SELECT _txid, id FROM {table}")]
    finally:
        await connection.close()


async def test_a_stream_goes_on_at_another_node_and_hears_every_commit_once(served):
    """Nodes are killed one after the other under writers; the reader comes back with its last id, wherever it lands."""
    async with proxied(served) as api:
        names = [f"s{n}" for n in range(6)]
        for name in names:
            assert (await api.post("/rpc/open_account", json=[name, 1000])).status_code == 200
        reader = Reader(api)
        reading = asyncio.ensure_future(reader.run())
        while not reader.connections:
            await asyncio.sleep(0.05)
        first = max(txid for txid, _ in await commits(served, "tbl_accounts_9b27e4"))
        acknowledged: set[int] = set()
        going = True

        async def write(number: int) -> None:
            dice = random.Random(number)
            for n in itertools.count():
                if not going:
                    return
                src, dst = dice.sample(names, 2)
                with contextlib.suppress(httpx.HTTPError):
                    key = {"Idempotency-Key": f"w{number}-{n}"}
                    response = await api.post("/rpc/transfer", json=[src, dst, 1], headers=key)
                    if response.status_code == 200:
                        acknowledged.add(int(response.headers["x-kontract-txid"]))

        async def some_more() -> None:
            target = len(acknowledged) + BETWEEN
            while len(acknowledged) < target:
                await asyncio.sleep(0.02)

        writers = [asyncio.ensure_future(write(number)) for number in range(WRITERS)]
        await some_more()
        for node in served.nodes:
            await asyncio.to_thread(node.kill)
            await some_more()
            await asyncio.to_thread(node.start)
        await some_more()
        going = False
        await asyncio.gather(*writers)
        assert (await api.post("/rpc/open_account", json=["the-end", 0])).status_code == 200
        async with asyncio.timeout(60):
            while not any(name == "the-end" for _, name in reader.seen):
                await asyncio.sleep(0.05)
        reading.cancel()
    committed = [row for row in await commits(served, "tbl_accounts_9b27e4") if row[0] > first]
    assert [txid for txid, _ in reader.seen] == sorted(txid for txid, _ in reader.seen)
    assert sorted(reader.seen) == sorted(committed)
    assert acknowledged <= {txid for txid, _ in committed} | set(range(first + 1))
    assert reader.resets == 0
    assert reader.connections >= 2, "nothing was interrupted: the test shows nothing"


async def test_a_change_made_on_one_node_is_heard_on_another(served):
    one, two, _ = served.nodes
    async with (
        Client(one.url, token=token()) as writer,
        Client(two.url, token=token()) as listener,
    ):
        events = aiter(listener.stream("tasks"))
        waiting = asyncio.ensure_future(anext(events))
        made = None
        while not waiting.done():  # it may not stand yet
            made = await writer.create_task("across nodes")
            await asyncio.wait([waiting], timeout=1)
        assert (await waiting).table == "tasks"
        assert made is not None
        await events.aclose()


async def test_a_sealed_session_is_understood_by_every_node(served):
    """The handshake is made with one node; its ticket opens calls on all of them."""
    nodes = OneAfterTheOther([node.port for node in served.nodes])
    async with (
        httpx.AsyncClient(transport=nodes, timeout=60) as http,
        Client(served.nodes[0].url, token=token(), secure=True, http=http) as api,
    ):
        made = await api.create_task("sealed")
        for _ in range(6):
            assert (await api.get_task(made["id"]))["title"] == "sealed"
    assert nodes.paths.count("/raystream/handshake") == 1
    assert len(nodes.paths) >= 8


async def test_a_session_begun_on_one_node_ends_on_all(served):
    urls = [node.url for node in served.nodes]
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        session = (await http.post(f"{urls[0]}/auth/anonymous")).json()
        headers = {"Authorization": f"Bearer {session['token']}"}
        for url in urls:
            assert (await http.get(f"{url}/auth/me", headers=headers)).status_code == 200
        fresh = await http.post(f"{urls[1]}/auth/refresh", json={"refresh_token": session["refresh_token"]})
        assert fresh.status_code == 200
        assert (await http.post(f"{urls[2]}/auth/logout", headers=headers)).status_code == 204
        for url in urls:
            assert (await http.get(f"{url}/auth/me", headers=headers)).status_code == 401
