"""Finished write sets of the recent past: who wrote a key last, and which new rows may match a predicate.

The same question, "does this commit touch what was read", serves validation here and the filtering of change events.
The cost of an answer depends on what happened since the reader's snapshot, not on the length of the log.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from kontract.core import limits
from kontract.core.messages import Key, Predicate, Write
from kontract.core.predicates import may_contain

_decode = msgspec.json.Decoder().decode


def touches(predicate: Predicate, write: Write) -> bool:
    """Whether ``write`` may change what a reader of ``predicate`` saw.

    Rows that matched before and no longer do are found by their ids, which the reader lists besides the predicate.
    """
    if write.ptr != predicate.ptr:
        return False
    if predicate.whole:
        return True
    return not write.deletes and matches(predicate.contains, write.data)


def matches(contains: Raw, data: Raw) -> bool:
    """Whether a row's JSON may contain a filter's JSON."""
    wanted: dict[str, Any] = _decode(contains)
    return not wanted or may_contain(_decode(data), wanted)


class WriteLog:
    """Write sets of committed transactions with ``txid > floor``, in memory."""

    def __init__(self, floor: int) -> None:
        """Start empty: a snapshot below ``floor`` cannot be validated, because what came after it is not here."""
        self.floor = floor
        self._order: deque[tuple[int, list[Write], int]] = deque()
        self._last_writer: dict[Key, int] = {}
        self._by_table: dict[str, list[tuple[int, int, Write]]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Count the transactions held."""
        return len(self._order)

    def add(self, txid: int, writes: list[Write]) -> None:
        """Record a committed write set. Transactions finish in any order; entries are kept in txid order per table."""
        size = 0
        for position, write in enumerate(writes):
            size += len(bytes(write.data))
            key = Key(write.ptr, write.id)
            if txid > self._last_writer.get(key, 0):
                self._last_writer[key] = txid
            insort(self._by_table.setdefault(write.ptr, []), (txid, position, write), key=_txid_and_position)
        self._order.append((txid, writes, size))
        self._bytes += size

    def last_writer(self, key: Key) -> int:
        """Return the txid that wrote ``key`` last; 0 when nobody did above the floor."""
        return self._last_writer.get(key, 0)

    def first_touch(self, predicate: Predicate, snapshot: int) -> tuple[int, str] | None:
        """Return (txid, id) of a write after ``snapshot`` that may change what ``predicate`` read, or None."""
        entries = self._by_table.get(predicate.ptr, [])
        start = bisect_right(entries, snapshot, key=_txid_only)
        # Newest first: a retry should wait for the latest transaction that it lost to.
        for txid, _, write in reversed(entries[start:]):
            if touches(predicate, write):
                return txid, write.id
        return None

    def trim(self, oldest_snapshot: int) -> None:
        """Forget what no active snapshot needs, and more than that when the log is over its bounds."""
        while self._order:
            txid, writes, size = self._order[0]
            over = len(self._order) > limits.WRITE_LOG_TRANSACTIONS or self._bytes > limits.WRITE_LOG_BYTES
            if txid > oldest_snapshot and not over:
                return
            self._order.popleft()
            self._bytes -= size
            self._forget(txid, writes)
            self.floor = max(self.floor, txid)

    def _forget(self, txid: int, writes: Iterable[Write]) -> None:
        for write in writes:
            key = Key(write.ptr, write.id)
            if self._last_writer.get(key) == txid:
                del self._last_writer[key]
            # A transaction that finished late may have been dropped with a later one already.
            entries = self._by_table.get(write.ptr, [])
            del entries[: bisect_right(entries, txid, key=_txid_only)]
            if not entries:
                self._by_table.pop(write.ptr, None)


def _txid_only(entry: tuple[int, int, Write]) -> int:
    return entry[0]


def _txid_and_position(entry: tuple[int, int, Write]) -> tuple[int, int]:
    return entry[0], entry[1]
