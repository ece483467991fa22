"""Row numbers: the insertion order of the rows of a table, for ``pop`` and ``shift``.

A row keeps the number that its first version got (``_order``). Statements of concurrent commits run at the same time
and in any order, so a number taken from a sequence while one of them runs says nothing about txids. Therefore the
coordinator gives the numbers when it gives the txid: as many as rows may be new, in the order in which the function
wrote them, above everything given before. The rows of a commit lie together, and commits lie in txid order.

A table's own sequence (``SERIAL``) follows: the apply statement takes numbers from it until it has reached the highest
one that it wrote (:mod:`kontract.core.transaction.sql`). So the sequence is never below a number in its table. Rows
that are inserted by hand, or by a release that knows only the sequence, come behind those that are there; and a
coordinator that does not know the numbers finds them in the sequences. ``known`` are the sequences as workers have seen
them lately: so the coordinator learns of rows that others have inserted, and of tables that were registered meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kontract.core import limits
from kontract.core.messages import Write
from kontract.core.protocol.records import PutOrder, Record


def rows_by_table(writes: Iterable[Write]) -> dict[str, int]:
    """Return how many rows of each table may be new."""
    counts: dict[str, int] = {}
    for write in writes:
        if write.may_insert:
            counts[write.ptr] = counts.get(write.ptr, 0) + 1
    return counts


def beyond(known: Mapping[str, int], unfinished: Iterable[Record]) -> dict[str, int]:
    """Return numbers at or above all in use, when ``unfinished`` may still take numbers from the sequences."""
    highest = dict(known)
    for record in unfinished:
        for ptr, count in rows_by_table(record.writes).items():
            highest[ptr] = highest.get(ptr, 0) + count
    return highest


class RowOrder:
    """The highest number given in each table of one owner."""

    def __init__(self, last: Mapping[str, int]) -> None:
        """Continue above ``last``."""
        self._last = dict(last)
        self._reserved = dict(last)

    def give(self, writes: Iterable[Write], known: Mapping[str, int]) -> tuple[dict[str, int], list[PutOrder]]:
        """Return the first number of each table for a transaction, and what has to be journalled before the answer."""
        first: dict[str, int] = {}
        entries: list[PutOrder] = []
        for ptr, count in rows_by_table(writes).items():
            before = max(self._last.get(ptr, 0), known.get(ptr, 0))
            first[ptr] = before + 1
            self._last[ptr] = last = before + count
            if last > self._reserved.get(ptr, 0):
                self._reserved[ptr] = last + limits.ORDER_BLOCK - 1
                entries.append(PutOrder(ptr, self._reserved[ptr]))
        return first, entries

    def entries(self) -> list[PutOrder]:
        """Return everything, for a new journal."""
        return [PutOrder(ptr, last) for ptr, last in self._reserved.items()]

    def dump(self) -> dict[str, int]:
        """Return the highest number given in each table."""
        return dict(self._last)
