"""A change stream for tests: events from now on, one by one, with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kontract.client import Client, Event, Stream

PATIENCE_SECONDS = 10.0
"""How many seconds a test waits for a change: far longer than one takes."""


class Changes:
    """The events since the stream was opened: ``await anext(changes)``."""

    def __init__(self, stream: Stream) -> None:
        """Read ``stream``."""
        self._stream = stream
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._reader = asyncio.ensure_future(self._read())

    def __aiter__(self) -> Changes:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event; raises TimeoutError if none comes, and the stream's errors."""
        coming = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait([coming, self._reader], timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
        finally:
            coming.cancel()
        if self._reader.done():
            self._reader.result()
        message = f"no change came within {PATIENCE_SECONDS:.0f} s"
        raise TimeoutError(message)

    async def opened(self) -> None:
        """Wait until the stream is live; raises the stream's errors."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._stream.position and not self._reader.done():  # noqa: ASYNC110 - a client has no such event
                await asyncio.sleep(0.002)
        if self._reader.done():
            self._reader.result()

    async def aclose(self) -> None:
        """Hang up."""
        self._reader.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._reader

    async def _read(self) -> None:
        async for event in self._stream:
            self._events.put_nowait(event)


@asynccontextmanager
async def changes_of(caller: Client, *tables: str) -> AsyncIterator[Changes]:
    """Stream the changes of tables while the block runs; ``caller`` is one of this process or of a Worker."""
    changes = Changes(caller.stream(*tables))
    try:
        await changes.opened()
        yield changes
    finally:
        await changes.aclose()
