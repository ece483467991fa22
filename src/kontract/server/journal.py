"""The journal of a coordinator that lives and dies with its process."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping
from copy import copy

from kontract.coordination.recovery import Saved
from kontract.core import limits
from kontract.core.protocol.collection import CollectionStage, Mark
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.phases import Phase
from kontract.core.protocol.records import Drop, JournalEntry, PutBlock, PutEnded, PutOrder, PutRecord, Record, is_kept
from kontract.core.protocol.witnesses import of_records


class MemoryJournal:
    """A journal that ends with the process: for one process, and for tests. ``reopen`` plays a restart."""

    def __init__(self) -> None:
        """Start as a coordinator that has never run."""
        self._head: tuple[int, int] | None = None
        self._records: dict[int, Record] = {}  # as they were when they were written
        self._txids: list[int] = []  # those of the records, in order: a page is found without looking at all
        self._by_call: dict[str, int] = {}  # of idempotent calls: the txid of the newest record
        self._marks: dict[int, Mark] = {}
        self._ended: dict[str, int] = {}
        self._order: dict[str, int] = {}
        self._order_known = False
        self._published = 0
        self._log_head = LogHead("g0", 0)

    def load(self) -> Saved | None:
        """Return what was written."""
        if self._head is None:
            return None
        epoch, last_txid = self._head
        records = [copy(record) for record in self._records.values()]
        order = dict(self._order) if self._order_known else None
        return Saved(epoch, last_txid, records, dict(self._ended), order, of_records(records))

    def start(self, epoch: int, last_txid: int, generation: str, ended: Mapping[str, int]) -> None:
        """Begin in ``epoch``."""
        self._head = (epoch, last_txid)
        self._log_head = LogHead(generation, last_txid)
        self._records.clear()
        self._txids.clear()
        self._by_call.clear()
        self._marks.clear()
        self._published = 0
        self._ended = dict(ended)
        self._order.clear()
        self._order_known = False

    def write(self, entries: list[JournalEntry]) -> None:
        """Keep entries."""
        for entry in entries:
            match entry:
                case PutRecord():
                    # A copy: the coordinator goes on changing its record, and never what it writes.
                    if entry.record.txid not in self._records:
                        insort(self._txids, entry.record.txid)
                        if entry.record.idempotent:
                            newest = self._by_call.get(entry.record.call, 0)
                            self._by_call[entry.record.call] = max(entry.record.txid, newest)
                    self._records[entry.record.txid] = copy(entry.record)
                case PutBlock():
                    assert self._head is not None
                    self._head = (self._head[0], entry.last_txid)
                    self._order_known = True
                case PutOrder():
                    self._order[entry.ptr] = entry.last
                case PutEnded():
                    self._ended[entry.session] = entry.until
                case Drop():
                    self._ended = {session: until for session, until in self._ended.items() if until > entry.now}
                    for txid, record in list(self._records.items()):
                        if record.settled_at and _unpublished(record, entry):
                            self._log_head = LogHead(self._log_head.generation, max(self._log_head.floor, txid))
                        if _expired(record, entry):
                            del self._records[txid]
                            if self._by_call.get(record.call) == txid:
                                del self._by_call[record.call]  # what is older of the same call has expired, too
                    self._txids = sorted(self._records)

    def newest(self, call: str) -> Record | None:
        """Return the newest record of an idempotent call."""
        txid = self._by_call.get(call)
        return copy(self._records[txid]) if txid is not None else None

    def log_head(self) -> LogHead:
        """Return where the event log begins."""
        return self._log_head

    def committed(self, after: int, up_to: int) -> list[Record]:
        """Return committed records in txid order."""
        page: list[Record] = []
        size = 0
        first, last = bisect_right(self._txids, after), bisect_right(self._txids, up_to)
        for txid in self._txids[first:last]:
            record = self._records[txid]
            if record.phase == Phase.COMMITTED.value:
                page.append(copy(record))
                size += sum(len(bytes(write.data)) + len(bytes(write.old)) for write in record.writes)
            if len(page) >= limits.EVENT_PAGE_TRANSACTIONS or size >= limits.EVENT_PAGE_BYTES:
                break
        return page

    def published(self) -> int:
        """Return up to where all lines were up to date."""
        return self._published

    def write_published(self, txid: int) -> None:
        """Keep that."""
        self._published = txid

    def marks(self) -> list[Mark]:
        """Return the collection's marks."""
        return list(self._marks.values())

    def write_marks(self, marks: list[Mark]) -> None:
        """Keep marks; one that is done goes as soon as there is a newer one."""
        self._marks.update({mark.watermark: mark for mark in marks})
        newest = max(self._marks, default=0)
        self._marks = {w: mark for w, mark in self._marks.items() if mark.stage < CollectionStage.FENCES or w == newest}


def _expired(record: Record, drop: Drop) -> bool:
    if not record.settled_at or record.txid in drop.keep:
        return False
    if is_kept(record):
        return record.settled_at < drop.idempotent_before
    return _unpublished(record, drop)


def _unpublished(record: Record, drop: Drop) -> bool:
    """Whether the events of a settled record are not kept any more."""
    return record.txid < drop.below_txid or record.settled_at < drop.settled_before
