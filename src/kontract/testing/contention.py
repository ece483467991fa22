"""Conflicts on demand: the same race every time, instead of a race by chance."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from kontract.core.messages import Answer, Conflict, Prepare, Request
from kontract.ports import CoordinatorStub

FUNCTION: ContextVar[str] = ContextVar("kontract_function", default="")
"""The function that the running request calls."""


@dataclass
class Plan:
    """A plan for a function's next commits. ``action``: what to do before each; None: the commit is refused."""

    function: str
    left: int
    action: Callable[[], Awaitable[Any]] | None = None
    happened: int = field(default=0)


class Contention:
    """The plans of one test."""

    def __init__(self) -> None:
        """Plan nothing."""
        self._plans: deque[Plan] = deque()

    @contextmanager
    def planned(self, plan: Plan) -> Iterator[Plan]:
        """Apply a plan while the block runs; raises AssertionError if it was never used."""
        self._plans.append(plan)
        try:
            yield plan
        finally:
            self._plans.remove(plan)
        if not plan.happened:
            message = f"{plan.function} never reached its commit, so the action did not run"
            raise AssertionError(message)

    def next(self) -> Plan | None:
        """Return the plan for the next commit, and count it."""
        function = FUNCTION.get()
        for plan in self._plans:
            if plan.function == function and plan.left:
                plan.left -= 1
                plan.happened += 1
                return plan
        return None


class ContendedCoordinator:
    """A coordinator stub that carries out plans. Implements :class:`kontract.ports.CoordinatorStub`."""

    def __init__(self, inner: CoordinatorStub, contention: Contention) -> None:
        """Pass everything on to ``inner``, commits after their plan."""
        self._inner = inner
        self._contention = contention

    async def ask(self, request: Request) -> Answer:
        """Ask."""
        if type(request) is Prepare and request.writes:
            plan = self._contention.next()
            if plan is not None and plan.action is None:
                lost = request.writes[0]
                return Conflict(lost.ptr, id=lost.id)
            if plan is not None and plan.action is not None:
                await plan.action()
        return await self._inner.ask(request)
