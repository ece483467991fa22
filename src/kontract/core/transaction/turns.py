"""Turns among the tasks of one function that use its transaction concurrently.

- Reads go to the database together. All of them read the same snapshot, so their order makes no difference; the
  function's own writes that a read sees are those of the moment when its statement is sent.
- Writes take turns with each other, and so does what reads in order to write (`shift`, `insert`, `delete`): two
  `shift` take two rows. A read waits for no write, since what is written is in memory.
- The begin is sent once. Other operations wait for its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kontract.core import limits
from kontract.ports import Mutex

T = TypeVar("T")


class Turns:
    """The turns of one attempt. Locks are made when they are first needed: most functions are a single task."""

    __slots__ = ("_begin", "_lanes", "_mutex", "_waiting", "_write")

    def __init__(self, mutex: Callable[[], Mutex]) -> None:
        """Make locks with ``mutex``."""
        self._mutex = mutex
        self._begin: Mutex | None = None
        self._write: Mutex | None = None
        self._lanes: list[Mutex] = []
        self._waiting: list[int] = []
        """For each lane, how many reads are in it or wait for it."""

    def to_begin(self) -> Mutex:
        """Return the lock of the begin."""
        if self._begin is None:
            self._begin = self._mutex()
        return self._begin

    def to_write(self) -> Mutex:
        """Return the lock of writes."""
        if self._write is None:
            self._write = self._mutex()
        return self._write

    async def read(self, statement: Callable[[], Awaitable[T]], *, alone: bool = False) -> T:
        """Run ``statement`` beside at most READS_AT_ONCE - 1 others; ``alone``: beside no other one with that."""
        lane = 0 if alone else self._free()
        if lane == len(self._lanes):
            self._lanes.append(self._mutex())
            self._waiting.append(0)
        self._waiting[lane] += 1
        try:
            async with self._lanes[lane]:
                return await statement()
        finally:
            self._waiting[lane] -= 1

    def _free(self) -> int:
        """Return the lane with the fewest reads: an empty one if there may be one."""
        if not any(self._waiting):
            return 0
        fewest = min(self._waiting)
        if fewest and len(self._lanes) < limits.READS_AT_ONCE:
            return len(self._lanes)
        return self._waiting.index(fewest)
