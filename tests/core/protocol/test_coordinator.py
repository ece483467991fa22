"""The transaction protocol, message by message, with time moved by hand."""

from __future__ import annotations

import random

import msgspec
import pytest

from core.desk import PTR, Desk, key, predicate, write
from kontract.coordination import recovery
from kontract.coordination.recovery import Saved
from kontract.core import limits
from kontract.core.messages import (
    Aborted,
    Began,
    Begin,
    Busy,
    CheckSession,
    Committed,
    Conflict,
    EndSession,
    Fenced,
    Finish,
    InDoubt,
    Leave,
    Left,
    Prepare,
    Prepared,
    Replayed,
    SessionAlive,
    SessionEnded,
    Status,
    TooOld,
    Unready,
)
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.idempotency import FENCES, fence_of
from kontract.core.protocol.phases import Phase, ProtocolError
from kontract.core.protocol.records import Drop, PutBlock, PutEnded, PutRecord, Resolve


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_begin_gives_the_watermark(desk):
    """A snapshot is everything that has finished, and nothing else."""
    assert desk.begin() == Began(0, 1)
    assert desk.commit("a", write("x", 1)) == 1
    assert desk.begin() == Began(1, 1)
    desk.prepare("b", write("x", 2))
    assert desk.begin() == Began(1, 1)


def test_the_watermark_is_a_prefix(desk):
    """T=2 finished before T=1 is not visible and its caller not answered; T=1 releases both, in order."""
    assert desk.prepare("one", write("a", 1)) == Prepared(1, "one/1", 1)
    assert desk.prepare("two", write("b", 1)) == Prepared(2, "two/1", 1)
    second = desk.finish(2)
    assert second not in desk.answers
    assert desk.begin() == Began(0, 1)
    assert desk.published == []
    first = desk.finish(1)
    assert (desk.answers[first], desk.answers[second]) == (Committed(1), Committed(2))
    assert [record.txid for record in desk.published] == [1, 2]
    assert desk.begin() == Began(2, 1)


