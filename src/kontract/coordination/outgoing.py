"""Commands of this node for one owner, on their way into the shared log: several callers share one append."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kontract.coordination.states import StoppedError
from kontract.core.errors import PayloadTooLargeError
from kontract.core.protocol.commands import Command, Encoded, encode, encode_batch
from kontract.ports.shared_log import MAX_BATCH_BYTES, LogUnavailableError

BATCH_BYTES = 1024 * 1024
"""Bytes of commands after which an append takes no further one."""


class Outgoing:
    """What waits to be appended, in its order."""

    def __init__(self, node: str, append: Callable[[int, bytes], Awaitable[None]]) -> None:
        """``append(number, batch)``: append a batch, and return when it has been replayed here."""
        self._node = node
        self._append = append
        self._queue: list[tuple[Encoded, asyncio.Future[None]]] = []
        self._sending: asyncio.Future[None] | None = None
        self._last_batch = 0

    async def send(self, command: Command) -> None:
        """Append a command, and return when it has been replayed here."""
        encoded = encode(command)
        if encoded.size > MAX_BATCH_BYTES - 1024:
            message = "the values that this transaction replaces are too large for the log; split it"
            raise PayloadTooLargeError(message)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((encoded, done))
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send_all())
        await done

    def give_up(self, reason: str) -> None:
        """Send nothing of what waits."""
        for _, done in self._queue:
            if not done.done():
                done.set_exception(LogUnavailableError(reason))
        self._queue.clear()

    async def _send_all(self) -> None:
        try:
            while self._queue:
                part = self._next()
                error: Exception | None = None
                try:
                    self._last_batch += 1
                    batch = encode_batch(self._node, self._last_batch, [encoded for encoded, _ in part])
                    await self._append(self._last_batch, batch)
                except (LogUnavailableError, StoppedError) as failed:
                    error = failed
                except Exception as failed:  # noqa: BLE001 - a log of somebody's own may fail in any way; nobody may wait for ever
                    error = LogUnavailableError(repr(failed))
                for _, done in part:
                    if not done.done():
                        _decide(done, error)
        finally:
            self._sending = None

    def _next(self) -> list[tuple[Encoded, asyncio.Future[None]]]:
        size = count = 0
        for encoded, _ in self._queue:
            if count and size + encoded.size > BATCH_BYTES:
                break
            size, count = size + encoded.size, count + 1
        part, self._queue = self._queue[:count], self._queue[count:]
        return part


def _decide(done: asyncio.Future[None], error: Exception | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
