"""A short queue for hashing passwords; when it is full, callers are asked at once to retry later.

A hash takes a third of a second on purpose, and a Worker runs it on the thread that serves all requests. So few run
at a time (one in a Worker), few wait, and a flood of logins costs other calls no more than that. Between two
hashes a Worker rests: a request that arrives during a hash needs many turns of the event loop until it is answered, and
without the rest the next hash would come after the first of them.

No request waits here for another one's task: in a Worker, code that one request wakes would run in the other's name.
Each polls for its turn. A request that the platform drops silently leaves the queue after HASH_LOST_MS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from kontract.core import limits
from kontract.core.errors import Code, UnavailableError
from kontract.ports import RuntimeAdapter

T = TypeVar("T")

POLL_MS = 20
"""How often a waiting request polls."""

RECENTLY_MS = 2_000
"""A hash that began longer ago needs no rest after it."""


class HashLine:
    """The queue of one process. ``places``: in order of arrival."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self.places: list[HashPlace] = []
        self.started_at = -float(RECENTLY_MS)
        self.has_rested = True

    def enter(self, platform: RuntimeAdapter) -> HashPlace:
        """Return a place, to be used with ``async with``; raises UnavailableError when the queue is full.

        A login takes its place before anything else, so that one without a place is not counted.
        """
        now = platform.clock.elapsed()
        self.places = [place for place in self.places if now - place.seen_at < limits.HASH_LOST_MS]
        if len(self.places) >= platform.crypto.hashes_at_once * (1 + limits.HASHES_WAITING):
            message = "too many logins at the moment; try again in a second"
            raise UnavailableError(message, code=Code.BUSY, headers={"Retry-After": "1"})
        place = HashPlace(self, platform)
        self.places.append(place)
        return place


class HashPlace:
    """One request's place. ``waits``: for its turn; ``runs``: its hash is being made."""

    def __init__(self, line: HashLine, platform: RuntimeAdapter) -> None:
        """Use :meth:`HashLine.enter`."""
        self._line = line
        self._platform = platform
        self.seen_at = platform.clock.elapsed()
        self.waits = False
        self.runs = False

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the line."""
        if self in self._line.places:
            self._line.places.remove(self)

    async def hash(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for the turn, then await ``work()``."""
        clock = self._platform.clock
        self.waits = True
        line, rest = self._line, self._platform.crypto.hash_rest_ms
        while True:
            while not self._is_next():
                await self._sleep(POLL_MS)
            if line.has_rested or not rest or clock.elapsed() - line.started_at >= RECENTLY_MS:
                break
            await self._sleep(rest)
            line.has_rested = True
        line.has_rested, line.started_at = False, clock.elapsed()
        self.waits, self.runs, self.seen_at = False, True, clock.elapsed()
        try:
            return await work()
        finally:
            self.runs = False

    async def _sleep(self, milliseconds: float) -> None:
        await self._platform.clock.sleep(milliseconds)
        self.seen_at = self._platform.clock.elapsed()

    def _is_next(self) -> bool:
        now = self._platform.clock.elapsed()
        others = [place for place in self._line.places if now - place.seen_at < limits.HASH_LOST_MS]
        if sum(place.runs for place in others) >= self._platform.crypto.hashes_at_once:
            return False
        return next((place for place in others if place.waits), self) is self