def test_an_aborted_transaction_does_not_wait_for_others(desk):
    """It has nothing to become visible: its caller may try again at once."""
    desk.prepare("one", write("a", 1))
    desk.prepare("two", write("b", 1))
    second = desk.finish(2, applied=False)
    desk.resolved(2, -2)
    assert desk.answers[second] == Aborted(2)
    assert desk.coordinator.watermark == 0


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "conflict"),
    [
        ({"reads": [key("x")]}, Conflict(PTR, 1, "x")),
        ({"predicates": [predicate({"n": 1})]}, Conflict(PTR, 1)),
        ({"predicates": [predicate(whole=True)]}, Conflict(PTR, 1)),
        ({"predicates": [predicate()]}, Conflict(PTR, 1)),
        ({"reads": [key("y")], "predicates": [predicate({"n": 2}), predicate(ptr="other", whole=True)]}, None),
        ({"reads": [key("x", ptr="other")]}, None),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_read_that_others_changed_loses(desk, prepare, conflict, finished):
    """Everything a transaction read must be as it was, or it would not fit in the order; finished or only prepared."""
    desk.prepare("winner", write("x", {"n": 1}))
    if finished:
        desk.finish(1)
    answer = desk.prepare("loser", write("mine", 1), snapshot=0, **prepare)
    assert answer == conflict if conflict else isinstance(answer, Prepared)


def test_reading_what_was_there_is_no_conflict(desk):
    """A snapshot that includes the writer sees it."""
    desk.commit("winner", write("x", {"n": 1}))
    assert isinstance(
        desk.prepare("a", write("x", 2), snapshot=1, reads=[key("x")], predicates=[predicate(whole=True)]), Prepared
    )


def test_a_deletion_matters_to_who_read_the_row_or_the_whole_table(desk):
    """A deleted row matches no predicate by value; readers list the rows they saw."""
    desk.commit("winner", write("x"))
    assert desk.prepare("b", write("b", 1), snapshot=0, reads=[key("x")]) == Conflict(PTR, 1, "x")
    assert desk.prepare("c", write("c", 1), snapshot=0, predicates=[predicate(whole=True)]) == Conflict(PTR, 1)
    desk.ask(Leave("c"))  # which stood in line for the whole table
    assert isinstance(desk.prepare("a", write("a", 1), snapshot=0, predicates=[predicate()]), Prepared)


def test_a_row_that_others_wrote_loses(desk):
    """First committer wins, for a write of a row that was read under any isolation."""
    desk.commit("winner", write("x", 1))
    for isolation in ("serializable", "snapshot"):
        answer = desk.prepare("loser", write("x", 2, seen=0), snapshot=0, isolation=isolation)
        assert answer == Conflict(PTR, 1, "x")


def test_snapshot_isolation_skips_the_read_checks_only(desk):
    """It may lose to a writer of its rows, never to a writer of what it only read."""
    desk.commit("winner", write("x", {"n": 1}))
    answer = desk.prepare(
        "a", write("y", 1), snapshot=0, reads=[key("x")], predicates=[predicate(whole=True)], isolation="snapshot"
    )
    assert isinstance(answer, Prepared)
    assert desk.prepare("b", write("y", 1), isolation="snapshot") == Conflict(PTR, 2, "y")


def test_blind_writes_lose_to_locks_but_not_to_history(desk):
    """Whoever has read nothing can be ordered last; but one key is prepared once at a time."""
    desk.commit("winner", write("x", 1))
    assert isinstance(desk.prepare("blind", write("x", 2)), Prepared)
    assert desk.prepare("other", write("x", 3)) == Conflict(PTR, 2, "x")
    desk.finish(2)
    assert isinstance(desk.prepare("other", write("x", 3)), Prepared)


def test_write_skew_is_refused(desk):
    """Two that each read what the other writes cannot both prepare."""
    desk.prepare("a", write("x", 1), snapshot=0, reads=[key("x"), key("y")])
    answer = desk.prepare("b", write("y", 1), snapshot=0, reads=[key("x"), key("y")])
    assert answer == Conflict(PTR, 1, "x")


def test_an_aborted_transaction_conflicts_with_nobody(desk):
    """It never happened: neither its locks nor its writes may refuse others."""
    desk.prepare("gone", write("x", {"n": 1}))
    desk.finish(1, applied=False)
    desk.resolved(1, -1)
    answer = desk.prepare("a", write("x", 2), snapshot=0, reads=[key("x")], predicates=[predicate(whole=True)])
    assert answer == Prepared(2, "a/1", 1)


def test_a_snapshot_below_the_log_is_too_old(desk, monkeypatch):
    """What is not remembered cannot be checked, so it must be refused rather than passed."""
    monkeypatch.setattr(limits, "WRITE_LOG_TRANSACTIONS", 2)
    for n in range(4):
        desk.commit(f"w{n}", write(f"x{n}", 1))
    assert desk.prepare("old", write("y", 1), snapshot=1) == TooOld()
    assert isinstance(desk.prepare("edge", write("y", 1), snapshot=2), Prepared)
    assert isinstance(desk.prepare("blind", write("z", 1)), Prepared)


def test_a_restarted_coordinator_refuses_snapshots_of_its_former_life():
    """It does not know what those read, so they begin again."""
    desk = Desk(last_txid=10)
    assert desk.prepare("old", write("y", 1), snapshot=9) == TooOld()
    assert isinstance(desk.prepare("new", write("y", 1), snapshot=10), Prepared)


def test_a_leased_snapshot_keeps_its_log_and_an_expired_one_does_not(desk):
    """The log reaches back to the oldest snapshot in use, and a lease ends after 30 s."""
    desk.begin()
    desk.commit("w", write("x", 1))
    desk.now += limits.LEASE_MS - 1
    desk.take(desk.coordinator.tick(desk.now))
    assert desk.coordinator.oldest_snapshot == 0
    assert desk.prepare("reader", write("y", 1), snapshot=0, reads=[key("x")]) == Conflict(PTR, 1, "x")
    desk.now += 1
    desk.take(desk.coordinator.tick(desk.now))
    assert desk.coordinator.oldest_snapshot == 1
    assert desk.prepare("reader", write("y", 1), snapshot=0, reads=[key("x")]) == TooOld()


def test_busy_at_the_bound(desk):
    """More prepared transactions would only wait for each other; finishing one makes room."""
    for n in range(limits.PREPARED):
        assert isinstance(desk.prepare(f"c{n}", write(f"r{n}", 1)), Prepared)
    assert desk.prepare("more", write("more", 1)) == Busy()
    desk.finish(5)
    assert isinstance(desk.prepare("more", write("more", 1)), Prepared)


# --- durability ------------------------------------------------------------------------------------------------------


def test_the_journal_entry_travels_with_the_answer(desk):
    """A shell makes the journal of an Effects durable before it sends the answers of the same Effects."""
    desk.prepare("a", write("x", {"n": 1}), user="ann")
    block, put = desk.last.journal
    assert block == PutBlock(limits.TXID_BLOCK)
    assert isinstance(put, PutRecord)
    assert (put.record.txid, put.record.sid, put.record.user, put.record.phase) == (1, "a/1", "ann", "prepared")
    assert bytes(put.record.writes[0].data) == b'{"n":1}'
    assert desk.last.answers == [(1, Prepared(1, "a/1", 1))]
    desk.finish(1)
    assert [entry.record.phase for entry in desk.last.journal] == ["committed"]


def test_a_refused_prepare_leaves_nothing_in_the_journal(desk):
    """A conflict takes no number and no entry."""
    desk.prepare("a", write("x", 1))
    desk.prepare("b", write("x", 1))
    assert desk.last.journal == []
    assert desk.prepare("c", write("y", 1)).txid == 2


def test_txids_are_reserved_in_blocks(desk):
    """A block entry precedes the first use of each of its txids."""
    reserved = 0
    for n in range(2 * limits.TXID_BLOCK + 2):
        desk.commit(f"c{n}", write("x", n))
    for entry in desk.journal:
        if isinstance(entry, PutBlock):
            assert entry.last_txid > reserved
            reserved = entry.last_txid
        elif isinstance(entry, PutRecord):
            assert entry.record.txid <= reserved
    assert reserved == 3 * limits.TXID_BLOCK


def test_a_record_survives_the_journal(desk):
    """What is written is what is read back: change events of a crash come from it."""
    desk.prepare("a", write("x", {"n": 1}), write("y"), idempotent=True, result='{"r":1}')
    record = desk.records()[0]
    again = msgspec.json.decode(msgspec.json.encode(record), type=type(record))
    assert again == record
    assert [w.deletes for w in again.writes] == [False, True]


# --- in doubt --------------------------------------------------------------------------------------------------------


def test_a_deadline_asks_for_the_fence(desk):
    """A worker that died leaves a prepared transaction; nobody needs to wait for it to be resolved."""
    desk.prepare("dead", write("x", 1))
    assert desk.coordinator.next_tick() == desk.now + limits.APPLY_DEADLINE_MS
    desk.wait(limits.APPLY_DEADLINE_MS - 1)
    assert desk.resolves == []
    desk.wait(1)
    assert desk.resolves == [Resolve("dead/1", 1)]
    desk.wait(60_000)
    assert desk.resolves == [Resolve("dead/1", 1)], "one question at a time"


def test_waiters_have_250_ms_of_patience(desk):
    """A dead worker must not hold up others for its whole deadline; and nobody asks before that."""
    desk.prepare("dead", write("x", 1))
    desk.prepare("live", write("y", 1))
    live = desk.finish(2)
    desk.wait(limits.WAITERS_PATIENCE_MS - 1)
    assert desk.resolves == []
    desk.wait(1)
    assert desk.resolves == [Resolve("dead/1", 1)]
    desk.resolved(1, -1)
    assert desk.answers[live] == Committed(2)


def test_nobody_waits_for_what_is_above(desk):
    """Patience ends for transactions at or below the awaited one only."""
    desk.prepare("first", write("x", 1))
    desk.prepare("later", write("y", 1))
    desk.send(Begin("r", after=1))
    desk.wait(limits.WAITERS_PATIENCE_MS)
    assert desk.resolves == [Resolve("first/1", 1)]


def test_the_fence_says_committed(desk):
    """A worker that lost the reply hears that its transaction is in the database."""
    desk.prepare("a", write("x", 1))
    ticket = desk.finish(1, applied=False)
    assert desk.resolves == [Resolve("a/1", 1)]
    assert ticket not in desk.answers
    desk.resolved(1, 1)
    assert desk.answers[ticket] == Committed(1)
    assert [record.txid for record in desk.published] == [1]
    assert desk.prepare("b", write("y", 1), snapshot=0, reads=[key("x")]) == Conflict(PTR, 1, "x")


def test_the_fence_says_aborted(desk):
    """The watermark goes past it, and nothing of it is published."""
    desk.prepare("a", write("x", 1))
    ticket = desk.finish(1, applied=False)
    desk.resolved(1, -1)
    assert desk.answers[ticket] == Aborted(1)
    assert desk.published == []
    assert desk.begin() == Began(1, 1)
    assert [record.phase for record in desk.records()] == ["aborted"]


def test_an_unreadable_fence_is_in_doubt_and_asked_again(desk):
    """Waiters hear the truth, which is that nobody knows; the question is repeated until the database answers."""
    desk.prepare("a", write("x", 1))
    ticket = desk.finish(1, applied=False)
    desk.resolved(1, None)
    assert desk.answers[ticket] == InDoubt(1)
    assert desk.begin() == Began(0, 1)
    desk.wait(limits.RESOLVE_RETRY_MS - 1)
    assert len(desk.resolves) == 1
    desk.wait(1)
    assert len(desk.resolves) == 2
    desk.resolved(1, 1)
    assert desk.begin() == Began(1, 1)


def test_a_commit_that_was_read_beats_a_pending_question(desk):
    """APPLIED may arrive while the fence is being read; the answer that agrees changes nothing."""
    desk.prepare("a", write("x", 1))
    desk.finish(1, applied=False)
    ticket = desk.finish(1)
    assert desk.answers[ticket] == Committed(1)
    desk.resolved(1, 1)
    assert [record.txid for record in desk.published] == [1]


def test_a_contradiction_is_not_smoothed_over(desk):
    """The fence says never, and a worker says that it read a commit: one of them is wrong."""
    desk.prepare("low", write("y", 1))
    desk.prepare("a", write("x", 1))
    desk.finish(2, applied=False)
    desk.resolved(2, -2)
    with pytest.raises(ProtocolError, match="aborted cannot meet applied"):
        desk.finish(2)
    with pytest.raises(ProtocolError, match="never prepared"):
        desk.finish(3)


def test_a_repeated_finish_gets_an_answer(desk):
    """The reply of a finish may be lost, and it is sent again."""
    desk.commit("a", write("x", 1))
    assert desk.answers[desk.finish(1)] == Committed(1)
    assert desk.answers[desk.finish(1, applied=False)] == InDoubt(1)
    assert [record.txid for record in desk.published] == [1]


def test_a_caller_who_has_gone_is_not_answered(desk):
    """Its ticket may not stay, and its waiting may not hurry anybody."""
    desk.prepare("dead", write("x", 1))
    ticket = desk.send(Begin("r", after=1))
    desk.coordinator.forget_caller(ticket)
    desk.wait(limits.VISIBILITY_WAIT_MS)
    assert ticket not in desk.answers
    assert desk.resolves == []


# --- superseding -----------------------------------------------------------------------------------------------------


def test_a_worker_that_met_another_epoch_makes_the_coordinator_look(desk):
    """FENCED is a report, not a fact: the epoch row decides."""
    desk.prepare("a", write("x", 1))
    desk.send(Finish(1, 1, applied=False, fenced=True))
    assert desk.epoch_checks == 1
    desk.take(desk.coordinator.epoch_read(1, desk.now))
    assert desk.begin() == Began(0, 1)


def test_a_superseded_coordinator_stops(desk):
    """Everybody who waits and everybody who comes hears so; it never asks for anything again."""
    desk.prepare("a", write("x", 1))
    desk.prepare("b", write("y", 1))
    waiter, held = desk.finish(2), desk.send(Begin("r", after=2))
    desk.take(desk.coordinator.epoch_read(7, desk.now))
    assert desk.answers[waiter] == desk.answers[held] == Fenced(7)
    for message in (Begin("c"), Prepare("c", [write("z", 1)]), Finish(1, 1, applied=True), Leave("c"), Status()):
        assert desk.ask(message) == Fenced(7)
    assert desk.coordinator.next_tick() is None
    assert desk.last.journal == []
    desk.resolved(1, 1)
    assert desk.published == []


def test_a_snapshot_is_given_only_by_who_was_in_charge_a_moment_ago(desk):
    """A successor would collect, after its retention, what the snapshots of this one show."""
    desk.now += limits.EPOCH_TRUST_MS - 1
    assert desk.begin() == Began(0, 1)
    desk.now += 1
    held = [desk.send(Begin("a")), desk.send(Begin("b"))]
    assert not desk.answers.keys() & set(held)
    assert desk.epoch_checks == 1, "one question for all"
    assert desk.coordinator.next_tick() is None, "nothing to do before the answer"
    desk.take(desk.coordinator.epoch_read(1, desk.now + 500))
    assert [desk.answers[ticket] for ticket in held] == [Began(0, 1)] * 2
    desk.now += limits.EPOCH_TRUST_MS - 1  # counted from the question, not from the answer
    assert desk.begin() == Began(0, 1)
    desk.now += 1
    assert desk.begin() is None
    assert limits.EPOCH_TRUST_MS + limits.LEASE_MS < limits.RETENTION_MS


def test_a_reader_learns_that_its_coordinator_is_superseded(desk):
    desk.now += limits.EPOCH_TRUST_MS
    held = desk.send(Begin("a"))
    desk.take(desk.coordinator.epoch_read(2, desk.now))
    assert desk.answers[held] == Fenced(2)


def test_an_applied_transaction_shows_who_is_in_charge(desk):
    """Its apply met our epoch after it was prepared: an owner that writes is never asked for its epoch."""
    desk.now += limits.EPOCH_TRUST_MS - 10
    txid = desk.prepare("w", write("x", 1)).txid
    desk.now += 20
    desk.finish(txid)
    desk.now += limits.EPOCH_TRUST_MS - 21
    assert desk.begin() == Began(txid, 1)
    desk.now += 1
    assert desk.begin() is None


def test_no_snapshot_while_the_epoch_cannot_be_read(desk):
    desk.now += limits.EPOCH_TRUST_MS
    held = desk.send(Begin("a"))
    desk.take(desk.coordinator.epoch_read(None, desk.now))
    assert isinstance(desk.answers[held], Unready)
    assert desk.begin() is None
    assert desk.epoch_checks == 2, "the next one asks again"


async def test_a_coordinator_from_a_journal_asks_before_it_shows_anything():
    """It may have been superseded while it was away; it need not ask for those who only write."""
    desk = Desk()
    desk.coordinator = await recovery.start("acme", Saved(1, 0, [], order={}), store=None)
    desk.take(desk.coordinator.recover(desk.now))
    assert desk.prepare("w", write("x", 1)).txid == 1
    assert desk.epoch_checks == 0
    assert desk.begin() is None
    assert desk.epoch_checks == 1


# --- recovery --------------------------------------------------------------------------------------------------------


def crashed() -> Desk:
    """A desk whose coordinator left T=1 committed, T=2 and T=3 prepared, T=4 finished above them."""
    desk = Desk()
    desk.commit("one", write("a", {"n": 1}))
    desk.prepare("two", write("b", {"n": 2}))
    desk.prepare("three", write("c", {"n": 3}))
    desk.prepare("four", write("d", {"n": 4}))
    desk.finish(4)
    return desk


def restarted(old: Desk) -> Desk:
    block = max(entry.last_txid for entry in old.journal if isinstance(entry, PutBlock))
    return Desk(last_txid=block, journal=old.records(), now=old.now + 5)


def test_after_a_restart_begins_wait_for_what_was_prepared():
    """A snapshot older than one handed out before would let a reader go back in time."""
    desk = restarted(crashed())
    assert desk.resolves == [Resolve("two/1", 2), Resolve("three/1", 3)]
    held = desk.send(Begin("r"))
    assert desk.prepare("x", write("b", 0)) == Conflict(PTR, 2, "b"), "its keys stay locked"
    desk.wait(50_000)
    desk.resolved(2, 2)
    assert held not in desk.answers
    desk.resolved(3, -3)
    assert desk.answers[held] == Began(limits.TXID_BLOCK, 1)
    assert [record.txid for record in desk.published] == [2], "its change events come from the journal"


def test_after_a_restart_txids_go_on_above_the_block():
    """A txid is never given twice, even if the last journal entries were lost."""
    old = crashed()
    desk = restarted(old)
    assert desk.prepare("blind", write("z", 1)).txid == limits.TXID_BLOCK + 1
    again = restarted(desk)
    assert again.prepare("blind", write("z", 1)) == Conflict(PTR, limits.TXID_BLOCK + 1, "z")
    assert again.prepare("blind", write("zz", 1)).txid == 2 * limits.TXID_BLOCK + 1


def test_a_record_above_the_block_counts():
    """Whatever the journal shows to be in use is not given again, even if the entry of its block is missing."""
    desk = Desk(last_txid=2, journal=crashed().records())
    assert desk.prepare("blind", write("z", 1)).txid == 5


def test_after_a_restart_without_the_database_begins_are_told():
    """Holding them back until the database returns would only run into their time limit."""
    desk = restarted(crashed())
    held = desk.send(Begin("r"))
    desk.resolved(2, None)
    assert desk.answers[held] == Unready("the database does not answer")
    desk.resolved(3, 3)
    held = desk.send(Begin("r"))
    desk.wait(limits.RESOLVE_RETRY_MS)
    assert desk.resolves[-1] == Resolve("two/1", 2)
    desk.resolved(2, 2)
    assert isinstance(desk.answers[held], Began)


def test_a_blind_write_during_recovery_is_not_lost():
    """It needs no snapshot; it becomes visible after what came before."""
    desk = restarted(crashed())
    txid = desk.prepare("blind", write("z", 1)).txid
    ticket = desk.finish(txid)
    assert ticket not in desk.answers
    desk.resolved(2, -2)
    desk.resolved(3, -3)
    assert desk.answers[ticket] == Committed(txid)


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_a_begin_waits_until_the_winner_is_visible(desk):
    """A retry that began before would lose to the same transaction again."""
    desk.prepare("winner", write("x", 1))
    held = desk.send(Begin("loser", after=1))
    assert held not in desk.answers
    desk.finish(1)
    assert desk.answers[held] == Began(1, 1)


def test_a_begin_waits_two_seconds_at_most(desk):
    """Then it starts with what there is: validation, not waiting, is what keeps order."""
    desk.prepare("stuck", write("x", 1))
    held = desk.send(Begin("loser", after=1))
    desk.wait(limits.VISIBILITY_WAIT_MS - 1)
    assert held not in desk.answers
    desk.wait(1)
    assert desk.answers[held] == Began(0, 1)


def test_a_begin_does_not_wait_for_a_txid_that_nobody_has(desk):
    """A number from another life, or a hostile one, must not cost two seconds."""
    assert desk.begin(after=10**9) == Began(0, 1)


# --- reservations ----------------------------------------------------------------------------------------------------


def lose(desk: Desk, call: str, times: int = limits.CONFLICTS_BEFORE_RESERVING) -> None:
    """Make ``call`` lose a row "hot" to somebody prepared, ``times`` in a row."""
    winner = desk.prepare(f"winner of {call}", write("hot", 0))
    for attempt in range(1, times + 1):
        assert isinstance(desk.prepare(call, write("hot", 1), snapshot=0, attempt=attempt), Conflict)
    if isinstance(winner, Prepared):
        desk.finish(winner.txid)


def test_without_a_conflict_nothing_is_reserved(desk):
    """The line is for those who have lost."""
    desk.commit("a", write("hot", 1))
    assert isinstance(desk.prepare("b", write("hot", 1)), Prepared)


def test_a_conflict_reserves_the_keys(desk):
    """Others' writes are refused, even blind ones; the holder goes through; then the key is free."""
    lose(desk, "a")
    assert desk.prepare("b", write("hot", 1)) == Conflict(PTR, 1, "hot", reserved=True)
    assert isinstance(desk.prepare("c", write("cold", 1), snapshot=1, reads=[key("hot")]), Prepared), "reads are free"
    assert desk.begin("a") == Began(1, 1)
    txid = desk.prepare("a", write("hot", 2), snapshot=1, reads=[key("hot")], attempt=4).txid
    desk.finish(txid)
    desk.ask(Leave("b"))
    assert isinstance(desk.prepare("d", write("hot", 1)), Prepared)


def test_the_line_keeps_the_order_of_arrival(desk):
    """Whoever was refused for a reservation waits behind it, and its begin is held until its turn."""
    lose(desk, "a")
    assert desk.prepare("b", write("hot", 1)).reserved
    assert desk.prepare("c", write("hot", 1)).reserved
    first, third, second = (desk.send(Begin(call)) for call in ("a", "c", "b"))
    assert first in desk.answers
    assert {second, third} & desk.answers.keys() == set()
    desk.finish(desk.prepare("a", write("hot", 2)).txid)
    assert second in desk.answers
    assert third not in desk.answers
    desk.finish(desk.prepare("b", write("hot", 2)).txid)
    assert third in desk.answers


def test_a_reservation_expires(desk):
    """A holder that died blocks its keys for two seconds of its turn, no longer."""
    lose(desk, "a")
    desk.begin("a")
    desk.wait(limits.RESERVATION_MS - 1)
    assert desk.prepare("b", write("hot", 1)).reserved
    desk.wait(1)
    assert isinstance(desk.prepare("d", write("hot", 1), attempt=1), Conflict), "b is in line now"
    desk.ask(Leave("b"))
    desk.ask(Leave("d"))
    assert isinstance(desk.prepare("e", write("hot", 1)), Prepared)


def test_leaving_gives_up_the_place(desk):
    """A call that ends without a commit must not keep others waiting."""
    lose(desk, "a")
    held = desk.prepare("b", write("hot", 1))
    assert held.reserved
    turn = desk.send(Begin("b"))
    assert turn not in desk.answers
    assert desk.ask(Leave("a")) == Left()
    assert turn in desk.answers


def test_losing_over_a_predicate_reserves_the_table(desk):
    """Rows that do not exist yet cannot be reserved one by one."""
    desk.commit("winner", write("x", {"n": 1}))
    for attempt in range(1, 4):
        desk.prepare("a", write("mine", 1), snapshot=0, predicates=[predicate()], attempt=attempt)
    assert desk.prepare("b", write("any row", 1)) == Conflict(PTR, 1, None, reserved=True)
    assert isinstance(desk.prepare("c", write("x", 1, ptr="other")), Prepared)


def test_thirty_two_clients_and_one_counter(desk):
    """All of them commit, each within 10 attempts, however they interleave."""
    dice = random.Random(5)
    attempts = {f"c{n}": 0 for n in range(32)}
    snapshots: dict[str, int] = {}
    tickets: dict[str, int] = {}
    prepared: list[tuple[str, int]] = []
    left = set(attempts)
    for call in attempts:
        tickets[call] = desk.send(Begin(call))
    for _ in range(20_000):
        if not left:
            break
        desk.wait(1)
        for call, ticket in list(tickets.items()):
            if ticket in desk.answers:
                snapshots[call] = desk.answers[ticket].snapshot
                del tickets[call]
        if prepared and dice.random() < 0.5:
            call, txid = prepared.pop()
            desk.finish(txid)
            left.discard(call)
        elif snapshots:
            call = dice.choice(sorted(snapshots))
            snapshot = snapshots.pop(call)
            attempts[call] += 1
            answer = desk.prepare(call, write("n", 1), snapshot=snapshot, reads=[key("n")], attempt=attempts[call])
            if isinstance(answer, Prepared):
                prepared.append((call, answer.txid))
            else:
                tickets[call] = desk.send(Begin(call, after=answer.txid))
    assert left == set()
    assert max(attempts.values()) <= 10


# --- idempotent calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "memory"),
    [
        ("idem-1", limits.FENCE_RETENTION_MS),
        ("auto-1", limits.CLIENT_KEY_MS),
        ("ray-1", 2 * limits.RAYSTREAM_FRESH_MS),
    ],
)
def test_a_coordinator_says_when_it_cannot_know(call, memory):
    """For as long as calls of before its journal may be repeated; of calls without a key it need not know."""
    desk = Desk(now=1_000_000)
    desk.coordinator.since = 1_000_000
    assert desk.ask(Begin(call, idempotent=True)) == Began(0, 1, unsure=True)
    assert desk.ask(Begin(call)) == Began(0, 1)
    desk.now += memory - 1
    desk.take(desk.coordinator.epoch_read(1, desk.now))
    desk.coordinator._in_charge_at = desk.now
    assert desk.ask(Begin(call, idempotent=True)) == Began(0, 1, unsure=True)
    desk.now += 1
    assert desk.ask(Begin(call, idempotent=True)) == Began(0, 1)


