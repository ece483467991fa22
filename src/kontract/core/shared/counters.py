"""Counters of events within a window of time, for throttles and rate limits.

They have their own space beside the values of ``ctx.shared``. When it is full, it drops counters instead of refusing
new ones: first expired counters, then those with the lowest counts. So a flood of new keys displaces other new keys,
and counters near their limit stay.
"""

from __future__ import annotations

import heapq
from typing import Protocol

from kontract.core import limits


class CounterRows(Protocol):
    """Where the counters of one owner are kept. Synchronous: nothing runs between a read and the write after it."""

    def get(self, key: str) -> tuple[int, int] | None:
        """Return (count, end of the window in ms since the epoch); None if there is no counter."""
        ...

    def put(self, key: str, count: int, until: int) -> None:
        """Store a counter, replacing the previous one."""
        ...

    def expire(self, now: int) -> None:
        """Remove what has expired by ``now``."""
        ...

    def evict(self, rows: int) -> None:
        """Remove that many of the lowest counters; among equals those that expire first."""
        ...

    def size(self) -> int:
        """Count the counters."""
        ...


class Counters:
    """The counters of one owner. Time is given with every request."""

    def __init__(self, rows: CounterRows, most: int | None = None) -> None:
        """Keep at most ``most`` counters in ``rows``; SHARED_COUNTERS when it is not given."""
        self._rows = rows
        self._most = most

    def count(self, key: str, window_ms: int, now: int) -> tuple[int, int]:
        """Count an event: (how many in the window that began with the first, ms until it ends)."""
        found = self._rows.get(key)
        if found is not None and found[1] > now:
            count, until = min(found[0] + 1, limits.SHARED_INTEGER - 1), found[1]
        else:
            count, until = 1, now + window_ms
            if found is None:
                self._make_room(now)
        self._rows.put(key, count, until)
        return count, until - now

    def expire(self, now: int) -> None:
        """Forget what has ended."""
        self._rows.expire(now)

    def _make_room(self, now: int) -> None:
        most = limits.SHARED_COUNTERS if self._most is None else self._most
        if self._rows.size() < most:
            return
        self._rows.expire(now)
        if self._rows.size() >= most:
            self._rows.evict(evicted_at_once(most) + self._rows.size() - most)


def evicted_at_once(most: int) -> int:
    """How many counters are removed together when full: finding them means a scan of all."""
    return max(1, most // 10)


class DictCounters:
    """Counters that end with the process."""

    def __init__(self, counters: dict[str, tuple[int, int]] | None = None) -> None:
        """Begin with these: (how many, when it ends) by key."""
        self.counters = counters if counters is not None else {}

    def get(self, key: str) -> tuple[int, int] | None:
        """Return a counter."""
        return self.counters.get(key)

    def put(self, key: str, count: int, until: int) -> None:
        """Keep a counter."""
        self.counters[key] = (count, until)

    def expire(self, now: int) -> None:
        """Forget what has ended."""
        self.counters = {key: kept for key, kept in self.counters.items() if kept[1] > now}

    def evict(self, rows: int) -> None:
        """Forget what has counted least."""
        for key in heapq.nsmallest(rows, self.counters, key=self.counters.__getitem__):
            del self.counters[key]

    def size(self) -> int:
        """Count the counters."""
        return len(self.counters)
