"""Three servers behind one address are one server: streams, tickets and sessions go on wherever they are taken up."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest

from kontract.client import Client
from support.sessions import bearer, token
from workerd.streaming import everything_is_heard

pytestmark = pytest.mark.timeout(600)


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


async def test_a_stream_goes_on_at_another_node_and_hears_every_commit_once(served):
    """Nodes are killed one after the other under writers; the reader comes back with its last id, wherever it lands."""
    limits = httpx.Limits(max_connections=50)
    async with (
        httpx.AsyncClient(
            base_url=served.url, headers=bearer(), timeout=60, limits=limits, trust_env=False, verify=False
        ) as api,
        everything_is_heard(api, served.database_url) as writers,
    ):
        for node in served.nodes:
            await asyncio.to_thread(node.kill)
            await writers.some_more()
            await asyncio.to_thread(node.start)


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
