"""Bodies of requests: read when they are asked for, within a time, and within what all of them may take together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined]  # granian says so to nobody

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, RateLimitedError, UnavailableError

BODY_SECONDS = 30.0
"""How long the body of a request may take: 1 MiB over a slow mobile line."""

DISCARD_BYTES = 4 * limits.BODY_BYTES
"""Bytes of an oversized body that are still read, so that its sender sees the answer."""

_CUT_OFF = "the request body ended before it was complete"
_RETRY_LATER = {"Retry-After": "1"}


class BodySource(Protocol):
    """The request that a body belongs to."""

    task: asyncio.Task[Any]
    reading_since: float | None
    too_slow: bool


class BodyRoom:
    """The memory of bodies that are being received: a slow sender keeps its part for BODY_SECONDS."""

    def __init__(self) -> None:
        """Nothing is being received."""
        self._all = 0
        self._addresses: dict[str, int] = {}

    def take(self, address: str, size: int) -> None:
        """Take room for so many bytes; raises RateLimitedError, UnavailableError. Nothing is taken then."""
        if address and self._addresses.get(address, 0) + size > limits.BODIES_PER_ADDRESS_BYTES:
            message = "too many large requests from your network address at the same time"
            raise RateLimitedError(message, headers=_RETRY_LATER)
        if self._all + size > limits.BODIES_BYTES:
            message = "too many large requests at the same time"
            raise UnavailableError(message, headers=_RETRY_LATER)
        self._change(address, size)

    def give_back(self, address: str, size: int) -> None:
        """Give it back."""
        self._change(address, -size)

    def _change(self, address: str, size: int) -> None:
        self._all += size
        taken = self._addresses.get(address, 0) + size
        if taken:
            self._addresses[address] = taken
        else:
            self._addresses.pop(address, None)


async def _nothing() -> bytes:
    return b""


class Body:
    """Reads the body of a request when it is asked to."""

    __slots__ = ("_address", "_chunks", "_exchange", "_length", "_protocol", "_room", "_taken", "_unread")

    def __init__(
        self, protocol: Any, headers: Mapping[str, str], exchange: BodySource, room: BodyRoom, address: str
    ) -> None:
        """Read from ``protocol``, with ``room`` for it that is counted for ``address``."""
        self._protocol = protocol
        self._exchange = exchange
        self._room = room
        self._address = address
        self._taken = 0
        length = headers.get("content-length")
        self._length = None if length is None else int(length)  # granian answers what is no number itself
        self._unread = bool(self._length) or "transfer-encoding" in headers
        self._chunks: Any = None

    def __call__(self, at_most: int) -> Awaitable[bytes]:
        """Return the body, or more than ``at_most`` bytes of a longer one.

        Raises InvalidRequestError, RateLimitedError, UnavailableError.
        """
        return self._receive(at_most, keep=True) if self._unread else _nothing()

    async def discard(self) -> None:
        """Read and drop what is not wanted.

        A connection that is closed with something unread is reset, and the caller, who still sends, may never see the
        answer. Beyond a limit that is the lesser evil.
        """
        if not self._unread or (self._length or 0) > DISCARD_BYTES:
            return
        with contextlib.suppress(InvalidRequestError, ProtocolClosed, ProtocolError):
            await self._receive(DISCARD_BYTES, keep=False)

    async def _receive(self, at_most: int, *, keep: bool) -> bytes:
        exchange = self._exchange
        exchange.reading_since = time.monotonic()
        try:
            if keep and self._length is not None and self._length <= at_most:
                self._take(self._length)
                self._unread = False
                return bytes(await self._protocol())
            return await self._read(at_most, keep=keep)
        except (ProtocolClosed, ProtocolError):
            raise InvalidRequestError(_CUT_OFF) from None
        except asyncio.CancelledError:
            if not exchange.too_slow:
                raise
            exchange.task.uncancel()
            self._unread = False  # nobody waits for the rest
            message = f"the request body did not arrive within {BODY_SECONDS:.0f} s"
            raise InvalidRequestError(message, headers={"Connection": "close"}) from None
        finally:
            exchange.reading_since = None
            self._room.give_back(self._address, self._taken)
            self._taken = 0

    async def _read(self, at_most: int, *, keep: bool) -> bytes:
        """Read until the end, or until it is too much; what was read before is not returned again."""
        chunks: list[bytes] = []
        size = empty = 0
        if self._chunks is None:
            self._chunks = aiter(self._protocol)
        while True:
            try:
                # Not `async for`, which would restart: granian refuses that. Not `anext` with a default, which does
                # not go together with granian's awaitables: CPython 3.11 crashes.
                chunk = await self._chunks.__anext__()
            except StopAsyncIteration:
                break
            size += len(chunk)
            if keep:
                self._take(len(chunk))
                chunks.append(chunk)
            if size > at_most:
                return b"".join(chunks)
            # granian ends a body with an empty chunk, and stands one more in for an error of the connection.
            empty += not chunk
            if empty > 1:
                self._unread = False
                raise InvalidRequestError(_CUT_OFF)
        self._unread = False
        return b"".join(chunks)

    def _take(self, size: int) -> None:
        self._room.take(self._address, size)
        self._taken += size
