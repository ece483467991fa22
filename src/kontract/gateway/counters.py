"""Counting what is limited: the gateway's throttles, and ``ctx.counters`` for middleware.

All nodes count together, in the shared state of an owner. When that does not answer, or not in time, a process counts
by itself: then each process lets the limit through once, instead of nobody or everybody.

What is counted is named by a keyed digest. A full room, and on TiKV a full bucket of eight, forgets its lowest counter:
an attacker who could compute which names meet there could repeatedly evict a counter that counts against him. And names
have network addresses in them, which nobody has to know who sees the room.
"""

from __future__ import annotations

import hmac

import msgspec

from kontract.core import limits
from kontract.core.shared.counters import Counters, DictCounters
from kontract.core.shared.state import SharedCount, SharedValue
from kontract.ports import CoordinatorUnavailableError, RuntimeAdapter


class LocalCounters:
    """What one process counts by itself while the shared counters do not answer."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._counters = Counters(DictCounters(), limits.LOCAL_COUNTERS)
        self._next_warning = 0

    def count(self, key: str, window_ms: int, platform: RuntimeAdapter, error: Exception) -> tuple[int, int]:
        """Count here, because of ``error``."""
        now = platform.clock.now()
        if now >= self._next_warning:
            self._next_warning = now + limits.COUNT_WARNING_MS
            platform.log("warning", "limits_counted_locally", error=str(error) or type(error).__name__)
        return self._counters.count(key, window_ms, now)


class CallCounters:
    """Counters of one owner, as one request uses them."""

    def __init__(self, platform: RuntimeAdapter, owner: str, local: LocalCounters, secret: bytes) -> None:
        """Count in the shared state of ``owner``, and in ``local`` when that does not answer.

        ``secret``: of the digests. While it is rotated, nodes with another one count for themselves.
        """
        self._platform = platform
        self._owner = owner
        self._local = local
        self._secret = secret

    async def count_within(self, key: str, seconds: float) -> tuple[int, float]:
        """Count an event in a window that begins with its first one: (how many so far, seconds until it ends).

        ``key``: any text. Never raises because the shared state does not answer.
        """
        name = hmac.digest(self._secret, key.encode(errors="replace"), "sha256")[:16].hex()
        window_ms = max(1, round(seconds * 1000))
        stub = self._platform.shared(self._owner)
        try:
            answer = await self._platform.within(limits.COUNT_MS, stub.shared(SharedCount(name, window_ms)))
        except (CoordinatorUnavailableError, TimeoutError) as error:
            count, ttl_ms = self._local.count(f"{self._owner}/{name}", window_ms, self._platform, error)
            return count, ttl_ms / 1000
        if not isinstance(answer, SharedValue):
            unexpected = CoordinatorUnavailableError("the shared state does not count")
            count, ttl_ms = self._local.count(f"{self._owner}/{name}", window_ms, self._platform, unexpected)
            return count, ttl_ms / 1000
        return msgspec.json.decode(answer.value, type=int), (answer.ttl_ms or 0) / 1000
