"""Streamed answers over granian: what is on its way, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined]  # granian says so to nobody

from kontract.ports import ClientGoneError
from kontract.server.sockets import PeerSocket
from kontract.server.websocket import Process

COME_BACK_MS = (200, 3_000)
"""The span over which clients of a stopping process are told to reconnect, so that they do not all come at once."""

WINDOW_BYTES = 256 * 1024
"""Bytes that may be in transit to a client: enough for a fast connection around the world."""


class StreamOutlet:
    """The body of a streamed response. Implements :class:`kontract.ports.Outlet`.

    granian takes whatever it is given and keeps it until the client does. So that a client who reads slowly is
    noticed, :meth:`write` waits while more than :data:`WINDOW_BYTES` are on their way, where the system tells how many.
    """

    separate = False

    def __init__(self, transport: Any, process: Process, peer: PeerSocket | None) -> None:
        """Write to ``transport``, which is the connection ``peer``."""
        self._transport = transport
        self._process = process
        self._peer = peer
        self._before = (peer.acknowledged() if peer is not None else None) or 0
        self._sent = 0
        self._taken = 0

    async def write(self, data: bytes) -> None:
        """Write, and wait while too much is on its way."""
        try:
            await self._transport.send_bytes(data)
        except (ProtocolClosed, ProtocolError, AttributeError) as error:
            raise ClientGoneError(str(error)) from error
        self._sent += len(data) + len(f"{len(data):x}") + 4  # a chunk (RFC 9112, section 7.1)
        pause = 0.01
        while self._sent - self._taken > WINDOW_BYTES and self._on_its_way() > WINDOW_BYTES:
            await asyncio.sleep(pause)
            pause = min(0.25, pause * 2)

    async def close(self) -> None:
        """End the body; a process that stops says when to come back (WHATWG HTML, section 9.2: ``retry``)."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._on_its_way() > WINDOW_BYTES:
            assert self._peer is not None
            self._peer.cut()  # or all of that would be kept for as long as the client likes
        elif self._process.draining:
            with contextlib.suppress(ProtocolClosed, ProtocolError):
                await transport.send_bytes(b"retry: %d\n\n" % random.randint(*COME_BACK_MS))  # noqa: S311 - jitter

    def _on_its_way(self) -> int:
        """Return how many bytes the client's side has not acknowledged."""
        acknowledged = self._peer.acknowledged() if self._peer is not None else None
        if acknowledged is None:
            return 0
        self._taken = acknowledged - self._before
        return self._sent - self._taken