def test_two_calls_of_one_key_that_write_nothing_are_one():
    """The fence is the row that they write."""
    desk = Desk()
    first = desk.prepare("key", fence_of("key"), idempotent=True, result="1")
    assert desk.ask(Begin("key", idempotent=True)) == Conflict(FENCES, first.txid, reserved=True)
    again = Prepare("key", [fence_of("key")], idempotent=True, result="2")
    assert desk.ask(again) == Conflict(FENCES, first.txid, reserved=True)
    assert isinstance(desk.prepare("other", fence_of("other"), idempotent=True, result="3"), Prepared)
    desk.finish(first.txid)
    assert desk.ask(again, desk.records()[0]) == Replayed(first.txid, "1")


def test_a_repeated_call_gets_the_first_result(desk):
    """From the journal's record: at begin, and at prepare for blind writes."""
    desk.finish(desk.prepare("key", write("x", 1), idempotent=True, result="42").txid)
    known = desk.records()[0]
    assert desk.ask(Begin("key", idempotent=True), known) == Replayed(1, "42")
    assert desk.ask(Prepare("key", [write("x", 1)], idempotent=True), known) == Replayed(1, "42")
    assert isinstance(desk.ask(Begin("key"), known), Began), "only calls that carry a key are replayed"


def test_a_repeated_call_waits_for_the_first_one_under_way(desk):
    """It must neither apply a second time nor claim a result that does not exist yet."""
    desk.prepare("key", write("x", 1), idempotent=True, result="42")
    known = desk.records()[0]
    assert desk.ask(Begin("key", idempotent=True), known) == Conflict(PTR, 1, reserved=True)
    assert desk.ask(Prepare("key", [write("y", 1)], idempotent=True), known) == Conflict(PTR, 1, reserved=True)
    desk.finish(1)
    assert desk.ask(Begin("key", idempotent=True), desk.records()[0]) == Replayed(1, "42")


