"""What listens before the local runtime: on both loopback addresses, for known names, and never without an answer."""

import asyncio
import contextlib
import json
import socket

import httpx
import pytest
import websockets

from kontract.cli.toolchain.front import Front
from kontract.cli.toolchain.hosts import Hosts
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Runtime:
    """What stands behind it: `answer` is given (method, target, headers, body reader, writer) of each request."""

    def __init__(self):
        self.seen = []
        self.gone = asyncio.Event()

    async def met(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            self.seen.append((method, target, headers))
            await getattr(self, "on" + target.partition("?")[0].replace("/", "_"))(headers, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def on_echo(self, headers, reader, writer):
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = b""
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n" % len(body) + body
        )

    async def on_head(self, _headers, _reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    async def on_stream(self, _headers, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            writer.write(b"3\r\n%d\n\n\r\n" % number)
            await writer.drain()
            await self.next_one.wait()
            self.next_one.clear()
        if not await reader.read():  # until the caller is gone
            self.gone.set()

    async def on_close(self, _headers, _reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end")

    async def on_die(self, headers, reader, writer):
        await reader.read(int(headers.get("content-length", 0)))

    async def on_half(self, _headers, _reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async def on_page(self, _headers, _reader, writer):
        writer.write(b"HTTP/1.1 500 Error\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nStack!")

    async def on_own(self, _headers, _reader, writer):
        writer.write(b"HTTP/1.1 500 No\r\nContent-Type: text/html\r\nX-Request-Id: r1\r\nContent-Length: 3\r\n\r\nown")

    async def on_large(self, _headers, reader, writer):
        writer.write(b"HTTP/1.1 413 Large\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        while await reader.read(65_536):
            pass  # or the connection is reset, and the answer lost on the way to whoever is before it

    async def on_flood(self, _headers, _reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async def on_hang(self, _headers, reader, _writer):
        if not await reader.read():
            self.gone.set()


@pytest.fixture
async def runtime():
    made = Runtime()
    made.next_one = asyncio.Event()
    server = await asyncio.start_server(made.met, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


@contextlib.contextmanager
def front(upstream, *more, addresses=("127.0.0.1", "::1")):
    made = Front(free_port(), upstream, Hosts(more), addresses)
    try:
        made.start()
        made.open = True
        yield made
    finally:
        made.stop()


@pytest.fixture
def before(runtime):
    with front(runtime.port) as made:
        yield made


@pytest.fixture
async def http(before):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{before.port}", timeout=30, trust_env=False) as client:
        yield client


def error(response):
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"error", "message", "request_id"}
    assert response.headers["x-request-id"] == body["request_id"]
    return response.status_code, body["error"]


# --- addresses and names ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_it_answers_on_both_addresses_that_localhost_may_be(before):
    assert before.addresses == ["127.0.0.1", "::1"]
    for address in ("127.0.0.1", "[::1]", "localhost"):
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"http://{address}:{before.port}/echo", content=b"hello")
        assert (answer.status_code, answer.text) == (200, "hello"), address


async def test_a_machine_without_ipv6_has_one_address_less(runtime, monkeypatch):
    real = socket.socket

    def without(family=-1, *rest, **more):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest, **more)

    monkeypatch.setattr(socket, "socket", without)
    with front(runtime.port) as made:
        assert made.addresses == ["127.0.0.1"]


def test_a_port_that_is_taken_on_one_of_them_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        made = Front(taken.getsockname()[1], 1, Hosts())
        with pytest.raises(OSError, match="in use"):
            made.start()
        made.stop()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True), ("LOCALHOST:8787", True), ("localhost.", True), ("127.0.0.1:80", True),
        ("[::1]:8787", True),
        ("app.localhost:8787", True), ("a.b.localhost", True), ("rebind.example", False), ("localhost.example", False),
        ("evillocalhost", False), (".localhost", True), ("127.0.0.1.example", False), ("10.0.0.7", False),
        ("[::1", False), ("", False), ("localhost:8787@evil.example", False), ("localhost, evil.example", False),
        ("my-tunnel.example.com", True), ("a.my-tunnel.example.com", False), ("any.test", True), ("test", False),
    ],
)  # fmt: skip
def test_names_of_this_machine_and_those_that_were_added_are_known(host, allowed):
    assert Hosts.read({"KONTRACT_HOSTS": "My-Tunnel.example.com, *.test"}).allow(host) is allowed


def test_any_name_can_be_allowed():
    assert Hosts.read({"KONTRACT_HOSTS": "*"}).allow("whatever.example:1")


@pytest.mark.parametrize("text", ["http://a", "a:80", "a/b", "*.*", "a..b"])
def test_what_is_no_name_is_a_problem(text):
    with pytest.raises(Problem, match="KONTRACT_HOSTS"):
        Hosts.read({"KONTRACT_HOSTS": text})


async def test_an_unknown_name_is_refused_with_a_sentence_and_reaches_nothing(runtime, http):
    """A page of rebind.example whose name leads here must not read an answer, a file or an event."""
    for method, path in (("GET", "/echo"), ("POST", "/echo"), ("OPTIONS", "/echo"), ("GET", "/index.html")):
        answer = await http.request(method, path, headers={"Host": "rebind.example:8787"})
        assert error(answer) == (403, "FORBIDDEN")
        assert "'rebind.example'" in answer.json()["message"]
        assert "KONTRACT_HOSTS=rebind.example" in answer.json()["message"]
    assert runtime.seen == []


async def test_an_unknown_name_opens_no_websocket(before, runtime):
    address = f"ws://127.0.0.1:{before.port}/stream"
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(address, additional_headers={"Host": "rebind.example"}, proxy=None):
            pass
    assert caught.value.response.status_code in (400, 403)
    assert runtime.seen == []


async def test_a_name_that_was_added_is_answered(runtime):
    with front(runtime.port, "tunnel.example") as made:
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{made.port}/echo"
            answer = await client.post(url, content=b"x", headers={"Host": "tunnel.example"})
    assert answer.text == "x"
    assert runtime.seen[0][2]["host"] == "tunnel.example", "the application sees the name it was asked by"


# --- what goes through -----------------------------------------------------------------------------------------------


async def test_bodies_go_through_whatever_their_framing(http, runtime):
    async def pieces():
        for _ in range(40):
            yield b"x" * 50_000

    assert len((await http.post("/echo", content=pieces())).content) == 2_000_000
    answer = await http.post("/echo", content=b"y" * 1_500_000, headers={"Expect": "100-continue"})
    assert len(answer.content) == 1_500_000
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (await http.get("/close")).text == "until the end"
    head = await http.head("/head")
    assert (head.headers["content-length"], head.content) == ("1000", b"")
    assert "expect" not in runtime.seen[1][2]


async def test_small_pieces_of_an_answer_do_not_wait_for_one_another(before):
    """asyncio switches Nagle's algorithm off for sockets that say they are TCP, and for no others: 45 ms a call."""
    assert {one.proto for one in before._sockets} == {socket.IPPROTO_TCP}


async def test_a_connection_serves_many_calls_also_sent_ahead(before, runtime):
    reader, writer = await asyncio.open_connection("127.0.0.1", before.port)
    request = b"POST /echo?%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n%d"
    for start in (0, 3):
        writer.write(b"".join(request % (number, number) for number in range(start, start + 3)))
        for number in range(start, start + 3):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(1) == b"%d" % number
    writer.close()
    await writer.wait_closed()
    assert [target for _, target, _ in runtime.seen] == [f"/echo?{number}" for number in range(6)]


async def test_events_go_through_as_they_come_and_the_runtime_hears_when_the_caller_leaves(http, runtime):
    async with http.stream("GET", "/stream") as stream:
        lines = stream.aiter_lines()
        for number in range(3):
            while (line := await anext(lines)) == "":
                pass
            assert line == str(number)
            runtime.next_one.set()
    async with asyncio.timeout(10):
        await runtime.gone.wait()


async def test_the_runtime_hears_when_a_caller_of_a_call_leaves(http, runtime):
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/hang", content=b"", timeout=0.3)
    async with asyncio.timeout(10):
        await runtime.gone.wait()


async def test_an_answer_before_the_end_of_the_body_is_seen(before):
    """Who still sends when the connection is reset loses the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", before.port)
    writer.write(b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n")
    for _ in range(8):
        writer.write(b"z" * 1_000_000)
        await asyncio.sleep(0)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_stopping_waits_for_nobody_who_does_not_read(runtime):
    """Every socket is closed when it has stopped, also one with bytes that its client never took."""
    made = Front(free_port(), runtime.port, Hosts(()))
    made.start()
    made.open = True
    with socket.create_connection(("127.0.0.1", made.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.to_thread(client.recv, 1_000)
        [writer] = [task.get_coro().cr_frame.f_locals["writer"] for task in made._tasks]
        while not writer.transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(made.stop)
        assert writer.transport.get_extra_info("socket").fileno() == -1


async def test_a_websocket_goes_through():
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with front(port) as made:
            async with websockets.connect(f"ws://localhost:{made.port}/stream", proxy=None) as client:
                for text in ("one", "two" * 100_000):
                    await client.send(text)
                    assert await client.recv() == text


# --- a runtime that is away ------------------------------------------------------------------------------------------


async def test_without_a_runtime_there_is_an_error_in_the_usual_form(before, http, runtime):
    before.upstream = free_port()
    answer = await http.get("/echo")
    assert error(answer) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"
    before.upstream, before.open = runtime.port, False
    answer = await http.post("/echo", content=b"x")
    assert error(answer) == (503, "UNAVAILABLE"), "it was not sent, so it can be sent again"
    assert runtime.seen == []


async def test_a_runtime_that_dies_in_a_call_leaves_an_error_that_says_what_is_known(http):
    """A read can be repeated; whether a call was applied nobody knows."""
    assert error(await http.get("/die")) == (503, "UNAVAILABLE")
    assert error(await http.post("/die", content=b"x")) == (503, "COMMIT_UNKNOWN")


async def test_what_the_runtime_says_instead_of_the_application_becomes_json(http):
    assert error(await http.get("/page")) == (503, "UNAVAILABLE")
    assert error(await http.post("/page", content=b"x")) == (503, "COMMIT_UNKNOWN")
    own = await http.get("/own")
    assert (own.status_code, own.text) == (500, "own"), "of the application nothing is changed"


async def test_half_an_answer_is_no_answer(http):
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get("/half")


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nHost: rebind.example\r\n\r\n",
        b"GET http://rebind.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"GET /" + b"a" * 80_000,
    ],
)
async def test_what_is_no_request_gets_an_error_and_the_next_caller_is_served(before, runtime, http, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", before.port)
    writer.write(sent)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 4")
    assert json.loads(body)["error"] == "INVALID_REQUEST"
    assert runtime.seen == []
    assert (await http.post("/echo", content=b"x")).text == "x"
