"""nginx and HAProxy as deploy/proxy has them, in front of a real server and of one that watches."""

import asyncio
import json
import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import websockets

from kontract.cli.toolchain.processes import free_port, wait_until
from kontract.core import limits
from support import apps
from support.proxies import proxy
from support.serving import running_server
from support.sessions import SECRET, bearer

PROXIES = [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("nginx", "haproxy")]
TOKEN = bearer()
TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUST.check_hostname = False
TRUST.verify_mode = ssl.CERT_NONE


@pytest.fixture(scope="module")
def node(checkout, postgres, reaper, tmp_path_factory):
    """The port of a `kontract serve`."""
    folder = tmp_path_factory.mktemp("node")
    modules = [Path(apps.__path__[0]) / "odd.py"]
    url = postgres.create_database()
    with running_server(checkout, url, folder, reaper, modules=modules, KONTRACT_SECRET=SECRET) as server:
        yield server.port


@pytest.fixture(scope="module", params=PROXIES)
def front(request, node, reaper):
    """A proxy with one node that lives and two that are down."""
    with proxy(request.param, [free_port(), node, free_port()], reaper) as running:
        yield running.port


async def hang_up(writer):
    """Close, and wait for it: what is left open is reported in whatever test runs when it is found."""
    writer.close()
    with suppress(OSError):  # the other side was faster
        await writer.wait_closed()


def client(port):
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", verify=False, headers=TOKEN, timeout=60, trust_env=False
    )


async def test_calls_find_the_node_that_lives(front):
    """Two nodes of three are down, and no caller hears of it."""
    async with client(front) as api:
        for number in range(20):
            answer = await api.post("/rpc/create_task", json=[f"through a proxy {number}"])
            assert answer.status_code == 200, answer.text


async def test_what_is_too_large_gets_an_answer_that_clients_can_read(front):
    """Nobody reads two megabytes to refuse them: the head is enough, and the answer has a code and is no page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front, ssl=TRUST)
    token = f"Authorization: {TOKEN['authorization']}\r\n".encode()
    sent = b"POST /rpc/create_task HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 2000000\r\n"
    writer.write(sent + token + b"\r\n")
    async with asyncio.timeout(60):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
    await hang_up(writer)
    assert head.startswith("http/1.1 413 ")
    assert "content-type: application/json" in head
    said = json.loads(body)
    assert said["error"] == "PAYLOAD_TOO_LARGE"
    assert len(said["request_id"]) >= 24


async def test_what_is_too_large_and_was_sent_whole_gets_it_too(front):
    """Clients send all of a body before they look for the answer; a connection that is reset tells them nothing."""
    async with client(front) as api:
        answer = await api.post("/call/echo", content=b'{"value":"' + b"a" * 4_000_000 + b'"}')
    assert (answer.status_code, answer.json()["error"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_an_answer_with_the_largest_head_comes_through(front):
    """The call has been applied: a 502 of the proxy would tell its caller that it may not have been."""
    headers = {f"x-{number}": "b" * limits.HEADER_BYTES for number in range(limits.HANDLER_HEADERS)}
    async with client(front) as api:
        for sent in ({"x-0": headers["x-0"]}, headers):
            answer = await api.post("/call/headers", json={"headers": sent, "status": 201})
            assert answer.status_code == 201, answer.text
            assert sent.items() <= dict(answer.headers).items()


async def test_a_function_does_not_steer_the_proxy(front):
    async with client(front) as api:
        answer = await api.post("/call/headers", json={"headers": {"X-Accel-Redirect": "/health"}})
    assert answer.json() == {"result": "ok"}


@pytest.mark.parametrize("front", PROXIES[:1], indirect=True)
@pytest.mark.parametrize("line", [b"X-A: a\x00b", b"X-A: " + b"b" * 9_000])
async def test_a_head_that_the_proxy_refuses_is_refused_like_by_the_gateway(front, line):
    """Not with a page for people. HAProxy would take that from a file only."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front, ssl=TRUST)
    writer.write(b"GET /health HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n" + line + b"\r\n\r\n")
    async with asyncio.timeout(60):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    await hang_up(writer)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body).keys() == {"error", "message", "request_id"}
    assert json.loads(body)["error"] == "INVALID_REQUEST"


