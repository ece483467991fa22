"""Streams of changes: the line to an owner, and the way to a client."""

from __future__ import annotations

from typing import Protocol

from kontract.core.events import Frame


class ClientGoneError(Exception):
    """Whoever listened has left, or reads too slowly to be kept."""


class FeedClosedError(Exception):
    """The line to the owner's object is closed, or nothing came in time that had to come."""


class Feed(Protocol):
    """An open line to the changes of one owner."""

    async def resume(self, since: str | None) -> None:
        """Ask for the page after a position; raises FeedClosedError."""
        ...

    async def next(self, milliseconds: float) -> Frame | None:
        """Return the next frame, None when none comes in time; raises FeedClosedError."""
        ...

    def close(self) -> None:
        """Hang up. Never raises."""
        ...


class Outlet(Protocol):
    """Where a streamed response is written to. ``separate``: each write is a message, so they must not be joined."""

    separate: bool

    async def write(self, data: bytes) -> None:
        """Write, and wait until there is room for more; raises ClientGoneError."""
        ...

    async def close(self) -> None:
        """End the response. Never raises."""
        ...


class Socket(Outlet, Protocol):
    """A client's WebSocket: what is written are text messages."""

    async def receive(self) -> str:
        """Wait for a message; raises ClientGoneError."""
        ...
