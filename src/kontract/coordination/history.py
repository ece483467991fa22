"""The log of an owner as a log of committed transactions: what streams that catch up are given.

What is asked for stands in the log; what was asked for lately, or has just become visible, is in memory. The hub asks
without waiting (:class:`kontract.core.protocol.hub.EventLog`), so a page has to be fetched first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from kontract.core import limits
from kontract.core.events import parse_position
from kontract.core.messages import Prepare
from kontract.core.protocol.commands import Ask, decode_batch
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.machine import LogPlace, Machine
from kontract.core.protocol.phases import Phase
from kontract.core.protocol.records import Record
from kontract.ports.shared_log import SharedLog

CACHE_BYTES = 8 * 1024 * 1024
"""Bytes of transactions kept in memory; the others are read from the log."""


class History:
    """Transactions of one owner, by the index of ``machine()``. Implements EventLog."""

    def __init__(self, owner: str, log: SharedLog, machine: Callable[[], Machine]) -> None:
        """Read from ``log``."""
        self._owner = owner
        self._log = log
        self._machine = machine
        self._cache: OrderedDict[int, tuple[Record, int]] = OrderedDict()
        self._cached_bytes = 0

    # --- for the hub -------------------------------------------------------------------------------------------------

    def log_head(self) -> LogHead:
        """Return where the event log begins."""
        return self._machine().head

    def committed(self, after: int, up_to: int) -> list[Record]:
        """Return a page of committed transactions, which must be in memory."""
        return [self._cache[place.txid][0] for place in self._machine().committed(after, up_to)]

    def published(self) -> int:
        """0: lines live as long as this process does, so they never come back."""
        return 0

    def write_published(self, txid: int) -> None:
        """Nothing, likewise."""

    # --- for the replica ---------------------------------------------------------------------------------------------

    def missing(self, since: str | None, watermark: int) -> list[LogPlace]:
        """Return what of the next page after a position is not in memory."""
        parsed, machine = parse_position(since) if since is not None else None, self._machine()
        if parsed is None or parsed[0] != machine.head.generation or parsed[1] < machine.head.floor:
            return []
        return [place for place in machine.committed(parsed[1], watermark) if place.txid not in self._cache]

    async def fetch(self, places: Sequence[LogPlace]) -> list[Record]:
        """Read transactions from the log into memory; those that have been trimmed are left out."""
        records = await self.read(places)
        for record in records:
            self.remember(record)
        return records

    async def read(self, places: Sequence[LogPlace]) -> list[Record]:
        """Read transactions from the log; those that have been trimmed are left out."""
        positions = sorted({place.position for place in places})
        entries = {entry.position: entry for entry in await self._log.entries(self._owner, positions)}
        return [_record(place, entries[place.position].batch) for place in places if place.position in entries]

    def remember(self, record: Record) -> None:
        """Keep a transaction in memory, in place of older ones."""
        if record.txid in self._cache:
            return
        size = sum(len(bytes(write.data)) + len(bytes(write.old)) for write in record.writes)
        self._cache[record.txid] = record, size
        self._cached_bytes += size
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > limits.EVENT_PAGE_TRANSACTIONS:
            _, (_, size) = self._cache.popitem(last=False)
            self._cached_bytes -= size

    def forget(self) -> None:
        """Have nothing in memory."""
        self._cache.clear()
        self._cached_bytes = 0


def _record(place: LogPlace, batch: bytes) -> Record:
    command = decode_batch(batch).commands[place.offset]
    assert isinstance(command, Ask)
    prepare = command.request
    assert isinstance(prepare, Prepare)
    return Record(
        txid=place.txid,
        sid="",
        call=prepare.call,
        user=prepare.user,
        phase=Phase.COMMITTED.value if place.committed else Phase.PREPARED.value,
        prepared_at=0,
        deadline=0,
        writes=prepare.writes,
        result=prepare.result,
        settled_at=place.settled_at,
    )
