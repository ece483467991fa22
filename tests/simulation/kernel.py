"""A scheduler with its own clock and dice: it drives coroutines by ``send``, and the same seed gives the same run."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any


class Crashed(BaseException):
    """The process that runs this coroutine is dead."""


class Future:
    """A value that will be there; awaiting it parks the task."""

    __slots__ = ("callbacks", "done", "error", "value")

    def __init__(self):
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[], None]] = []

    def set(self, value=None, error=None):
        """Only the first one counts: replies may be duplicated."""
        if self.done:
            return
        self.done, self.value, self.error = True, value, error
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def __await__(self):
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        return self.value


class Task:
    """A coroutine under way. It can be killed where it stands."""

    __slots__ = ("coroutine", "end", "ended", "kernel", "parked_at")

    def __init__(self, kernel: Kernel, coroutine: Coroutine[Any, Any, Any]):
        self.kernel = kernel
        self.coroutine = coroutine
        self.ended = False
        self.end = Future()
        self.parked_at: Future | None = None

    def step(self, *, kill=False):
        if self.ended:
            return
        try:
            self.parked_at = self.coroutine.throw(Crashed()) if kill else self.coroutine.send(None)
        except (StopIteration, Crashed):
            self.ended = True
            self.end.set()
            return
        parked_at = self.parked_at
        # One step later, so that whoever sets a future finishes what it is doing first.
        parked_at.callbacks.append(lambda: self.kernel.after(0, lambda: self._resume(parked_at)))

    def _resume(self, future: Future):
        if self.parked_at is future:
            self.step()

    def kill(self):
        self.step(kill=True)


class Kernel:
    """Events in order of virtual milliseconds."""

    def __init__(self, seed: int):
        self.dice = random.Random(seed)
        self.now = 1_000_000.0
        self.trace: list[tuple[Any, ...]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay: float, event: Callable[[], None]):
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, event))

    def spawn(self, coroutine) -> Task:
        task = Task(self, coroutine)
        self.after(0, task.step)
        return task

    def sleep(self, milliseconds: float) -> Future:
        future = Future()
        self.after(milliseconds, future.set)
        return future

    def run(self, until: Callable[[], bool], limit: float):
        """Run events until ``until`` holds, nothing is left, or the virtual clock passes ``limit``."""
        while self._events and not until():
            time, _, event = self._events[0]
            if time > limit:
                return
            heapq.heappop(self._events)
            self.now = max(self.now, time)
            event()

    def note(self, *what: Any):
        self.trace.append((round(self.now, 3), *what))

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.dice.random() < probability
