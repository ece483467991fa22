"""The log that nodes share: what a store must do so that the coordinators of several nodes act as one.

Each owner has a log of *batches* of commands at positions 1, 2, 3 and so on, without a gap. Every node that serves the
owner replays it into a coordinator of its own (:mod:`kontract.core.protocol.machine`). An entry never changes
once it is there. There is no leader and no lock: whoever appends first is first.

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
"""How many entries one call returns at most; whoever needs more asks again."""

READ_BYTES = 4 * 1024 * 1024
"""Bytes of batches after which a call returns no further entry."""

NOTHING: Mapping[str, int | None] = MappingProxyType({})
"""Of no owner it is known when the last entry was appended."""


class LogUnavailableError(Exception):
    """The store does not answer: whether an append has taken place, or still will, is not known."""


class WentBackError(Exception):
    """The log is not the one that was read before, only older: it went back in time with the database that it is in.

    Nothing was appended. Start from the checkpoint, and from the log as it is now.
    """


class TrimmedError(Exception):
    """What was asked for is not kept any more: start from the checkpoint."""


class Entry(Struct, frozen=True):
    """One batch. ``at``: when it was appended, in milliseconds since the Unix epoch, by a clock that may jump."""

    position: int
    at: int
    batch: bytes


class Last(Struct, frozen=True):
    """Which entry a node has read last. A position alone does not say it: the log may have gone back and grown again.

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

    A log may lie in a database that is restored to an earlier state, or replaced by a standby that lagged. Where that
    can happen, ``append`` and ``read`` raise WentBackError for a node that has read further than there is, or something
    else than there is; and ``news`` has an empty list for it. A position does not say what was read: the log may have
    grown again. So a node says with it when its last entry was appended (``at``; None: it does not know). If that entry
    is not kept any more, this cannot be told, and the node has to start from the checkpoint (TrimmedError).

    Reads are linearizable: what an append that was answered has written is seen by every read that begins later, on
    every node.
    """

    async def append(self, owner: str, after: int, batch: bytes, at: int | None = None, /) -> list[Entry]:
        """Append a batch behind everything there is, and return the entries above ``after``, the new one among them.

        Where more than READ_ENTRIES entries (or READ_BYTES) lie between, only the first of them are returned, without
        the new one: read on, it is there. Raises TrimmedError when entries above ``after`` are gone (then it may have
        been appended, or not).
        """
        ...

    async def read(self, owner: str, after: int, at: int | None = None, /) -> list[Entry]:
        """Return the entries above ``after`` in order; raises TrimmedError.

        Fewer than READ_ENTRIES, with less than READ_BYTES in all, means that there are no more.
        """
        ...

    async def news(self, after: Mapping[str, int], at: Mapping[str, int | None] = NOTHING, /) -> dict[str, list[Entry]]:
        """Return for several owners at once what is above the position given for each; those without news are left out.

        In few round trips, whatever the number of owners. An owner whose entries have been trimmed gets an empty list.
        """
        ...

    async def entries(self, owner: str, positions: Sequence[int]) -> list[Entry]:
        """Return the entries at these positions, in order; those that are gone are left out."""
        ...

    async def checkpoint(self, owner: str) -> Checkpoint | None:
        """Return the newest checkpoint; None when there is none."""
        ...

    async def write_checkpoint(self, owner: str, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint in place of older ones. All or nothing; one that is not newer than the kept one is ignored.

        A checkpoint may be tens of MiB.
        """
        ...

    async def trim(self, owner: str, below: int, keep: Sequence[int] = ()) -> None:
        """Forget the entries below a position (at most the newest checkpoint's position + 1), except those to keep.

        What is kept can be had from :meth:`entries` only, and goes with a later call that does not name it any more.
        """
        ...

    async def aclose(self) -> None:
        """Give connections back. Never raises."""
        ...
