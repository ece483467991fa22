"""Time that a test can stop and move."""

from __future__ import annotations

from datetime import datetime

from kontract.server.system import SystemClock


class MovableClock(SystemClock):
    """The gateway's clock.

    It is the time of ``ctx.now()``, tokens, ``ctx.shared`` with its lifetimes and limits, and the ids that ``push``
    makes. Calls take real time even while it stands still. It does not affect ``datetime.now()`` in a function.
    """

    def __init__(self) -> None:
        """Show the time of the system."""
        self._ahead = 0
        self._passed = 0
        self._frozen: int | None = None

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        return super().now() + self._ahead if self._frozen is None else self._frozen

    def elapsed(self) -> float:
        """Monotonic milliseconds."""
        return super().elapsed() + self._passed

    def advance(self, seconds: float) -> None:
        """Move the clock forward; raises ValueError for a step back, which coordinators do not support."""
        if seconds < 0:
            message = "time goes forward only"
            raise ValueError(message)
        self._move(round(seconds * 1000))

    def freeze(self, at: datetime | None = None) -> None:
        """Stop the clock now, or at the later time ``at``, which has a time zone. ``advance`` still moves it."""
        now = self.now()
        moment = now if at is None else round(at.timestamp() * 1000)
        if at is not None and at.tzinfo is None:
            message = "the time needs a time zone: datetime(2030, 1, 1, tzinfo=UTC)"
            raise ValueError(message)
        if moment < now:
            message = "time goes forward only"
            raise ValueError(message)
        self._frozen = now
        self._move(moment - now)

    def resume(self) -> None:
        """Continue from where the clock was stopped."""
        if self._frozen is not None:
            self._ahead = self._frozen - super().now()
            self._frozen = None

    def _move(self, milliseconds: int) -> None:
        self._passed += milliseconds
        if self._frozen is None:
            self._ahead += milliseconds
        else:
            self._frozen += milliseconds