def test_a_repeated_call_runs_again_after_an_abort_under_another_fence(desk):
    """The first fence says never, for good: the second prepare needs a fence of its own."""
    assert desk.prepare("key", write("x", 1), idempotent=True, result="1").sid == "key/1"
    desk.finish(1, applied=False)
    desk.resolved(1, -1)
    known = desk.records()[0]
    assert known.phase == Phase.ABORTED.value
    answer = desk.ask(Prepare("key", [write("x", 1)], idempotent=True, result="2"), known)
    assert answer == Prepared(2, "key/2", 1)


def test_a_restart_remembers_a_call_under_way():
    """The journal's prepared record stands for it until the fence is read."""
    desk = Desk()
    desk.prepare("key", write("x", 1), idempotent=True, result="42")
    again = restarted(desk)
    assert again.ask(Prepare("key", [write("x", 1)], idempotent=True), desk.records()[0]) == Conflict(
        PTR, 1, reserved=True
    )


def test_without_the_journal_the_fence_stops_a_second_apply():
    """The fence of the first apply has the same sid, so a coordinator that lost its journal learns that it happened."""
    desk = Desk(last_txid=100)
    answer = desk.ask(Prepare("key", [write("x", 1)], idempotent=True, result="1", attempt=3))
    assert answer == Prepared(101, "key/1", 1), "numbered by fences, not by attempts: else the fence is missed"
    ticket = desk.finish(101, applied=False)
    desk.resolved(101, 57)
    assert desk.answers[ticket] == Replayed(57, None)
    assert desk.coordinator.watermark == 101
    assert [record.phase for record in desk.records()] == ["aborted"]


