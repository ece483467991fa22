"""What a process provides: time, randomness, locks and log lines."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol


class Clock(Protocol):
    """Time of one process, in milliseconds."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def elapsed(self) -> float:
        """Milliseconds of a monotonic clock, with fractions."""
        ...

    async def sleep(self, milliseconds: float) -> None:
        """Pause the calling task."""
        ...


class Randomness(Protocol):
    """Random bytes fit for secrets, and cheap random numbers."""

    def token(self, size: int) -> bytes:
        """Return ``size`` cryptographically random bytes."""
        ...

    def uniform(self) -> float:
        """Return a number in [0, 1)."""
        ...


class Mutex(Protocol):
    """Mutual exclusion between the tasks of one transaction (asyncio.Lock fits)."""

    async def __aenter__(self) -> Any:
        """Acquire the lock."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        """Release the lock."""
        ...


class Log(Protocol):
    """Structured log lines."""

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        """Write one JSON line: ``level`` is debug, info, warning or error."""
        ...
