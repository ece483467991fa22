"""A time limit that costs nothing where nothing is waited for.

A function that only calculates, and one whose first answer is there already, end before a timer could be of use. So
the work takes its first step without one. Only when it waits is a timer set, for what is left of its time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Generator
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await ``work`` in this task, at most so long; raises TimeoutError.

    Work that does not wait is not interrupted, as with asyncio.timeout: look at the clock after it.
    """
    started = time.monotonic()
    steps = work.__await__()
    try:
        first = next(steps)
    except StopIteration as done:
        at_once: T = done.value
        return at_once
    limit = _Limit(seconds - (time.monotonic() - started))
    try:
        result = await _Begun(first, steps)
    except BaseException as error:
        if limit.end() and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from None
        raise
    limit.end()
    return result


class _Limit:
    """A timer that cancels the current task: as much of asyncio.timeout as one limit around one await needs."""

    __slots__ = ("_cancelled_before", "_expired", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._cancelled_before = task.cancelling()
        self._expired = False
        self._timer = loop.call_later(max(0.0, seconds), self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def end(self) -> bool:
        """Take the limit away. Return whether it has cancelled the task, and nobody else has as well."""
        self._timer.cancel()
        return self._expired and self._task.uncancel() <= self._cancelled_before


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
