"""A scheduler with its own clock and dice: it drives coroutines by ``send``, and the same seed gives the same run.

:class:`Loop` stands in for asyncio where the coordinator's shell uses it, so that the shell runs here as it is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any

from kontract.ports import CoordinatorUnavailableError, DatabaseUnavailableError
from kontract.ports.shared_log import LogUnavailableError

EXPECTED = (CoordinatorUnavailableError, DatabaseUnavailableError, LogUnavailableError, OSError)
"""What a task may end with; anything else is a defect, and ends the run."""


class Crashed(BaseException):
    """The process that runs this coroutine is dead."""


class Future:
    """A value that will be there; awaiting it parks the task."""

    __slots__ = ("callbacks", "error", "ready", "value")

    def __init__(self):
        self.ready = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[], None]] = []

    def set(self, value=None, error=None):
        """Only the first one counts: replies may be duplicated."""
        if self.ready:
            return
        self.ready, self.value, self.error = True, value, error
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def __await__(self):
        if not self.ready:
            yield self
        if self.error is not None:
            raise self.error
        return self.value

    # --- asyncio's names ---------------------------------------------------------------------------------------------

    def done(self) -> bool:
        return self.ready

    def set_result(self, value):
        self.set(value)

    def set_exception(self, error):
        self.set(error=error)

    def cancelled(self) -> bool:
        return False

    def exception(self):
        return self.error

    def add_done_callback(self, callback):
        self.callbacks.append(lambda: callback(self))


class Process:
    """What dies at once: tasks, where they stand."""

    def __init__(self, kernel: Kernel, node: Any = None):
        self.kernel = kernel
        self.node = node  # whose coordinator runs in it
        self.alive = True
        self.tasks: dict[Task, None] = {}  # a set that keeps its order

    def die(self):
        """Kill every task. The one that runs, if it is ours, has to raise Crashed by itself: see :meth:`end`."""
        self.alive = False
        for task in list(self.tasks):
            task.kill()

    def end(self):
        """Die in the midst of what one is doing."""
        self.die()
        raise Crashed


class Task(Future):
    """A coroutine under way, and what it returned."""

    __slots__ = ("_coroutine", "_kernel", "_parked_at", "_running", "process")

    def __init__(self, kernel: Kernel, coroutine: Coroutine[Any, Any, Any], process: Process | None):
        super().__init__()
        self.process = process
        self._kernel = kernel
        self._coroutine = coroutine
        self._parked_at: Future | None = None
        self._running = False
        kernel.tasks[self] = None
        if process is not None:
            process.tasks[self] = None

    def step(self):
        if not self.ready and self._parked_at is None:
            self._go(self._coroutine.send, None)

    def interrupt(self, error: BaseException):
        """Raise ``error`` where the coroutine is parked."""
        if not self.ready and not self._running:
            self._parked_at = None
            self._go(self._coroutine.throw, error)

    def kill(self):
        """End it where it stands; what it does while it ends has no effect."""
        while not self.ready and not self._running:
            self.interrupt(Crashed())

    def cancel(self):
        self.kill()

    def _go(self, resume: Callable[[Any], Future], value: Any):
        before, self._kernel.current = self._kernel.current, self
        self._running = True
        try:
            parked_at = resume(value)
        except StopIteration as end:
            self._end(end.value)
        except Crashed:
            self._end()
        except EXPECTED as error:
            self._end(error=error)  # whoever awaits it has it
            if self.process is None:
                raise
        except BaseException:
            self._end()
            raise
        else:
            self._parked_at = parked_at
            parked_at.callbacks.append(lambda: self._resume(parked_at))
        finally:
            self._running = False
            self._kernel.current = before

    def _end(self, value=None, error=None):
        self._kernel.tasks.pop(self, None)
        if self.process is not None:
            self.process.tasks.pop(self, None)
        self.set(value, error)

    def _resume(self, parked_at: Future):
        if self._parked_at is not parked_at:
            return
        if self._kernel.current is not None:  # whoever set the future finishes what it is doing first
            self._kernel.after(0, lambda: self._resume(parked_at))
            return
        self._parked_at = None
        self.step()


class Kernel:
    """Events in order of virtual milliseconds."""

    def __init__(self, seed: int):
        self.dice = random.Random(seed)
        self.now = 1_000_000.0
        self.trace: list[tuple[Any, ...]] = []
        self.current: Task | None = None
        self.tasks: dict[Task, None] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay: float, event: Callable[[], None]):
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, event))

    def spawn(self, coroutine, process: Process | None = None) -> Task:
        """Start a coroutine in a step of its own; without a process it lives as long as the run."""
        task = Task(self, coroutine, process)
        if process is not None and not process.alive:
            task.kill()
        else:
            self.after(0, task.step)
        return task

    def close(self):
        """End whatever still waits for something."""
        while self.tasks:
            next(iter(self.tasks)).kill()

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


class Loop:
    """The part of asyncio that a shell uses. Its node sees each step that has an effect, and may crash beside it."""

    def __init__(self, kernel: Kernel):
        self._kernel = kernel

    def get_running_loop(self):
        return self

    def create_future(self):
        return _Promise(self._kernel.current.process)

    def ensure_future(self, work) -> Task:
        process, name = self._kernel.current.process, work.__name__.strip("_")
        try:
            if name == "ring":  # a timer is no effect: the alarm is, when it rings
                return self._kernel.spawn(work, process)
            return process.node.around(process, "spawn", name, lambda: self._kernel.spawn(work, process))
        except Crashed:
            work.close()
            raise

    def shield(self, future: Future) -> Future:
        return future

    async def gather(self, *work):
        tasks = [self.ensure_future(each) for each in work]
        await self.wait(tasks)
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [task.value for task in tasks]

    async def wait(self, tasks):
        left = {task for task in tasks if not task.ready}
        finished = Future()

        def ended(task):
            left.discard(task)
            if not left:
                finished.set()

        for task in list(left):
            task.add_done_callback(ended)
        if left:
            await finished


class _Promise(Future):
    __slots__ = ("_process",)

    def __init__(self, process: Process):
        super().__init__()
        self._process = process

    def set_result(self, value):
        self._process.node.around(self._process, "decide", type(value).__name__, lambda: self.set(value))
