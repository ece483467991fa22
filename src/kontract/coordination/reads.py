"""Reading the shared log up to its end: one read at a time, and those who come meanwhile share the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Reads:
    """The reads of one log."""

    def __init__(self, read: Callable[[], Awaitable[None]]) -> None:
        """``read``: replay everything that is there."""
        self._read = read
        self._reading: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def join(self) -> None:
        """Wait until everything has been replayed that was there when this was called; raises what the read raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._read_after(self._reading))
            self._next.add_done_callback(_note)
        await asyncio.shield(self._next)

    async def _read_after(self, before: asyncio.Future[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._reading, self._next = self._next, None
        await self._read()


def _note(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # everybody who waited has it; nobody may be left to be warned about it
