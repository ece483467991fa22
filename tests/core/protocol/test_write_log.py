"""The log of finished write sets: who wrote a key last, and what it may forget."""

from __future__ import annotations

import pytest

from core.desk import key, predicate, write
from kontract.core import limits
from kontract.core.messages import ABSENT
from kontract.core.protocol.write_log import WriteLog, touches


def test_the_last_writer_is_the_highest_txid_whatever_the_order_of_finishing():
    """T=5 finishing before T=3 must stay the last writer, or a reader at 4 would miss it."""
    log = WriteLog(floor=0)
    log.add(5, [write("a", {})])
    log.add(3, [write("a", {}), write("b", {})])
    assert (log.last_writer(key("a")), log.last_writer(key("b")), log.last_writer(key("c"))) == (5, 3, 0)
    assert log.last_writer(key("a", ptr="other")) == 0


def test_a_predicate_finds_later_writes_only_newest_first():
    """Only what came after the snapshot counts, and a retry waits for the latest of it."""
    log = WriteLog(floor=0)
    log.add(4, [write("d", {"done": True})])
    log.add(2, [write("b", {"done": True})])
    log.add(3, [write("c", {"done": False})])
    done = predicate({"done": True})
    assert log.first_touch(done, 0) == (4, "d")
    assert log.first_touch(done, 3) == (4, "d")
    assert log.first_touch(done, 4) is None
    assert log.first_touch(predicate({"done": False}), 2) == (3, "c")
    assert log.first_touch(predicate({"done": True}, ptr="other"), 0) is None


@pytest.mark.parametrize(
    ("wanted", "written", "hit"),
    [
        (predicate(), write("a", {"x": 1}), True),
        (predicate(), write("a"), False),  # readers list the ids they saw: a deletion is found by its key
        (predicate(whole=True), write("a"), True),
        (predicate({"x": 1}), write("a", {"x": 1, "y": 2}), True),
        (predicate({"x": 1}), write("a", {"x": 2}), False),
        (predicate({"x": 1}, whole=True), write("a", {"x": 2}), True),
        (predicate(whole=True), write("a", {}, ptr="other"), False),
        (predicate(inserts=True), write("a", {"x": 1}), True),  # a blind one may be of a new row
        (predicate(inserts=True), write("a", {"x": 1}, seen=3), False),
        (predicate(counted=True), write("a", {"x": 1}, seen=3), False),
        (predicate(counted=True), write("a", {"x": 1}, seen=ABSENT), True),
        (predicate(counted=True), write("a", seen=3), True),
        (predicate({"x": 1}, counted=True), write("a", {"x": 2}, seen=3, old={"x": 1}), True),
        (predicate({"x": 1}, counted=True), write("a", {"x": 2}, seen=3, old={"x": 3}), False),
        (predicate({"x": 1}, counted=True), write("a", {"x": 2}, seen=3), True),  # too large for its old value
        (predicate({"x": 1}, counted=True), write("a", {"x": 2}, seen=ABSENT), False),
        (predicate({"x": 1}, counted=True), write("a", {"x": 2}), True),
    ],
)
def test_what_touches_a_predicate(wanted, written, hit):
    """The one question of validation and of event filtering, by hand."""
    assert touches(wanted, written) is hit


def test_trimming_raises_the_floor_and_forgets_only_what_no_snapshot_needs():
    """What is forgotten lies at or below the floor, so no snapshot that is accepted misses a write."""
    log = WriteLog(floor=0)
    for txid in range(1, 6):
        log.add(txid, [write(f"r{txid}", {"n": txid}), write("hot", {"n": txid})])
    log.trim(oldest_snapshot=3)
    assert (log.floor, len(log)) == (3, 2)
    assert log.last_writer(key("r3")) == 0
    assert log.last_writer(key("r4")) == 4
    assert log.last_writer(key("hot")) == 5
    assert log.first_touch(predicate({"n": 4}), 3) == (4, "hot")
    log.trim(oldest_snapshot=99)
    assert (log.floor, len(log), log.last_writer(key("hot"))) == (5, 0, 0)
    assert log.first_touch(predicate(), 0) is None


def test_a_late_finisher_does_not_break_the_log():
    """T=1 may finish after later ones were forgotten: nothing above the floor is lost by its trimming."""
    log = WriteLog(floor=0)
    log.add(2, [write("a", {})])
    log.trim(oldest_snapshot=2)
    log.add(1, [write("a", {}), write("b", {})])
    log.add(3, [write("a", {})])
    log.trim(oldest_snapshot=2)
    assert log.floor == 2
    assert log.last_writer(key("a")) == 3
    assert log.first_touch(predicate(), 2) == (3, "a")


def test_the_log_is_bounded_by_transactions_and_by_bytes(monkeypatch):
    """An isolate has 128 MB: over the bounds the oldest go, active snapshot or not."""
    monkeypatch.setattr(limits, "WRITE_LOG_TRANSACTIONS", 3)
    log = WriteLog(floor=0)
    for txid in range(1, 6):
        log.add(txid, [write("a", {})])
        log.trim(oldest_snapshot=0)
    assert (len(log), log.floor) == (3, 2)

    monkeypatch.setattr(limits, "WRITE_LOG_BYTES", 250)
    log = WriteLog(floor=0)
    for txid in range(1, 6):
        log.add(txid, [write("a", "x" * 98)])
        log.trim(oldest_snapshot=0)
    assert (len(log), log.floor) == (2, 3)
