"""The backlog of a stream's client, and its limits.

A client that reads slowly is cut when STREAM_BACKLOG_BYTES wait for it. All streams of one user together, and all from
one network address, have a limit as well; otherwise 64 slow streams would hold 64 times as much.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, TypeVar

from kontract.core import limits
from kontract.core.errors import RateLimitedError
from kontract.ports import ClientGoneError, Outlet

Key = TypeVar("Key")


class TooSlowError(ClientGoneError):
    """The client reads too slowly, and its stream is cut."""


class Holdings:
    """What the open streams of one process hold, by user and by network address."""

    def __init__(self) -> None:
        """Begin empty."""
        self.streams: Counter[str] = Counter()
        self.user_bytes: Counter[tuple[str, str]] = Counter()
        self.address_bytes: Counter[str] = Counter()

    def open(self, owner: str, user: str, address: str) -> Holding:
        """Take a place for a stream; raises RateLimitedError. An empty address is unknown and not counted."""
        if address and self.streams[address] >= limits.STREAMS_PER_ADDRESS:
            message = f"one network address may have {limits.STREAMS_PER_ADDRESS} open streams here; close one first"
            raise RateLimitedError(message, headers={"Retry-After": "30"})
        self.streams[address] += 1
        return Holding(self, (owner, user), address)


class Holding:
    """One stream's part. It is given back with :meth:`close`."""

    def __init__(self, holdings: Holdings, user: tuple[str, str], address: str) -> None:
        """Begin with nothing."""
        self._holdings = holdings
        self._user = user
        self._address = address
        self._bytes = 0

    def change(self, size: int) -> None:
        """Hold so many bytes more, or less."""
        self._bytes += size
        _change(self._holdings.user_bytes, self._user, size)
        _change(self._holdings.address_bytes, self._address, size)

    def is_too_much(self) -> bool:
        """Whether this stream must be cut because all together hold too much. A stream that holds little may stay."""
        if self._bytes <= limits.STREAM_SHARE_BYTES:
            return False
        of_address = self._holdings.address_bytes[self._address] if self._address else 0
        return (
            self._holdings.user_bytes[self._user] > limits.STREAM_USER_BACKLOG_BYTES
            or of_address > limits.STREAM_ADDRESS_BACKLOG_BYTES
        )

    def close(self) -> None:
        """Release the place and what is held."""
        self.change(-self._bytes)
        _change(self._holdings.streams, self._address, -1)


def _change(held: Counter[Key], key: Key, size: int) -> None:
    held[key] += size
    if not held[key]:
        del held[key]


class Outbox:
    """Texts for one client, in their order. A task writes them while it is open."""

    def __init__(self, outlet: Outlet, holding: Holding, stopped: Callable[[], None]) -> None:
        """Begin to write to ``outlet``; ``stopped`` is called when that has come to an end."""
        self._outlet = outlet
        self._holding = holding
        self._texts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._writer = asyncio.ensure_future(self._write())
        self._writer.add_done_callback(lambda _: stopped())

    @property
    def waiting_bytes(self) -> int:
        """How many bytes the client has not taken yet."""
        return self._waiting_bytes

    def put(self, data: bytes) -> None:
        """Send a text in UTF-8, unless it is empty."""
        if data:
            self._texts.append(data)
            self._change(len(data))
            self._filled.set()

    def beat(self, data: bytes) -> None:
        """Send a text that only shows that the connection is alive, unless something else is on its way."""
        if not self._texts:
            self.put(data)

    def check_pace(self, at_most: int | None = None) -> None:
        """Raise TooSlowError when more than ``at_most`` bytes wait here, or too many in all of a user's streams."""
        if self._holding.is_too_much() or (at_most is not None and self._waiting_bytes > at_most):
            raise TooSlowError

    def check_writer(self) -> None:
        """Raise ClientGoneError if the writing has ended."""
        if self._writer.done():
            self._writer.result()
            raise ClientGoneError

    async def drained(self) -> None:
        """Wait until the client has taken everything; raises ClientGoneError."""
        while self._texts or self._waiting_bytes:
            self._emptied.clear()
            emptied: asyncio.Future[Any] = asyncio.ensure_future(self._emptied.wait())
            await asyncio.wait([emptied, self._writer], return_when=asyncio.FIRST_COMPLETED)
            emptied.cancel()
            self.check_writer()

    async def close(self) -> None:
        """Stop writing, and end the response."""
        self._writer.cancel()
        try:
            await self._outlet.close()
        finally:
            self._change(-self._waiting_bytes)

    async def _write(self) -> None:
        while True:
            while self._texts:
                data = self._texts.popleft()
                if not self._outlet.separate:  # one write for all there is
                    data += b"".join(self._texts)
                    self._texts.clear()
                await self._outlet.write(data)
                self._change(-len(data))
            self._emptied.set()
            self._filled.clear()
            await self._filled.wait()
            self._emptied.clear()

    def _change(self, size: int) -> None:
        self._waiting_bytes += size
        self._holding.change(size)
