"""Time and randomness of CPython and the operating system. Used by the server, the commands and the client."""

from __future__ import annotations

import asyncio
import os
import random
import time

BLOCK_BYTES = 32
"""Bytes that one request for randomness takes from the pool: enough for every id. Larger requests bypass the pool."""

POOLED_BYTES = 4_096
"""Random bytes fetched in one system call: a call needs several ids, and a system call for each would take longer."""

_blocks: list[bytes] = []
"""Unused blocks. Taking one is atomic, so no two threads get the same."""

if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_blocks.clear)


def _fetch() -> bytes:
    """Fill the pool, and return one block that is not in it."""
    fetched = os.urandom(POOLED_BYTES)
    _blocks.extend(fetched[at : at + BLOCK_BYTES] for at in range(BLOCK_BYTES, POOLED_BYTES, BLOCK_BYTES))
    return fetched[:BLOCK_BYTES]


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
    """Randomness of the operating system. Bytes are fetched in advance, and each of them is given out once."""

    def token(self, size: int) -> bytes:
        """Random bytes."""
        if size > BLOCK_BYTES:
            return os.urandom(size)
        try:
            block = _blocks.pop()
        except IndexError:
            block = _fetch()
        return block[:size]

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret
