"""A client's WebSocket on a server: how it is closed, and what a client may make it hold. Over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from types import SimpleNamespace

import pytest

from kontract.core import limits
from kontract.ports import ClientGoneError
from kontract.server import websocket
from kontract.server.sockets import PeerSocket
from kontract.server.websocket import ClientSocket
from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, header

GOING_AWAY = frame((1001).to_bytes(2, "big"), CLOSE, masked=False)
MOST = limits.STREAM_MESSAGE_BYTES


class Granian:
    """granian's side of the connection, which is told when it is over."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Process:
    draining = True


class Line:
    """Both ends of a connection: the client's socket, and what the server has of it."""

    def __init__(self) -> None:
        self.client, server = socket.socketpair()
        self.client.settimeout(5)
        self.peer = PeerSocket(server)
        self.granian = Granian()
        self.process = Process()
        self.socket = ClientSocket(self.granian, self.process, self.peer)

    async def say(self, *data: bytes) -> None:
        await asyncio.to_thread(self.client.sendall, b"".join(data))

    async def hear(self, size: int = 65536) -> bytes:
        return await asyncio.to_thread(self.client.recv, size)

    async def end(self) -> int:
        """What the client is told at the end, when it hangs up in turn: a code."""
        closing = asyncio.create_task(self.socket.close())
        data = b""
        while more := await self.hear():
            data += more
        self.client.close()
        await closing
        at = data.rindex(b"\x88")
        return int.from_bytes(data[at + 2 : at + 4], "big")

    async def fill(self) -> asyncio.Task[None]:
        """Send more than anybody takes; return the writer, which was told to stop in the middle of it."""
        self.peer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writing = asyncio.create_task(self.socket.write(b"m" * 1_000_000))
        await asyncio.sleep(0.05)
        writing.cancel()
        return writing


@pytest.fixture
async def line():
    made = Line()
    yield made
    made.client.close()
    made.peer.close()
    await asyncio.sleep(0)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_a_close_frame_follows_the_message_that_is_on_its_way(line):
    """Also when its writer was told to stop: the code must not end up inside of it, or get lost."""
    await line.fill()
    closing = asyncio.create_task(line.socket.close())
    data = b""
    while more := await line.hear():
        data += more
    assert data == frame(b"m" * 1_000_000, TEXT, masked=False) + GOING_AWAY
    line.client.close()
    await closing
    assert line.granian.closed


async def test_a_message_that_no_client_takes_costs_the_connection(line, monkeypatch):
    """Never a close frame in the middle of it."""
    monkeypatch.setattr(websocket, "LAST_MESSAGE_SECONDS", 0.05)
    await line.fill()
    await line.socket.close()
    data = b""
    while more := await line.hear():
        data += more
    assert not data.endswith(GOING_AWAY)
    assert len(data) < 1_000_000
    assert line.granian.closed


async def test_a_second_cancellation_ends_the_waiting(line):
    await line.fill()
    closing = asyncio.create_task(line.socket.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing], timeout=0.5)
    assert closing.done()
    assert line.granian.closed


async def test_a_client_that_does_not_hang_up_is_not_waited_for(line, monkeypatch):
    monkeypatch.setattr(websocket, "LAST_MESSAGE_SECONDS", 0.05)
    async with asyncio.timeout(1):
        await line.socket.close()
    assert await line.hear() == GOING_AWAY


async def test_a_client_that_says_goodbye_gets_its_code_back(line):
    await line.say(frame((1000).to_bytes(2, "big") + b"done", CLOSE))
    with pytest.raises(ClientGoneError):
        await line.socket.receive()
    assert await line.end() == 1000


async def test_a_client_who_left_is_told_as_such(line):
    line.client.close()
    with pytest.raises(ClientGoneError):
        await line.socket.receive()
    with pytest.raises(ClientGoneError):
        await line.socket.write(b"message")
    await line.socket.close()


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_message_may_come_in_pieces_with_pings_between(line, opcode):
    await line.say(frame(b"a", opcode, fin=False), frame(b"?", PING), frame("é".encode(), CONTINUATION))
    assert await line.socket.receive() == "aé"
    assert await line.hear() == frame(b"?", PONG, masked=False)


