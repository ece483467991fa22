"""The coordinator of an owner, as one request asks it."""

from __future__ import annotations

from collections.abc import Callable

from kontract.core.messages import Answer, Prepare, Request
from kontract.gateway.liveness import LiveSessions
from kontract.gateway.meter import Meter
from kontract.ports import Clock, CoordinatorStub


class RequestCoordinator:
    """Counts what it costs, remembers what is said of sessions, and tells when the request begins to commit."""

    __slots__ = ("_clock", "_commits", "_inner", "_meter", "_owner", "_sessions")

    def __init__(
        self,
        inner: CoordinatorStub,
        owner: str,
        meter: Meter,
        sessions: LiveSessions,
        clock: Clock,
        commits: Callable[[], None],
    ) -> None:
        """Pass everything on to ``inner``, the coordinator of ``owner``."""
        self._inner = inner
        self._owner = owner
        self._meter = meter
        self._sessions = sessions
        self._clock = clock
        self._commits = commits

    async def ask(self, request: Request) -> Answer:
        """Ask."""
        if type(request) is Prepare:
            self._commits()
        self._sessions.asking(self._owner, request)
        self._meter.coordinator_calls += 1
        asked_at = self._clock.elapsed()
        try:
            answer = await self._inner.ask(request)
        finally:
            self._meter.coordinator_ms += self._clock.elapsed() - asked_at
        self._sessions.heard(self._owner, request, answer, asked_at)
        return answer
