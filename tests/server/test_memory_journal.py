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


def test_the_newest_record_of_a_call_is_found_without_decoding_the_others(monkeypatch):
    journal = MemoryJournal()
    journal.start(1, 0, "g1", {})
    journal.write([PutRecord(record(txid, f"call{txid}")) for txid in range(1, 500)])
    journal.write([PutRecord(record(500, "call7")), PutRecord(record(501, "other", idempotent=False))])
    decode, decoded = journal._decode, []
    monkeypatch.setattr(journal, "_decode", lambda raw: decoded.append(raw) or decode(raw))
    assert journal.newest("call7").txid == 500
    assert journal.newest("nobody") is None
    assert len(decoded) == 1
