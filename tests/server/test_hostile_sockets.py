"""What clients who break off, or never finish, may make `kontract serve` hold: through real connections."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import httpx
import pytest

from kontract.core import limits
from support import apps
from support.frames import CONTINUATION, TEXT, RawSocket, frame, resident_mib
from support.serving import running_server
from support.sessions import bearer_for

MIB = 2**20


@pytest.fixture(scope="module")
def server(checkout, postgres, reaper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    modules = [Path(apps.__path__[0]) / "pausing.py"]
    with running_server(checkout, postgres.create_database(), folder, reaper, modules=modules) as running:
        yield running


def open_streams(server, bearer: dict[str, str], count: int) -> list[int]:
    """Open so many streams at once, and return their statuses."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(RawSocket(server.port, bearer)).status for _ in range(count)]


def test_messages_that_nobody_finishes_are_not_kept(server):
    """8 connections with 60 unfinished frames of 1 MiB each: half a gigabyte, of which nothing stays."""
    RawSocket(server.port, bearer_for(server)).connection.close()
    before = resident_mib(server.pid)
    piece = bytes(MIB)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(RawSocket(server.port, bearer_for(server))) for _ in range(8)]
        assert {one.status for one in sockets} == {101}
        for number in range(60):
            for one in sockets:
                one.send(frame(piece, CONTINUATION if number else TEXT, fin=False))
        assert resident_mib(server.pid) - before < 32
        assert all(one.ends_within(10) for one in sockets)


def test_a_message_that_is_too_large_is_answered_with_a_reason(server):
    """1009 arrives although the client is still sending."""
    with RawSocket(server.port, bearer_for(server)) as one:
        one.send(frame(bytes(MIB)))
        assert one.closed() == 1009


def test_compression_is_not_agreed_on(server):
    """A few bytes would unfold to megabytes."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    with RawSocket(server.port, bearer_for(server) | offer) as one:
        assert one.status == 101
        assert b"sec-websocket-extensions" not in one.head.lower()


def leave_before_the_upgrade(server, bearer: dict[str, str]) -> None:
    """Ask for a WebSocket, and hang up without waiting for the answer."""
    lines = ["GET /stream?table=tasks HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    lines += [*(f"{name}: {value}" for name, value in bearer.items()), "", ""]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        time.sleep(0.01)


def test_streams_that_nobody_waits_for_are_given_back(server):
    """Each took a place of those that one user has, and would have kept it until the server stops."""
    bearer = bearer_for(server, user="who-leaves")
    for _ in range(limits.STREAMS_PER_USER + 5):
        leave_before_the_upgrade(server, bearer)
    end = time.monotonic() + 60
    while set(statuses := open_streams(server, bearer, limits.STREAMS_PER_USER)) != {101}:
        assert time.monotonic() < end, statuses
        time.sleep(0.2)


def begin(server, head: str, data: bytes) -> socket.socket:
    """A connection on which a request was begun."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(head.encode() + data)
    return connection


def test_bodies_that_do_not_end_have_room_for_all_together(server):
    """Without a token, each may take 1 MiB for half a minute. Beyond the room of one address nothing is kept."""
    before = resident_mib(server.pid)
    head = f"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {limits.BODY_BYTES}\r\n\r\n"
    fits = limits.BODIES_PER_ADDRESS_BYTES // limits.BODY_BYTES
    with contextlib.ExitStack() as stack, httpx.Client(base_url=server.url, timeout=60) as api:

        def wait_for(*, full: bool) -> None:
            until = time.monotonic() + 30
            while (api.post("/auth/login", content=b"x" * 100_000).status_code == 429) != full:
                assert time.monotonic() < until, f"is the room full? {not full}"
                time.sleep(0.05)

        kept = [stack.enter_context(begin(server, head, bytes(MIB - 1))) for _ in range(fits)]
        wait_for(full=True)
        for line in [stack.enter_context(begin(server, head, bytes(MIB - 1))) for _ in range(40)]:
            line.sendall(b"x")  # it is not kept, but an answer comes when all was sent
            assert line.recv(65536).startswith(b"HTTP/1.1 429 ")
        after = resident_mib(server.pid)
        for line in kept:
            line.close()
        wait_for(full=False)
    assert after - before < 2 * fits + 20


def test_heads_that_do_not_end_are_short(server):
    """A longer one is refused with 431 as soon as that is known."""
    before = resident_mib(server.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(
                begin(server, "GET /health HTTP/1.1\r\nX-A: ", bytes(limits.HEAD_BYTES - 4000).replace(b"\0", b"a"))
            )
        time.sleep(0.5)
        assert resident_mib(server.pid) - before < 40
    with begin(server, "GET /health HTTP/1.1\r\nX-A: ", b"a" * 100_000) as line:
        assert line.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_websocket_whose_client_reads_nothing_is_cut(server):
    """With what waits for it."""
    bearer = bearer_for(server)
    with RawSocket(server.port, bearer) as one, httpx.Client(base_url=server.url, headers=bearer, timeout=60) as api:
        for _ in range(100):
            assert api.post("/rpc/flood", json=[1000]).status_code == 200
            if server.events("stream_cut"):
                break
        [cut] = server.events("stream_cut")
        assert cut["bytes"] < 4 * limits.STREAM_BACKLOG_BYTES
        assert one.ends_within(20)
