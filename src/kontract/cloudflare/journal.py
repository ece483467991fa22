"""The coordinator's journal in a Durable Object's SQLite storage.

``sql.exec`` is synchronous, and the runtime holds back everything the object sends (answers, database traffic) until
the writes before it are on disk: the output gate. So a prepare is durable before its answer leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kontract.coordination.recovery import Saved
from kontract.core import limits
from kontract.core.protocol.collection import CollectionStage, Mark
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.idempotency import BRIEF
from kontract.core.protocol.phases import Phase
from kontract.core.protocol.records import Drop, JournalEntry, PutBlock, PutEnded, PutOrder, PutRecord, Record
from kontract.core.protocol.witnesses import of_settled

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS head (
         one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, last_txid INTEGER NOT NULL)""",
    # call is NULL for calls without an Idempotency-Key, so that the index holds the others only
    """CREATE TABLE IF NOT EXISTS records (
         txid INTEGER PRIMARY KEY, call TEXT, settled_at INTEGER NOT NULL, record TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS records_by_call ON records (call, txid) WHERE call IS NOT NULL",
    # The row of ptr '' holds head.last_txid as of when the numbers were complete: a release that does not know this
    # table moves the one and leaves the other behind.
    "CREATE TABLE IF NOT EXISTS row_order (ptr TEXT PRIMARY KEY, last INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ended (session TEXT PRIMARY KEY, until INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS log (one INTEGER PRIMARY KEY, generation TEXT NOT NULL, floor INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS published (one INTEGER PRIMARY KEY CHECK (one = 1), txid INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS marks (watermark INTEGER PRIMARY KEY, time INTEGER NOT NULL, stage INTEGER NOT NULL)",
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class SqliteJournal:
    """Implements :class:`kontract.coordination.journal.Journal`."""

    def __init__(self, sql: Any) -> None:
        """Use ``ctx.storage.sql`` of the object."""
        self._sql = sql
        for statement in SCHEMA:
            sql.exec(statement)

    def load(self) -> Saved | None:
        """Return the head and what may still be unsettled: settled records are read when somebody asks for them."""
        head = self._rows("SELECT epoch, last_txid FROM head")
        if not head:
            return None
        epoch, last_txid = (int(value) for value in head[0])
        highest = self._rows("SELECT coalesce(max(txid), 0) FROM records")[0][0]
        records = [_decode(row[0]) for row in self._rows("SELECT record FROM records WHERE settled_at = 0")]
        ended = {str(session): int(until) for session, until in self._rows("SELECT session, until FROM ended")}
        order = {str(ptr): int(last) for ptr, last in self._rows("SELECT ptr, last FROM row_order")}
        complete = order.pop("", None) == last_txid
        newest = self._rows(
            "SELECT txid, json_extract(record, '$.sid'), json_extract(record, '$.prepared_at'), settled_at "
            "FROM records WHERE settled_at > 0 AND json_extract(record, '$.phase') = ? ORDER BY txid DESC LIMIT ?",
            Phase.COMMITTED.value,
            2 * limits.PREPARED,
        )
        witnesses = of_settled((int(txid), str(sid), int(since), int(at)) for txid, sid, since, at in newest)
        return Saved(epoch, max(last_txid, int(highest)), records, ended, order if complete else None, witnesses)

    def start(self, epoch: int, last_txid: int, generation: str, ended: Mapping[str, int]) -> None:
        """Forget everything but ended sessions and begin in ``epoch``."""
        self.write([PutEnded(session, until) for session, until in ended.items()])
        # The head first: records of an earlier epoch below a new head would only be resolved once more.
        self._sql.exec("INSERT OR REPLACE INTO head (one, epoch, last_txid) VALUES (1, ?, ?)", epoch, last_txid)
        self._sql.exec("INSERT OR REPLACE INTO log (one, generation, floor) VALUES (1, ?, ?)", generation, last_txid)
        self._sql.exec("DELETE FROM records")
        self._sql.exec("DELETE FROM marks")
        self._sql.exec("DELETE FROM row_order")
        self._sql.exec("DELETE FROM published")

    def write(self, entries: list[JournalEntry]) -> None:
        """Write entries; the runtime makes all writes up to the next await one transaction."""
        for entry in entries:
            match entry:
                case PutRecord():
                    record = entry.record
                    self._sql.exec(
                        "INSERT OR REPLACE INTO records (txid, call, settled_at, record) VALUES (?, ?, ?, ?)",
                        record.txid,
                        record.call if record.idempotent else None,
                        record.settled_at,
                        _encode(record).decode(),
                    )
                case PutBlock():
                    self._sql.exec("UPDATE head SET last_txid = ?", entry.last_txid)
                    self._put_order("", entry.last_txid)
                case PutOrder():
                    self._put_order(entry.ptr, entry.last)
                case PutEnded():
                    self._sql.exec(
                        "INSERT OR REPLACE INTO ended (session, until) VALUES (?, ?)", entry.session, entry.until
                    )
                case Drop():
                    self._sql.exec("DELETE FROM ended WHERE until <= ?", entry.now)
                    # The events of these are gone, also where a record stays for its idempotency key.
                    self._sql.exec(
                        "UPDATE log SET floor = max(floor, coalesce((SELECT max(txid) FROM records "
                        "WHERE settled_at > 0 AND (txid < ? OR settled_at < ?)), 0))",
                        entry.below_txid,
                        entry.settled_before,
                    )
                    self._sql.exec(
                        "DELETE FROM records WHERE settled_at > 0 AND txid NOT IN (SELECT value FROM json_each(?)) "
                        "AND CASE WHEN call IS NULL OR substr(call, 1, ?) = ? "
                        "THEN txid < ? OR settled_at < ? ELSE settled_at < ? END",
                        _encode(entry.keep).decode(),
                        len(BRIEF),
                        BRIEF,
                        entry.below_txid,
                        entry.settled_before,
                        entry.idempotent_before,
                    )

    def newest(self, call: str) -> Record | None:
        """Return the newest record of an idempotent call."""
        rows = self._rows("SELECT record FROM records WHERE call = ? ORDER BY txid DESC LIMIT 1", call)
        return _decode(rows[0][0]) if rows else None

    def log_head(self) -> LogHead:
        """Return where the event log begins."""
        rows = self._rows("SELECT generation, floor FROM log")
        if not rows:  # a journal from before there was an event log
            epoch, last_txid = self._rows("SELECT epoch, last_txid FROM head")[0]
            self._sql.exec("INSERT INTO log (one, generation, floor) VALUES (1, ?, ?)", f"g{int(epoch):x}", last_txid)
            return self.log_head()
        return LogHead(str(rows[0][0]), int(rows[0][1]))

    def committed(self, after: int, up_to: int) -> list[Record]:
        """Return committed records in txid order. The cursor is read row by row: a record may have a megabyte."""
        page: list[Record] = []
        size = 0
        for row in self._sql.exec(
            "SELECT record FROM records WHERE txid > ? AND txid <= ? AND settled_at > 0 "
            "AND json_extract(record, '$.phase') = ? ORDER BY txid LIMIT ?",
            after,
            up_to,
            Phase.COMMITTED.value,
            limits.EVENT_PAGE_TRANSACTIONS,
        ).raw():
            page.append(_decode(str(row[0])))
            size += len(str(row[0]))
            if size >= limits.EVENT_PAGE_BYTES:
                break
        return page

    def published(self) -> int:
        """Return up to where all lines were up to date."""
        return int(self._rows("SELECT coalesce(max(txid), 0) FROM published")[0][0])

    def write_published(self, txid: int) -> None:
        """Keep that."""
        self._sql.exec("INSERT OR REPLACE INTO published (one, txid) VALUES (1, ?)", txid)

    def marks(self) -> list[Mark]:
        """Return the collection's marks."""
        rows = self._rows("SELECT watermark, time, stage FROM marks ORDER BY watermark")
        return [Mark(int(watermark), int(time), int(stage)) for watermark, time, stage in rows]

    def write_marks(self, marks: list[Mark]) -> None:
        """Keep marks; one that is done goes as soon as there is a newer one."""
        for mark in marks:
            self._sql.exec(
                "INSERT OR REPLACE INTO marks (watermark, time, stage) VALUES (?, ?, ?)",
                mark.watermark,
                mark.time,
                int(mark.stage),
            )
        self._sql.exec(
            "DELETE FROM marks WHERE stage >= ? AND watermark < (SELECT max(watermark) FROM marks)",
            int(CollectionStage.FENCES),
        )

    def _put_order(self, ptr: str, last: int) -> None:
        self._sql.exec("INSERT OR REPLACE INTO row_order (ptr, last) VALUES (?, ?)", ptr, last)

    def _rows(self, statement: str, *params: Any) -> list[list[Any]]:
        return [list(row) for row in self._sql.exec(statement, *params).raw().toArray()]
