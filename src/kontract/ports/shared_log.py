"""The log that nodes share: what a store must do so that the coordinators of several nodes act as one.

Each owner has a log of *batches* of commands at positions 1, 2, 3 and so on, without a gap. Every node that serves the
owner replays it into its own coordinator (:mod:`kontract.core.protocol.machine`). An entry never changes
once it is there. There is no leader and no lock: the first append comes first.

:mod:`~kontract.server.shared_log.memory`, ``postgres`` and ``tikv`` beside this module implement it; the suite
``tests/contract/test_shared_log.py`` holds for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""The largest batch. TiKV refuses entries of more than 8 MiB; a write set of the largest size is 1 MB."""

READ_ENTRIES = 500
"""The most entries that one call returns; call again for more."""

READ_BYTES = 4 * 1024 * 1024
"""Bytes of batches after which a call returns no further entry."""

NOTHING: Mapping[str, int | None] = MappingProxyType({})
"""Of no owner it is known when the last entry was appended."""


class LogUnavailableError(Exception):
    """The store does not answer: it is unknown whether an append has taken place or still will."""


class WentBackError(Exception):
    """The log is no longer the one that was read: it went back in time with its database.

    Nothing was appended. Start from the checkpoint, and from the log as it is now.
    """


class TrimmedError(Exception):
    """The requested entries are no longer stored: start from the checkpoint."""


class Entry(Struct, frozen=True):
    """One batch. ``at``: when it was appended, in milliseconds since the Unix epoch, by a clock that may jump."""

    position: int
    at: int
    batch: bytes


class Last(Struct, frozen=True):
    """The last entry that a node has read. A position alone is not enough: the log may have gone back and grown again.

    ``at``: when it was appended; None: that is not known, or there is none.
    """

    position: int
    at: int | None = None


class Checkpoint(Struct, frozen=True):
    """The state after replaying everything up to and including ``position``.

    ``at``: when that entry was appended, for a log that may go back in time; None: the state itself tells it.
    """

    position: int
    state: bytes
    at: int | None = None


class SharedLog(Protocol):
    """The logs of all owners. Every method raises LogUnavailableError when the store does not answer in time.

    A log may be in a database that is restored to an earlier state, or replaced by a lagging standby. Where that can
    happen, ``append`` and ``read`` raise WentBackError for a node that has read beyond the end, or other entries; and
    ``news`` has an empty list for it. A position alone is not enough: the log may have grown again. So a node also
    passes when its last entry was appended (``at``; None: unknown). If that entry is no longer stored, this cannot be
    checked, and the node has to start from the checkpoint (TrimmedError).

    Reads are linearizable: every read on every node sees all appends that were answered before it began.
    """

    async def append(self, owner: str, after: int, batch: bytes, at: int | None = None, /) -> list[Entry]:
        """Append a batch at the end, and return the entries above ``after``, including the new one.

        If there are more than READ_ENTRIES entries (or READ_BYTES) in between, only the first are returned, without the
        new one: keep reading to find it. Raises TrimmedError when entries above ``after`` are gone (then it may have
        been appended, or not).
        """
        ...

    async def read(self, owner: str, after: int, at: int | None = None, /) -> list[Entry]:
        """Return the entries above ``after`` in order; raises TrimmedError.

        Fewer than READ_ENTRIES, with less than READ_BYTES in all, means that there are no more.
        """
        ...

    async def news(self, after: Mapping[str, int], at: Mapping[str, int | None] = NOTHING, /) -> dict[str, list[Entry]]:
        """Return the entries above the given position of each of several owners; owners without news are left out.

        It takes few round trips for any number of owners. An owner whose entries have been trimmed gets an empty list.
        """
        ...

    async def entries(self, owner: str, positions: Sequence[int]) -> list[Entry]:
        """Return the entries at these positions, in order; those that are gone are left out."""
        ...

    async def checkpoint(self, owner: str) -> Checkpoint | None:
        """Return the newest checkpoint; None when there is none."""
        ...

    async def write_checkpoint(self, owner: str, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, atomically replacing older ones; one that is not newer than the stored one is ignored.

        A checkpoint may be tens of MiB.
        """
        ...

    async def trim(self, owner: str, below: int, keep: Sequence[int] = ()) -> None:
        """Remove the entries below a position (at most the newest checkpoint's position + 1), except those to keep.

        Kept entries are only available from :meth:`entries`, and are removed by a later call that does not name them.
        """
        ...

    async def aclose(self) -> None:
        """Release connections. Never raises."""
        ...
