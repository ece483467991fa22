"""How a WebSocket is closed, message by message: over real sockets, with granian's side played by the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from kontract.ports import ClientGoneError
from kontract.server import streams
from kontract.server.sockets import PeerSocket
from kontract.server.streams import ClientSocket

GOING_AWAY = b"\x88\x02" + (1001).to_bytes(2, "big")


class Transport:
    """Sends a message to its end once it is let go, as a connection whose client is slow does."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def send_str(self, text: str) -> None:
        self.begun.set()
        await self.go_on.wait()
        self._socket.send(text.encode())


class Protocol:
    closed = False

    def close(self) -> None:
        self.closed = True


class Process:
    draining = True


class Connection:
    def __init__(self) -> None:
        self.client, server = socket.socketpair()
        self.client.settimeout(5)
        self.theirs = server.dup()
        self.transport = Transport(self.theirs)
        self.protocol = Protocol()
        self.peer = PeerSocket(server)
        self.socket = ClientSocket(self.transport, self.protocol, Process(), self.peer)

    async def begin(self) -> asyncio.Task[None]:
        """Return a writer that was told to stop in the middle of a message, as that of a stream is."""
        writing = asyncio.create_task(self.socket.write(b"message"))
        await self.transport.begun.wait()
        writing.cancel()
        return writing

    def close(self) -> None:
        self.client.close()
        self.theirs.close()
        self.peer.close()


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    made.close()


async def test_a_close_frame_follows_the_message_that_is_on_its_way(connection):
    """The code must not be lost because the message before has been received and granian has not said so yet."""
    await connection.begin()
    closing = asyncio.create_task(connection.socket.close())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    connection.transport.go_on.set()
    await closing
    assert connection.client.recv(100) == b"message" + GOING_AWAY
    assert connection.protocol.closed


async def test_a_message_that_no_client_takes_costs_the_connection(connection, monkeypatch):
    """Never a close frame in the middle of it."""
    monkeypatch.setattr(streams, "LAST_MESSAGE_SECONDS", 0.05)
    await connection.begin()
    await connection.socket.close()
    assert connection.client.recv(100) == b""
    assert connection.protocol.closed


async def test_a_second_cancellation_ends_the_waiting(connection):
    await connection.begin()
    closing = asyncio.create_task(connection.socket.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing], timeout=0.5)
    assert closing.done()
    assert connection.client.recv(100) == b""


async def test_a_client_who_left_is_told_as_such(connection):
    connection.transport.send_str = _gone
    with pytest.raises(ClientGoneError):
        await connection.socket.write(b"message")
    await connection.socket.close()
    assert connection.client.recv(100) == b""


async def _gone(text: str) -> None:
    raise streams.ProtocolClosed(text)
