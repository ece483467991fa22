"""Finished write sets of the recent past: who wrote a key last, and which new rows may match a predicate.

The same question, "does this commit touch what was read", serves validation here and the filtering of change events.
The cost of an answer depends on what happened since the reader's snapshot, not on the length of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Raw

from kontract.core import limits
from kontract.core.messages import ABSENT, Key, Predicate, Write
from kontract.core.protocol.predicates import may_contain
from kontract.core.protocol.ranges import may_lie_in, may_pass

_decode = msgspec.json.Decoder().decode
_decode_exactly = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


def touches(predicate: Predicate, write: Write) -> bool:
    """Whether ``write`` may change what a reader of ``predicate`` saw.

    Rows that matched before and no longer do are found by their ids, which the reader lists besides the predicate.
    """
    if write.ptr != predicate.ptr:
        return False
    if predicate.counted:
        return _counts(predicate, write)
    if predicate.whole:
        return True
    if predicate.inserts and not write.may_insert:
        return False
    return not write.deletes and _may_hold(predicate, write.id, write.data)


def _counts(predicate: Predicate, write: Write) -> bool:
    """Whether the old value of a row, unless there was none, or its new one may be in the set."""
    if bytes(predicate.contains) == b"{}" and not predicate.bounds:
        return write.deletes or not write.seen  # all rows are in it: one that changes stays
    if not write.deletes and _may_hold(predicate, write.id, write.data):
        return True
    if write.seen == ABSENT:
        return False
    is_known = write.seen is not None and bytes(write.old) != b"null"
    return not is_known or _may_hold(predicate, write.id, write.old)


def _may_hold(predicate: Predicate, row_id: str, data: Raw) -> bool:
    """Whether a row may be in the set."""
    wanted = _decode(predicate.contains)
    if wanted and not may_contain(_decode(data), wanted):
        return False
    if not predicate.bounds and predicate.span is None:
        return True
    document = _decode_exactly(data)
    return may_pass(row_id, document, predicate.bounds) and (
        predicate.span is None or may_lie_in(row_id, document, predicate.span)
    )


class WriteLog:
    """Write sets of committed transactions with ``txid > floor``, in memory."""

    def __init__(
        self,
        floor: int,
        finished: Iterable[tuple[int, list[Key], int]] = (),
        by_table: Mapping[str, Iterable[tuple[int, list[Write]]]] | None = None,
    ) -> None:
        """Start empty, or with what :meth:`dump` returned.

        A snapshot below ``floor`` cannot be validated, because what came after it is not here.
        """
        self.floor = floor
        self._order: deque[tuple[int, list[Key], int]] = deque(finished)  # as they finished, with their sizes
        self._by_table: dict[str, deque[tuple[int, list[Write]]]] = {  # each table's in txid order
            ptr: deque(entries) for ptr, entries in (by_table or {}).items()
        }
        self._bytes = sum(size for _, _, size in self._order)
        self._last_writer: dict[Key, int] = {}
        for txid, keys, _ in self._order:
            self._note_writer(txid, keys)

    def dump(self) -> tuple[list[tuple[int, list[Key], int]], dict[str, list[tuple[int, list[Write]]]]]:
        """Return all that is held, as :meth:`__init__` takes it."""
        return list(self._order), {ptr: list(entries) for ptr, entries in self._by_table.items()}

    def __len__(self) -> int:
        """Count the transactions held."""
        return len(self._order)

    def add(self, txid: int, writes: list[Write]) -> None:
        """Record a committed write set. Transactions finish in any order; entries are kept in txid order per table."""
        keys = [Key(write.ptr, write.id) for write in writes]
        self._note_writer(txid, keys)
        by_table: dict[str, list[Write]] = {}
        size = 0
        for write in writes:
            size += len(write.data)
            by_table.setdefault(write.ptr, []).append(write)
        for ptr, written in by_table.items():
            entries = self._by_table.setdefault(ptr, deque())
            place = len(entries)
            while place and entries[place - 1][0] > txid:  # rarely more than a few steps: those that overtook it
                place -= 1
            entries.insert(place, (txid, written))
        self._order.append((txid, keys, size))
        self._bytes += size

    def _note_writer(self, txid: int, keys: list[Key]) -> None:
        for key in keys:
            if txid > self._last_writer.get(key, 0):
                self._last_writer[key] = txid

    def last_writer(self, key: Key) -> int:
        """Return the txid that wrote ``key`` last; 0 when nobody did above the floor."""
        return self._last_writer.get(key, 0)

    def first_touch(self, predicate: Predicate, snapshot: int) -> tuple[int, str] | None:
        """Return (txid, id) of a write after ``snapshot`` that may change what ``predicate`` read, or None."""
        # Newest first: a retry should wait for the latest transaction that it lost to.
        for txid, written in reversed(self._by_table.get(predicate.ptr, ())):
            if txid <= snapshot:
                return None
            for write in reversed(written):
                if touches(predicate, write):
                    return txid, write.id
        return None

    def trim(self, oldest_snapshot: int) -> None:
        """Forget what no active snapshot needs, and more than that when the log is over its bounds."""
        while self._order:
            txid, keys, size = self._order[0]
            over = len(self._order) > limits.WRITE_LOG_TRANSACTIONS or self._bytes > limits.WRITE_LOG_BYTES
            if txid > oldest_snapshot and not over:
                return
            self._order.popleft()
            self._bytes -= size
            self._forget(txid, keys)
            self.floor = max(self.floor, txid)

    def _forget(self, txid: int, keys: list[Key]) -> None:
        for key in keys:
            if self._last_writer.get(key) == txid:
                del self._last_writer[key]
            # A transaction that finished late may have been dropped with a later one already.
            entries = self._by_table.get(key.ptr)
            while entries and entries[0][0] <= txid:
                entries.popleft()
            if not entries:
                self._by_table.pop(key.ptr, None)