async def test_what_is_just_allowed_goes_through(front):
    """A sealed call with a mebibyte of arguments is a little larger than that."""
    async with client(front) as api:
        answer = await api.post("/rpc/create_task", content=b'["' + b"a" * 1_000_000 + b'"]')
    assert answer.status_code == 400, "too long a title"


async def test_events_are_not_held_back(front):
    """Each event arrives while the stream is open: a buffer would keep it until it is full."""
    async with client(front) as api, api.stream("GET", "/stream?table=tasks") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        async for line in lines:
            if line == "event: ready":
                break
        for number in range(3):
            made = await api.post("/rpc/create_task", json=[f"event {number}"])
            async with asyncio.timeout(30):
                async for line in lines:
                    if line.startswith("data: ") and made.json()["result"]["id"] in line:
                        break


async def test_a_websocket_goes_through(front):
    address = f"wss://127.0.0.1:{front}/stream?table=tasks"
    async with websockets.connect(address, ssl=TRUST, additional_headers=TOKEN, proxy=None) as socket:
        async with asyncio.timeout(30):
            assert json.loads(await socket.recv())["event"] == "ready"
        async with client(front) as api:
            made = await api.post("/rpc/create_task", json=["over a socket"])
        async with asyncio.timeout(30):
            while made.json()["result"]["id"] not in await socket.recv():
                pass


# --- a node that watches ---------------------------------------------------------------------------------------------


class Watcher:
    """A node that keeps the requests it reads; it hangs up on a call in the middle, as one that is killed does."""

    def __init__(self):
        self.requests = []

    async def answer(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, _, rest = head.partition("\r\n")
                headers = {
                    key.lower(): value for key, _, value in (one.partition(": ") for one in rest.split("\r\n")) if key
                }
                await reader.readexactly(int(headers.get("content-length", "0")))
                if "/ready" not in line:
                    self.requests.append((line, headers))
                if line.startswith("POST"):
                    return
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await hang_up(writer)


@pytest.fixture(params=PROXIES)
async def watched(request, reaper):
    """Three nodes that are all the same watcher, behind a proxy."""
    watcher = Watcher()
    servers = [await asyncio.start_server(watcher.answer, "127.0.0.1", 0) for _ in range(3)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    manager = proxy(request.param, ports, reaper)
    running = await asyncio.to_thread(manager.__enter__)
    try:
        yield watcher, running
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
        for server in servers:
            server.close()
            await server.wait_closed()


async def test_a_call_that_reached_a_node_is_never_sent_to_another(watched):
    """The proxy cannot know whether it was applied: one that repeats it would move the money twice."""
    watcher, front = watched
    async with client(front.port) as api:
        answer = await api.post("/rpc/transfer", json=["a", "b", 1])
    assert answer.status_code == 502
    assert [line for line, _ in watcher.requests] == ["POST /rpc/transfer HTTP/1.1"]


async def test_callers_cannot_choose_their_address(watched):
    """Throttles count by address: what a caller says of itself must not get through."""
    watcher, front = watched
    async with client(front.port) as api:
        answer = await api.get("/health", headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.status_code == 200
    _, headers = watcher.requests[-1]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "https"


async def test_tickets_do_not_get_into_the_log(watched):
    """They stand in the query of a browser's stream, and whoever reads one within a minute can use it."""
    _, front = watched
    async with client(front.port) as api:
        assert (await api.get("/stream?table=tasks&ticket=sesame")).status_code == 200
        assert (await api.get("/health?sesame")).status_code == 200
    await asyncio.to_thread(wait_until, lambda: "/health" in front.log.read_text(), 30)
    log = front.log.read_text()
    assert "GET /stream HTTP/1.1" in log or "GET /stream HTTP/2.0" in log
    assert "sesame" not in log