# --- time ------------------------------------------------------------------------------------------------------------


def test_old_records_are_dropped_in_the_background(desk):
    """Events for an hour or 10,000 transactions, idempotency keys for a day; at most once per lease time."""
    desk.now += limits.LEASE_MS
    effects = desk.take(desk.coordinator.tick(desk.now))
    assert effects.journal == [
        Drop(
            -limits.EVENT_LOG_TRANSACTIONS,
            desk.now - limits.EVENT_LOG_MS,
            desk.now - limits.FENCE_RETENTION_MS,
            desk.now,
        )
    ]
    assert desk.take(desk.coordinator.tick(desk.now + 1)).journal == []


def test_a_session_that_was_ended_is_refused_with_the_messages_it_sends_anyway(desk):
    """Begin and prepare say no, to it alone; a restart remembers, and forgets when its tokens have expired."""
    until = desk.now + 10 * limits.LEASE_MS
    assert desk.ask(EndSession("s1", until)) == SessionEnded()
    assert desk.ask(Begin("c", session="s1")) == SessionEnded()
    assert desk.prepare("c", write("x", 1), session="s1") == SessionEnded()
    assert desk.ask(CheckSession("s1")) == SessionEnded()
    assert desk.ask(CheckSession("s2")) == SessionAlive()
    assert isinstance(desk.ask(Begin("c", session="s2")), Began)
    assert isinstance(desk.ask(Begin("c")), Began)
    assert PutEnded("s1", until) in desk.journal

    again = Coordinator(1, 5, ended={"s1": until})
    effects = again.handle(1, CheckSession("s1"), desk.now)
    assert effects.answers == [(1, SessionEnded())]
    desk.now = until
    desk.take(desk.coordinator.tick(desk.now))
    assert desk.ask(CheckSession("s1")) == SessionAlive()


