"""The journal in memory: what a call costs does not grow with what it holds."""

from __future__ import annotations

from kontract.core.protocol.records import PutRecord, Record
from kontract.server.journal import MemoryJournal


def record(txid: int, call: str, *, idempotent: bool = True) -> Record:
    return Record(
        txid=txid,
        sid=f"{call}/1",
        call=call,
        user="",
        phase="committed",
        prepared_at=1,
        deadline=2,
        writes=[],
        settled_at=1,
        idempotent=idempotent,
    )


def test_the_newest_record_of_a_call_is_found():
    journal = MemoryJournal()
    journal.start(1, 0, "g1", {})
    journal.write([PutRecord(record(txid, f"call{txid}")) for txid in range(1, 500)])
    journal.write([PutRecord(record(500, "call7")), PutRecord(record(501, "other", idempotent=False))])
    assert journal.newest("call7").txid == 500
    assert journal.newest("nobody") is None


def test_what_was_written_does_not_change_with_what_it_was_written_of():
    """The coordinator goes on with its record; a restart begins with what was written, and changes that."""
    journal = MemoryJournal()
    journal.start(1, 0, "g1", {})
    given = record(1, "call")
    journal.write([PutRecord(given)])
    given.phase = "aborted"
    for read in (lambda: journal.load().records[0], lambda: journal.newest("call"), lambda: journal.committed(0, 9)[0]):
        assert read().phase == "committed"
        read().phase = "aborted"
        assert read().phase == "committed"
