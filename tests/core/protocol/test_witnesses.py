"""Which fences tell that a database has gone back in time, and what a coordinator is to the database that it meets."""

from __future__ import annotations

import itertools
import random

import pytest

from core.desk import Desk, write
from kontract.core import limits
from kontract.core.messages import Began, Begin, Doubt, Finish, Noted, Prepared, WentBack
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.protocol.records import Drop, Record
from kontract.core.protocol.witnesses import Verdict, Witness, Witnesses, of_records, verdict


def record(txid: int, prepared_at: int = 0, settled_at: int = 1, phase: str = "committed") -> Record:
    return Record(txid, f"c{txid}/1", f"c{txid}", "u", phase, prepared_at, 0, [], settled_at=settled_at)


@pytest.mark.parametrize(
    ("epoch", "witnesses", "current", "missing", "found"),
    [
        (3, 1, 3, 0, Verdict.IN_CHARGE),
        (3, 0, 3, 0, Verdict.IN_CHARGE),
        (3, 1, 4, 0, Verdict.SUPERSEDED),
        (3, 1, 4, 1, Verdict.SUPERSEDED),  # its successor may have collected them
        (3, 1, 3, 1, Verdict.LEFT_BEHIND),
        (3, 1, 2, 0, Verdict.LEFT_BEHIND),  # epochs only rise
        (3, 1, 0, 0, Verdict.LEFT_BEHIND),
        (3, 0, 2, 0, Verdict.AWAITED),
        (3, 0, 0, 0, Verdict.AWAITED),
    ],
)
def test_what_a_coordinator_is_to_a_database(epoch, witnesses, current, missing, found):
    assert verdict(epoch, witnesses, current, missing) is found


def test_one_after_the_other_there_is_one_witness():
    """Each commit has found the one before, and stands for it."""
    found = Witnesses()
    for txid in range(1, 50):
        found.add(record(txid), found.sids(1))
        assert [one.txid for one in found.all] == [txid]


def test_commits_at_the_same_time_are_all_witnesses():
    """Any of them may be the last that the database has: none has looked for another."""
    found = Witnesses()
    for txid in (2, 1, 3):
        found.add(record(txid), [])
    assert sorted(found.sids(1)) == ["c1/1", "c2/1", "c3/1"]
    found.add(record(4), found.sids(1))
    assert found.sids(1) == ["c4/1"]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_from_the_end_is_noticed(seed):
    """A model of PostgreSQL: applies take effect in some order, and a copy has a first part of them.

    If the copy lacks anything that was settled, it lacks a witness of that moment.
    """
    dice = random.Random(seed)
    found, applied, settled, running = Witnesses(), [], [], []
    numbers = itertools.count(1)
    for _ in range(120):
        step = dice.random()
        if step < 0.4 and len(running) < 6:
            running.append([next(numbers), found.sids(1), False])
        elif step < 0.7 and any(not one[2] for one in running):
            one = dice.choice([one for one in running if not one[2]])
            one[2] = True
            applied.append(one[0])
        elif done := [one for one in running if one[2]]:
            one = dice.choice(done)
            running.remove(one)
            settled.append(one[0])
            found.add(record(one[0]), one[1])
        for kept in range(len(applied) + 1):
            copy = {f"c{txid}/1" for txid in applied[:kept]}
            lost = any(f"c{txid}/1" not in copy for txid in settled)
            assert any(sid not in copy for sid in found.sids(1)) == lost
    assert len(found.all) <= 7


def test_old_witnesses_are_not_asked_for():
    """Their fences may have been collected; that of the highest commit never is."""
    half = limits.FENCE_RETENTION_MS // 2
    found = Witnesses()
    for txid, at in ((3, 0), (1, 10), (2, half)):
        found.add(record(txid, settled_at=at), [])
    assert found.sids(half - 1) == ["c3/1", "c1/1", "c2/1"]
    assert found.sids(half + 10) == ["c3/1", "c2/1"]
    assert found.sids(10 * half) == ["c3/1"]


def test_they_do_not_pile_up_when_nobody_looks():
    """Workers of the release before look for none."""
    found = Witnesses()
    for txid in range(1, 1_000):
        found.add(record(txid), [])
    assert len(found.all) <= limits.PREPARED
    assert found.highest == 999


def test_after_a_restart_all_that_settled_since_the_highest_was_prepared():
    records = [
        record(1, 10, 20),
        record(2, 12, 40),
        record(3, 30, 35),
        record(4, 33, 50, phase="aborted"),
        record(5, 38, 0, phase="prepared"),
    ]
    assert [one.txid for one in of_records(records)] == [3, 2]
    assert of_records([]) == []


# --- in the coordinator ----------------------------------------------------------------------------------------------


def test_prepare_hands_them_out_and_the_commit_takes_their_place():
    desk = Desk()
    first = desk.prepare("a", write("x", 1))
    assert first == Prepared(1, "a/1", 1)
    desk.send(Finish(1, 1, applied=True, checked=True))
    second = desk.prepare("b", write("x", 1))
    assert second.witnesses == ["a/1"]
    desk.send(Finish(2, 1, applied=True, checked=True))
    assert desk.prepare("c", write("x", 1)).witnesses == ["b/1"]


def test_a_commit_that_has_not_looked_vouches_for_nothing():
    desk = Desk()
    for call in ("a", "b"):
        desk.finish(desk.prepare(call, write("x", 1)).txid, checked=False)
    assert desk.prepare("c", write("x", 1)).witnesses == ["a/1", "b/1"]


def test_they_survive_in_the_journal():
    """The records that they stand in stay, when all others of an idle owner go."""
    desk = Desk()
    for call in ("a", "b"):
        desk.send(Finish(desk.prepare(call, write("x", 1)).txid, 1, applied=True, checked=True))
        desk.now += 1  # within one millisecond there is no telling which was first: then both stay
    desk.wait(2 * limits.EVENT_LOG_MS)
    desk.take(desk.coordinator.tick(desk.now))
    drop = [entry for entry in desk.journal if isinstance(entry, Drop)][-1]
    assert drop.keep == [2]
    again = Coordinator(1, 2, desk.records(), witnesses=of_records(desk.records()))
    assert again.witnesses.sids(desk.now) == ["b/1"]
    assert again.witnesses.all == [Witness("b/1", 2, desk.records()[1].settled_at)]


def test_in_doubt_nothing_is_shown_before_the_database_has_answered():
    desk = Desk()
    assert isinstance(desk.begin(), Began)
    assert desk.ask(Doubt()) == Noted()
    assert desk.epoch_checks == 1
    ticket = desk.send(Begin("reader"))
    assert ticket not in desk.answers
    desk.take(desk.coordinator.epoch_read(1, desk.now))
    assert isinstance(desk.answers[ticket], Began)


def test_everybody_who_waits_is_told_that_the_database_went_back():
    desk = Desk()
    desk.ask(Doubt())
    held = desk.send(Begin("reader"))
    prepared = desk.prepare("a", write("x", 1))
    finish = desk.finish(prepared.txid, applied=False)
    desk.take(desk.coordinator.stop(WentBack(), desk.now))
    assert desk.answers[held] == desk.answers[finish] == WentBack()
    assert desk.coordinator.stage is CoordinatorStage.FENCED