def test_the_numbers_can_be_asked_for(desk):
    """Operators and tests see the state without touching it."""
    desk.commit("a", write("x", 1))
    desk.prepare("b", write("y", 1))
    report = desk.ask(Status())
    assert (report.epoch, report.next_txid, report.watermark, report.prepared, report.write_log) == (1, 3, 1, 1, 1)
    assert not report.fenced


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_no_shell_spins_and_everybody_is_answered(seed):
    """Random messages, crashes of workers and an unreliable database: time goes on and nobody waits for ever."""
    dice = random.Random(seed)
    desk = Desk(now=dice.randint(0, 10**12))
    prepared: dict[int, str] = {}
    fences: dict[str, int] = {}
    told: list[int] = []
    asked: list[int] = []

    def ask_database() -> None:
        for question in desk.resolves:
            if dice.random() < 0.2:
                desk.resolved(question.txid, None)
            else:
                desk.resolved(question.txid, fences.setdefault(question.sid, -question.txid))
        desk.resolves.clear()
        questions, desk.epoch_checks = desk.epoch_checks, 0
        for _ in range(questions):
            desk.take(desk.coordinator.epoch_read(dice.choice([None, 1, 1, 1]), desk.now))

    for step in range(150):
        what = dice.random()
        call = f"c{dice.randint(0, 9)}"
        row = f"r{dice.randint(0, 4)}"
        if what < 0.25:
            asked.append(desk.send(Begin(call, after=dice.randint(0, step))))
        elif what < 0.6:
            snapshot = dice.choice([None, desk.coordinator.watermark, max(0, desk.coordinator.watermark - 3)])
            answer = desk.prepare(
                call if dice.random() < 0.5 else f"{call}-{step}", write(row, step), snapshot=snapshot,
                reads=[key(f"r{dice.randint(0, 4)}")], attempt=dice.randint(1, 6),
                predicates=[predicate(whole=True)] if dice.random() < 0.2 else [],
            )  # fmt: skip
            if isinstance(answer, Prepared):
                prepared[answer.txid] = f"{step}:{answer.sid}"
        elif what < 0.85 and prepared:
            txid = dice.choice(sorted(prepared))
            del prepared[txid]
            sid = next((r.sid for r in desk.records() if r.txid == txid), "")
            if fences.setdefault(sid, txid) == txid:
                told.append(desk.finish(txid, applied=dice.random() < 0.8))
            elif dice.random() < 0.5:
                told.append(desk.finish(txid, applied=False))
        else:
            desk.wait(dice.choice([1, 20, 300, 2_500]))
            if dice.random() < 0.7:
                ask_database()
        due = desk.coordinator.next_tick()
        if due is not None:
            later = max(due, desk.now)
            desk.take(desk.coordinator.tick(later))
            desk.now = later
            again = desk.coordinator.next_tick()
            assert again is None or again > later, "a shell would spin"
    for _ in range(30):
        desk.wait(2_000)
        ask_database()
    assert desk.coordinator.unfinished == 0
    assert [ticket for ticket in [*asked, *told] if ticket not in desk.answers] == []
    published = [record.txid for record in desk.published]
    assert published == sorted(set(published))


def test_a_snapshot_of_another_epoch_is_too_old_whatever_its_number():
    """Numbers of a coordinator that lost its journal say nothing about what this one remembers."""
    desk = Desk(epoch=2)
    desk.commit("first", write("x", 1))
    assert desk.prepare("late", write("y", 1), snapshot=desk.coordinator.watermark, epoch=1) == TooOld()
    assert desk.prepare("fresh", write("y", 1), snapshot=desk.coordinator.watermark).txid == 2
