"""A rate limit: a burst at once, the rest at a steady rate."""

from __future__ import annotations


class Pace:
    """A budget of events that refills with time (a token bucket). Times are milliseconds of any one clock."""

    __slots__ = ("_at", "_at_once", "_left", "_per_second")

    def __init__(self, at_once: int, per_second: float, now: float) -> None:
        """Allow ``at_once`` events now, and from then on ``per_second``."""
        self._at_once = at_once
        self._per_second = per_second
        self._left = float(at_once)
        self._at = now

    def spend(self, now: float) -> float:
        """Count one event and return how many milliseconds it has to wait."""
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_second / 1000) - 1
        self._at = now
        return max(0.0, -self._left * 1000 / self._per_second)
