"""The shared log in the memory of one process: for tests, and the plainest implementation there can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kontract.ports.shared_log import NOTHING, READ_BYTES, READ_ENTRIES, Checkpoint, Entry, TrimmedError


class MemoryLog:
    """Implements :class:`~kontract.ports.shared_log.SharedLog`."""

    def __init__(self, now: Callable[[], int]) -> None:
        """Start empty; ``now`` is the time in milliseconds since the Unix epoch."""
        self._now = now
        self._entries: dict[str, dict[int, Entry]] = {}
        self._tails: dict[str, int] = {}
        self._floors: dict[str, int] = {}
        self._checkpoints: dict[str, Checkpoint] = {}

    async def append(self, owner: str, after: int, batch: bytes, _at: int | None = None) -> list[Entry]:
        """Append."""
        position = self._tails.get(owner, 0) + 1
        self._tails[owner] = position
        self._entries.setdefault(owner, {})[position] = Entry(position, self._now(), batch)
        return await self.read(owner, after)

    async def read(self, owner: str, after: int, _at: int | None = None) -> list[Entry]:
        """Read on."""
        if after + 1 < self._floors.get(owner, 1):
            raise TrimmedError
        found: list[Entry] = []
        size = 0
        for position in range(after + 1, self._tails.get(owner, 0) + 1):
            if len(found) >= READ_ENTRIES or size >= READ_BYTES:
                break
            found.append(self._entries[owner][position])
            size += len(found[-1].batch)
        return found

    async def news(self, after: Mapping[str, int], _at: Mapping[str, int | None] = NOTHING) -> dict[str, list[Entry]]:
        """Read several."""
        found: dict[str, list[Entry]] = {}
        for owner, position in after.items():
            if self._tails.get(owner, 0) > position:
                try:
                    found[owner] = await self.read(owner, position)
                except TrimmedError:
                    found[owner] = []
        return found

    async def entries(self, owner: str, positions: Sequence[int]) -> list[Entry]:
        """Read single entries."""
        mine = self._entries.get(owner, {})
        return [mine[position] for position in sorted(positions) if position in mine]

    async def checkpoint(self, owner: str) -> Checkpoint | None:
        """Return the newest."""
        return self._checkpoints.get(owner)

    async def write_checkpoint(self, owner: str, checkpoint: Checkpoint) -> None:
        """Keep a newer one."""
        kept = self._checkpoints.get(owner)
        if kept is None or kept.position < checkpoint.position:
            self._checkpoints[owner] = checkpoint

    async def trim(self, owner: str, below: int, keep: Sequence[int] = ()) -> None:
        """Forget."""
        self._floors[owner] = max(below, self._floors.get(owner, 1))
        mine, kept = self._entries.get(owner, {}), set(keep)
        self._entries[owner] = {p: entry for p, entry in mine.items() if p >= self._floors[owner] or p in kept}

    async def aclose(self) -> None:
        """Nothing."""
