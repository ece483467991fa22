"""A time limit that costs nothing where nothing is waited for.

A function that only calculates, and one whose first answer is there already, end before a timer could be of use. So
the work takes its first step without one. Only when it waits is a timer set, for what is left of its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await ``work`` in this task, at most so long; raises TimeoutError.

    Work that does not wait is not interrupted, as with asyncio.timeout: look at the clock after it.
    """
    end = asyncio.get_running_loop().time() + seconds
    steps = work.__await__()
    try:
        first = next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    async with asyncio.timeout_at(end):
        return await _Begun(first, steps)


class _Begun(Generic[T]):
    """Work that has taken its first step. What it waits for then has not been handed to the event loop yet."""

    __slots__ = ("_first", "_handed", "_steps", "close", "throw")

    def __init__(self, first: Any, steps: Generator[Any, Any, T]) -> None:
        self._first = first
        self._handed = False
        self._steps = steps
        self.throw = steps.throw
        self.close = steps.close

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # type: ignore[return-value]  # as much of a generator as a task uses

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._handed:
            return next(self._steps)
        self._handed = True
        return self._first
