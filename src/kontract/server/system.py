"""Time and randomness of CPython and the operating system. Used by the server, the commands and the client."""

from __future__ import annotations

import asyncio
import random
import secrets
import time


class SystemClock:
    """Time of this process."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def elapsed(self) -> float:
        """Milliseconds that never go back."""
        return time.perf_counter() * 1000

    async def sleep(self, milliseconds: float) -> None:
        """Pause."""
        await asyncio.sleep(milliseconds / 1000)


class SystemRandomness:
    """Randomness of the operating system."""

    def token(self, size: int) -> bytes:
        """Random bytes."""
        return secrets.token_bytes(size)

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret
