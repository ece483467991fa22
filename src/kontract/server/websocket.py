"""A client's WebSocket, from the upgrade on: frames, bounds, and the end.

granian answers the upgrade and then only keeps the connection: it would collect up to 64 MiB of a message that nobody
finishes, and has no option against that. So nothing is ever read through it. The frames are read from the socket here,
a few kilobytes at a time, taken apart by wsproto, and what comes too large, too slowly or too often is not kept
(docs/explanation/decisions).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any, Protocol

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from kontract.core import limits
from kontract.core.pace import Pace
from kontract.ports import ClientGoneError
from kontract.server.sockets import PeerSocket

READ_BYTES = 4_096
"""What is read at a time: a message has no more, and 600 empty frames are taken apart within milliseconds."""

LAST_MESSAGE_SECONDS = 1.0
"""How long a closing WebSocket waits for its client to take the last message and to disconnect."""

FAREWELL_BYTES = 4 * limits.BODY_BYTES
"""Bytes that are read and dropped from a client that keeps sending, so that it sees the close frame."""

_RECEIVE_BUFFER_BYTES = 16 * 1024
"""Bytes of a client's messages that the system may buffer while they are unread; by default it would take megabytes."""


class Process(Protocol):
    """What streams want to know of their process."""

    draining: bool


class ClientSocket:
    """A client's WebSocket. Implements :class:`kontract.ports.Socket`."""

    separate = True

    def __init__(self, protocol: Any, process: Process, peer: PeerSocket) -> None:
        """Use the connection ``peer``, which was upgraded. ``protocol``: granian's side of it, to be closed."""
        self._protocol = protocol
        self._process = process
        self._peer = peer
        peer.keep_little(_RECEIVE_BUFFER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(ConnectionType.SERVER)
        self._events: Generator[Event, None, None] = self._connection.events()
        self._pace = Pace(limits.STREAM_FRAMES_AT_ONCE, limits.STREAM_FRAMES_PER_SECOND, self._now())
        self._parts: list[bytes] = []
        self._size = 0
        self._unfinished_until: float | None = None
        self._turn = asyncio.Lock()
        self._sending: asyncio.Task[None] | None = None
        self._end: CloseConnection | None = None
        self._closed = False

    async def write(self, data: bytes) -> None:
        """Send a message, and wait until the connection has taken it."""
        await self._send(TextMessage(data.decode()))

    async def receive(self) -> str:
        """Wait for a message. What breaks the protocol or a limit ends the connection with the code for it.

        Whoever is cancelled in here must not come back: a message may be lost.
        """
        while True:
            event = next(self._events, None)
            if event is None:
                await self._read()
                continue
            await self._wait_for_budget()
            if isinstance(event, (TextMessage, BytesMessage)):
                text = self._take(event)
                if text is not None:
                    return text
            elif isinstance(event, Ping):
                await self._send(event.response())
            elif isinstance(event, CloseConnection):
                closed = self._connection.state is not ConnectionState.OPEN
                self._end = event.response() if closed else event  # else a frame that is none, and this is the code
                raise ClientGoneError

    async def close(self) -> None:
        """Close; a process that stops says that it is going away.

        A message on its way comes first. One that a client does not take within :data:`LAST_MESSAGE_SECONDS` costs the
        connection: a close frame would end up inside of it.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if await self._sent():
                await self._part()
        except asyncio.CancelledError:
            pass  # there is no time any more
        finally:
            if self._sending is not None:
                self._sending.cancel()
            self._peer.cut()
            self._protocol.close()

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async with asyncio.timeout_at(self._unfinished_until):
                data = await self._peer.receive(READ_BYTES)
        except TimeoutError:
            seconds = limits.STREAM_MESSAGE_MS // 1000
            raise self._broken(CloseReason.POLICY_VIOLATION, f"a message must arrive within {seconds} s") from None
        except OSError as error:
            raise ClientGoneError(str(error)) from error
        if not data:
            raise ClientGoneError
        self._connection.receive_data(data)
        self._events = self._connection.events()

    def _take(self, event: TextMessage | BytesMessage) -> str | None:
        """Add a part of a message, and return it when that was the last one."""
        part = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        self._size += len(part)
        if self._size > limits.STREAM_MESSAGE_BYTES:
            most = limits.STREAM_MESSAGE_BYTES
            raise self._broken(CloseReason.MESSAGE_TOO_BIG, f"a message has at most {most} bytes")
        self._parts.append(part)
        if not event.message_finished:
            if self._unfinished_until is None:
                self._unfinished_until = self._loop.time() + limits.STREAM_MESSAGE_MS / 1000
            return None
        text = b"".join(self._parts).decode(errors="replace")
        self._parts.clear()
        self._size, self._unfinished_until = 0, None
        return text

    def _broken(self, code: CloseReason, reason: str) -> ClientGoneError:
        self._end = CloseConnection(code, reason)
        return ClientGoneError(reason)

    async def _wait_for_budget(self) -> None:
        """Let a client who sends very many frames wait: what it sends meanwhile stays in its own memory."""
        pause = self._pace.spend(self._now())
        if pause:
            await asyncio.sleep(pause / 1000)

    def _now(self) -> float:
        return self._loop.time() * 1000

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _send(self, event: Event) -> None:
        """Send a frame; one that was begun is sent to its end."""
        self._sending = sending = asyncio.ensure_future(self._send_whole(event))
        await asyncio.shield(sending)

    async def _send_whole(self, event: Event) -> None:
        async with self._turn:
            try:
                await self._peer.send(self._connection.send(event))
            except (OSError, LocalProtocolError) as error:
                raise ClientGoneError(str(error)) from error

    async def _sent(self) -> bool:
        """Whether the last frame was sent, which is waited for."""
        if self._sending is None:
            return True
        await asyncio.wait([self._sending], timeout=LAST_MESSAGE_SECONDS)
        return self._sending.done() and not self._sending.cancelled() and self._sending.exception() is None

    async def _part(self) -> None:
        """Say why, and wait until the client hangs up: unread bytes would reset the connection, and lose that word."""
        code = CloseReason.GOING_AWAY if self._process.draining else CloseReason.NORMAL_CLOSURE
        with contextlib.suppress(OSError, LocalProtocolError, TimeoutError):
            async with asyncio.timeout(LAST_MESSAGE_SECONDS):
                await self._peer.send(self._connection.send(self._end or CloseConnection(code)))
                self._peer.end()
                left = FAREWELL_BYTES
                while left > 0 and (data := await self._peer.receive(READ_BYTES)):
                    left -= len(data)


class GoneSocket:
    """In place of the WebSocket of a client who left before it was upgraded. Implements kontract.ports.Socket."""

    separate = True

    async def write(self, _data: bytes) -> None:
        """Nobody is there."""
        raise ClientGoneError

    async def receive(self) -> str:
        """Nobody is there."""
        raise ClientGoneError

    async def close(self) -> None:
        """Nothing: there is no connection."""
