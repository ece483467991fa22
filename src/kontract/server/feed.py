"""Lines to the changes of an owner whose coordinator, or whose replica, is in this process."""

from __future__ import annotations

import asyncio
from typing import Protocol

from kontract.core.events import End, Frame, Page, Parcel, Subscription
from kontract.core.protocol.audience import Subscriber
from kontract.core.protocol.hub import Hub
from kontract.ports import CoordinatorUnavailableError, FeedClosedError


class Source(Protocol):
    """Where changes come from: a coordinator's shell, or a replica."""

    hub: Hub

    async def resume(self, subscriber: Subscriber, since: str | None) -> Page | End:
        """Return the next page; raises CoordinatorUnavailableError."""
        ...


class LocalFeed:
    """A line to a coordinator in this process: both ends in one. Implements Feed and the hub's Subscriber."""

    def __init__(self, shell: Source, subscription: Subscription) -> None:
        """Listen; :meth:`resume` says from where."""
        self.subscription = subscription
        self._shell = shell
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._closed = False

    def send(self, parcel: Parcel) -> None:
        """Take a frame from the hub."""
        self._frames.put_nowait(parcel.frame)

    def keep(self) -> None:
        """Nothing: it ends with the process, as its connection does."""

    def close(self) -> None:
        """Hang up, from either side."""
        self._closed = True
        self._shell.hub.remove(self.subscription.number)
        self._frames.put_nowait(None)

    async def resume(self, since: str | None) -> None:
        """Ask for a page."""
        try:
            page = await self._shell.resume(self, since)
        except CoordinatorUnavailableError as error:
            raise FeedClosedError(str(error)) from error
        self._frames.put_nowait(page)

    async def next(self, milliseconds: float) -> Frame | None:
        """Return the next frame."""
        if self._closed and self._frames.empty():
            raise FeedClosedError
        try:
            async with asyncio.timeout(milliseconds / 1000):
                frame = await self._frames.get()
        except TimeoutError:
            return None
        if frame is None:
            raise FeedClosedError
        return frame
