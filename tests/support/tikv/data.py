"""The data of the whole fake cluster, in one place: every operation happens at once, so it is linearizable."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field


@dataclass(slots=True)
class Value:
    """``until``: when it ends, in seconds of the cluster's clock."""

    value: bytes
    until: float | None
    atomic: bool


@dataclass
class Data:
    """Keys in the order of their bytes. ``now`` moves only when a test moves it."""

    now: float = 1_800_000_000.0
    mixed: set[bytes] = field(default_factory=set)
    """Keys written both with and without TiKV's single-row transactions: the promise of compare-and-swap is void."""

    _values: dict[bytes, Value] = field(default_factory=dict)
    _keys: list[bytes] = field(default_factory=list)

    def get(self, key: bytes) -> bytes | None:
        found = self._values.get(key)
        return None if found is None or self._ended(found) else found.value

    def ttl(self, key: bytes) -> int | None:
        """Seconds that are left: 0 when it does not end, None when there is nothing."""
        found = self._values.get(key)
        if found is None or self._ended(found):
            return None
        return 0 if found.until is None else max(1, round(found.until - self.now))

    def put(self, key: bytes, value: bytes, ttl: int, *, atomic: bool) -> None:
        found = self._values.get(key)
        if found is None:
            bisect.insort(self._keys, key)
        elif found.atomic is not atomic:
            self.mixed.add(key)
        self._values[key] = Value(value, self.now + ttl if ttl else None, atomic)

    def delete(self, key: bytes, *, atomic: bool) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._keys.remove(key)
            if found.atomic is not atomic:
                self.mixed.add(key)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Not by single-row transactions, whoever asks: such a range must be one that nobody writes to."""
        for key in self.keys(start, end):
            del self._values[key]
            self._keys.remove(key)

    def compare_and_swap(self, key: bytes, expected: bytes | None, new: bytes, ttl: int) -> tuple[bool, bytes | None]:
        """Whether it was swapped, and what was there before."""
        current = self.get(key)
        if current != expected:
            return False, current
        self.put(key, new, ttl, atomic=True)
        return True, current

    def keys(self, start: bytes, end: bytes, *, reverse: bool = False) -> list[bytes]:
        """Keys in [start, end); an empty end is none."""
        first = bisect.bisect_left(self._keys, start)
        last = bisect.bisect_left(self._keys, end) if end else len(self._keys)
        found = self._keys[first:last]
        return found[::-1] if reverse else found

    def scan(self, start: bytes, end: bytes, limit: int, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` of what has not ended in [start, end)."""
        pairs: list[tuple[bytes, bytes]] = []
        for key in self.keys(start, end, reverse=reverse):
            if len(pairs) == limit:
                break
            value = self.get(key)
            if value is not None:
                pairs.append((key, value))
        return pairs

    def _ended(self, value: Value) -> bool:
        return value.until is not None and value.until <= self.now
