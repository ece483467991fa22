"""Streams of changes: the connection to an owner, and the one to a client."""

from __future__ import annotations

from typing import Protocol

from kontract.core.events import Frame


class ClientGoneError(Exception):
    """The client has left, or reads too slowly."""


class FeedClosedError(Exception):
    """The connection to the owner's coordinator is closed, or an expected frame did not arrive in time."""


class Feed(Protocol):
    """An open connection to the changes of one owner."""

    async def resume(self, since: str | None) -> None:
        """Ask for the page after a position; raises FeedClosedError."""
        ...

    async def next(self, milliseconds: float) -> Frame | None:
        """Return the next frame; None if none comes in time; raises FeedClosedError."""
        ...

    def close(self) -> None:
        """Close the connection. Never raises."""
        ...


class Outlet(Protocol):
    """The output of a streamed response. ``separate``: each write is a message, so they must not be joined."""

    separate: bool

    async def write(self, data: bytes) -> None:
        """Write, and wait until there is room for more; raises ClientGoneError."""
        ...

    async def close(self) -> None:
        """End the response. Never raises."""
        ...


class Socket(Outlet, Protocol):
    """A client's WebSocket: each write is a text message."""

    async def receive(self) -> str:
        """Wait for a message; raises ClientGoneError."""
        ...