@pytest.mark.parametrize("pieces", [1, 2, 64])
async def test_the_largest_message_passes_and_one_byte_more_does_not(line, pieces):
    """1009, whether it comes in one frame or in many."""
    for size, passes in ((MOST, True), (MOST + 1, False)):
        step = -(-size // pieces)
        parts = [b"x" * (min(at + step, size) - at) for at in range(0, size, step)]
        await line.say(
            *(frame(part, CONTINUATION if n else TEXT, fin=n == len(parts) - 1) for n, part in enumerate(parts))
        )
        if passes:
            assert len(await line.socket.receive()) == MOST
        else:
            with pytest.raises(ClientGoneError):
                await line.socket.receive()
    assert await line.end() == 1009


async def test_a_message_that_is_too_large_is_refused_before_it_has_come(line):
    """Its length is in its first bytes, or the sum of its frames' is: nobody waits for the rest."""
    await line.say(header(2**62, TEXT), b"x" * (MOST + 1))
    async with asyncio.timeout(2):
        with pytest.raises(ClientGoneError):
            await line.socket.receive()
    assert await line.end() == 1009


@pytest.mark.parametrize("first", [frame(b"a", fin=False), header(1000) + b"a", frame(b"", fin=False)])
async def test_a_message_that_is_not_finished_is_not_waited_for(line, monkeypatch, first):
    """1008, although a ping shows that the client is there."""
    monkeypatch.setattr(limits, "STREAM_MESSAGE_MS", 100)
    await line.say(first)
    async with asyncio.timeout(2):
        with pytest.raises(ClientGoneError):
            await line.socket.receive()
    assert await line.end() == 1008


async def test_a_message_that_dribbles_is_not_waited_for(line, monkeypatch):
    """Its time counts from its first byte, not from its last."""
    monkeypatch.setattr(limits, "STREAM_MESSAGE_MS", 200)
    receiving = asyncio.create_task(line.socket.receive())
    with contextlib.suppress(OSError):
        await line.say(header(1000))
        for _ in range(100):
            await line.say(b"x")
            await asyncio.sleep(0.02)
            if receiving.done():
                break
    assert isinstance(receiving.exception(), ClientGoneError)
    assert await line.end() == 1008


async def test_a_client_that_says_nothing_may_stay(line, monkeypatch):
    """Also after a message: there is no time limit between two."""
    monkeypatch.setattr(limits, "STREAM_MESSAGE_MS", 50)
    await line.say(frame(b"a", fin=False), frame(b"b", CONTINUATION))
    assert await line.socket.receive() == "ab"
    receiving = asyncio.create_task(line.socket.receive())
    await asyncio.sleep(0.2)
    assert not receiving.done()
    await line.say(frame(b"c"))
    assert await receiving == "c"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"a", rsv=4), 1002),  # compressed, which was not agreed on
        (frame(b"a", masked=False), 1002),
        (frame(b"a", CONTINUATION), 1002),
        (frame(b"a", fin=False) + frame(b"b", TEXT), 1002),
        (frame(b"a", 3), 1002),
        (frame(b"a", PING, fin=False), 1002),
        (frame(b"a" * 126, PING), 1002),
        (frame(b"a" * 126, CLOSE), 1002),
        (frame(b"\x00", CLOSE), 1002),
        (frame((1005).to_bytes(2, "big"), CLOSE), 1002),
        (frame(b"\xff"), 1007),
        (frame(b"\xed\xa0\x80"), 1007),
    ],
)
async def test_frames_that_are_none_end_the_connection(line, sent, code):
    await line.say(sent)
    with pytest.raises(ClientGoneError):
        await line.socket.receive()
    assert await line.end() == code


@pytest.mark.parametrize(
    ("first", "flood"),
    [
        (b"", frame(b"x" * 100, PING)),
        (b"", frame(b"", PONG)),
        (b"", frame(b"{}")),
        (frame(b"", fin=False), frame(b"", CONTINUATION, fin=False)),
    ],
)
async def test_a_flood_of_frames_is_taken_slowly(line, monkeypatch, first, flood):
    """The server takes no more than there is a budget for; the rest waits with the client."""
    monkeypatch.setattr(limits, "STREAM_FRAMES_AT_ONCE", 50)
    line.socket = ClientSocket(line.granian, line.process, line.peer)
    pace, taken = line.socket._pace, []
    counting = SimpleNamespace(spend=lambda now: taken.append(now) or pace.spend(now))
    monkeypatch.setattr(line.socket, "_pace", counting)
    line.client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        line.client.sendall(first)
        for _ in range(100_000):
            line.client.sendall(flood)

    async def receive() -> None:
        while True:
            await line.socket.receive()

    loop = asyncio.get_running_loop()
    before = loop.time()
    receiving = asyncio.create_task(receive())
    await asyncio.sleep(0.5)
    assert 50 < len(taken) <= 52 + limits.STREAM_FRAMES_PER_SECOND * (loop.time() - before)
    receiving.cancel()


async def test_who_takes_no_answers_to_its_pings_is_not_read(line):
    """Answers are not collected: while one waits to be taken nothing else is read."""
    line.peer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await asyncio.to_thread(line.client.setsockopt, socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writing = await line.fill()
    await line.say(frame(b"?", PING), frame(json.dumps({"subscribe": []}).encode()))
    receiving = asyncio.create_task(line.socket.receive())
    await asyncio.sleep(0.1)
    assert not receiving.done()
    receiving.cancel()
    await asyncio.wait([writing, receiving])
