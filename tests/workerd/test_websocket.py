"""What a hostile client of a stream may send over its WebSocket, wherever the gateway runs."""

from __future__ import annotations

import asyncio
import json

import pytest
import websockets

from kontract.core import limits
from support.frames import CONTINUATION, TEXT, RawSocket, frame
from support.sessions import bearer_for

MOST = limits.STREAM_MESSAGE_BYTES


def choice(size: int, letter: str = " ") -> str:
    """A choice of tables of so many bytes."""
    text = json.dumps({"subscribe": ["tasks"]})
    return text[:-1] + letter * (size - len(text)) + "}"


def connect(worker):
    address = f"{worker.url.replace('http', 'ws')}/stream?table=tasks"
    return websockets.connect(address, additional_headers=bearer_for(worker), proxy=None)


async def test_the_largest_message_passes_and_one_byte_more_ends_the_connection(worker):
    async with connect(worker) as socket:
        assert json.loads(await socket.recv())["event"] == "ready"
        await socket.send(choice(MOST))
        assert json.loads(await socket.recv())["event"] == "ready"
        await socket.send(choice(MOST + 1))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_message_that_unfolds_is_measured_unfolded(worker):
    """Compression, where it was agreed on, is no way around the limit."""
    async with connect(worker) as socket:
        assert json.loads(await socket.recv())["event"] == "ready"
        await socket.send("x" * 900_000)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_message_in_many_pieces_is_measured_whole(worker):
    def send() -> int:
        with RawSocket(worker.port, bearer_for(worker)) as one:
            for number in range(MOST // 64 + 1):
                one.send(frame(b"x" * 64, CONTINUATION if number else TEXT, fin=number == MOST // 64))
            return one.closed()

    assert await asyncio.to_thread(send) == 1009


async def test_others_are_served_while_one_sends_without_pause(worker):
    """It is closed, or made to wait; a stream beside it goes on."""

    def flood() -> None:
        with RawSocket(worker.port, bearer_for(worker)) as one:
            one.connection.settimeout(2)
            for _ in range(50):
                if not one.send(frame(b"{}") * 100):
                    return

    flooding = asyncio.create_task(asyncio.to_thread(flood))
    async with asyncio.timeout(60), connect(worker) as socket:
        assert json.loads(await socket.recv())["event"] == "ready"
        await socket.send(choice(100))
        assert json.loads(await socket.recv())["event"] == "ready"
    await flooding
