"""What a log adds up to: the same on every node, whatever its hash seed, and from whichever checkpoint it began."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
from weakref import WeakKeyDictionary

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from kontract.coordination.replica import Replica
from kontract.coordination.states import StoppedError
from kontract.core.events import Subscription
from kontract.core.messages import (
    Began,
    Begin,
    Committed,
    Conflict,
    EndSession,
    Finish,
    Key,
    Leave,
    Predicate,
    Prepare,
    Prepared,
    Replayed,
    Unready,
    Write,
    encode,
)
from kontract.core.protocol import commands
from kontract.core.protocol.commands import Ask, CommandBatch, Forget, Resolved, Start, Tick
from kontract.core.protocol.machine import Machine, NewerVersionError, ticket_of
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.transaction import fences
from kontract.core.types import Bound, Order, RowPosition, Span
from kontract.ports import CoordinatorUnavailableError, FeedClosedError
from kontract.ports.shared_log import Checkpoint, Entry, Last
from kontract.server.feed import LocalFeed
from kontract.server.shared_log.memory import MemoryLog
from kontract.server.system import SystemClock

PTR = "tbl_x"

encode_batch = msgspec.json.encode

DIGEST = "33ecebee625b4cf5df993f654bf7e66b1ec154a15ea4f63e2e4acac07abd1a5f"
"""Of the answers and the state that `story` leads to. When a change of the code changes it, nodes from before and after
it must not replay each other's logs: raise VERSION in coordination/commands.py, say so in CHANGELOG.md, and put the new
value here. (Fields that nodes of the release before pass over, and that change nothing which they decide, need no
other VERSION: `test_the_numbers_of_rows_change_nothing_else` is an example.)"""


def write(row: str, value: int, seen: int | None = None) -> Write:
    return Write("x", PTR, row, seen, Raw(b'{"v":%d}' % value))


def story(seed: int = 1, batches: int = 400) -> list[Entry]:
    """A log of three nodes: conflicts, idempotent calls, sessions that end, outcomes reported and found out."""
    dice = random.Random(seed)
    model = Machine()
    entries: list[Entry] = []
    numbers = {f"n{n}": 0 for n in range(3)}
    prepared: list[Prepared] = []
    now, ticket = 1_000_000, 0

    def append(node: str, *given: commands.Command) -> None:
        nonlocal prepared
        numbers[node] += 1
        entry = Entry(len(entries) + 1, now, encode_batch(CommandBatch(node, numbers[node], list(given))))
        entries.append(entry)
        prepared += [answer for _, answer in model.apply(entry).answers if isinstance(answer, Prepared)]

    append("n0", Start(1, 0, "g1"))
    for _ in range(batches):
        now += dice.choice((1, 20, 400, 9_000))
        node = dice.choice(list(numbers))
        given: list[commands.Command] = []
        for _ in range(dice.randint(1, 3)):
            ticket += 1
            row, call = f"r{dice.randint(0, 5)}", f"call{dice.randint(0, 60)}"
            snapshot = model.coordinator.watermark if model.coordinator else 0
            what = dice.random()
            if what < 0.5:
                reads = [Key(PTR, f"r{dice.randint(0, 5)}")]
                contains = Predicate(PTR, Raw(b'{"v":%d}' % dice.randint(0, 3)))
                request = Prepare(
                    call,
                    [write(row, dice.randint(0, 3))],
                    "u",
                    snapshot=snapshot - dice.randint(0, 2) if snapshot > 2 else None,
                    epoch=1,
                    reads=reads if dice.random() < 0.5 else [],
                    predicates=[contains] if dice.random() < 0.3 else [],
                    idempotent=dice.random() < 0.3,
                    result='"r"',
                )
                given.append(Ask(ticket, request))
            elif what < 0.7 and prepared:
                one = prepared.pop(dice.randrange(len(prepared)))
                given.append(Ask(ticket, Finish(one.txid, one.epoch, dice.random() < 0.8)))
            elif what < 0.8:
                given.append(Ask(ticket, Begin(call, after=snapshot + dice.randint(0, 2))))
            elif what < 0.85:
                given.append(Ask(ticket, Leave(call)))
            elif what < 0.9:
                given.append(Ask(ticket, EndSession(f"s{ticket}", now + 60_000)))
            elif what < 0.95:
                given.append(Forget([ticket - 1]))
            else:
                given.append(Tick())
        given += [
            Resolved(txid, txid if dice.random() < 0.5 else -txid)
            for txid, live in (model.coordinator._unfinished.items() if model.coordinator else ())
            if live.resolving and dice.random() < 0.5
        ]
        append(node, *given)
    return entries


def decided(text: bytes | str) -> str:
    """What nodes must agree on. Witnesses are a node's own: one that joins by an old checkpoint has none yet.

    ``at`` of the whole, when the last entry was appended, says what the state is about; an old checkpoint lacks it.
    """

    def without(found):
        if isinstance(found, dict):
            return {name: without(value) for name, value in found.items() if name != "witnesses"}
        return [without(value) for value in found] if isinstance(found, list) else found

    return json.dumps({name: value for name, value in without(json.loads(text)).items() if name != "at"})


def outcome(entries: list[Entry]) -> str:
    """A hash of everything that was answered, and of the state at the end."""
    machine = Machine()
    digest = hashlib.sha256()
    for entry in entries:
        step = machine.apply(entry)
        digest.update(
            repr(
                (
                    [(ticket, decided(encode(answer))) for ticket, answer in step.answers],
                    step.failed,
                    step.resolve,
                    [r.txid for r in step.published],
                )
            ).encode()
        )
    digest.update(decided(machine.dump()).encode())
    return digest.hexdigest()


def test_what_a_coordinator_decides_has_not_changed_in_this_version():
    entries = story()
    steps = [step for machine in [Machine()] for entry in entries for step in [machine.apply(entry)]]
    answers = [answer for step in steps for _, answer in step.answers]
    # The story has something in it.
    assert sum(isinstance(answer, Conflict) for answer in answers) > 40
    assert sum(isinstance(answer, Committed) for answer in answers) > 40
    assert sum(len(step.resolve) for step in steps) > 10
    assert outcome(entries) == DIGEST, "see DIGEST in this file: does VERSION have to be raised?"


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_it_does_not_depend_on_hashes(hash_seed):
    """Two processes have different ones; what they replay must come out the same."""
    code = "from core.protocol.test_machine import outcome, story; print(outcome(story(3)))"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(["tests", "src"])}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == outcome(story(3))


@pytest.mark.parametrize("seed", range(4))
def test_from_any_checkpoint_it_comes_to_the_same_state(seed):
    entries = story(seed, 150)
    whole = Machine()
    checkpoints = []
    for entry in entries:
        whole.apply(entry)
        checkpoints.append(Checkpoint(whole.position, whole.dump()))
    for checkpoint in checkpoints[::7]:
        machine = Machine.restore(checkpoint)
        for entry in entries[checkpoint.position :]:
            machine.apply(entry)
        assert machine.dump() == whole.dump()


def test_a_batch_that_comes_again_is_passed_over():
    entries = story(2, 50)
    machine = Machine()
    for entry in entries:
        machine.apply(entry)
    state = machine.dump()
    again = machine.apply(Entry(machine.position + 1, machine.now, entries[-1].batch))
    assert (again.answers, machine.dump()) == ([], state)


def test_a_contradiction_ends_nothing_but_the_message_that_brought_it():
    """All nodes would meet it at the same entry, and never get past it."""
    machine = Machine()
    machine.apply(Entry(1, 1000, encode_batch(CommandBatch("n", 1, [Start(1, 0, "g1")]))))
    prepared = machine.apply(
        Entry(2, 1001, encode_batch(CommandBatch("n", 2, [Ask(1, Prepare("c", [write("a", 1)]))])))
    )
    [(_, answer)] = prepared.answers
    wrong = machine.apply(Entry(3, 1002, encode_batch(CommandBatch("n", 3, [Ask(2, Finish(99, 1, True))]))))
    assert wrong.failed == [ticket_of("n", 2)]
    assert wrong.problems
    assert [question.txid for question in wrong.resolve] == [answer.txid]  # as after a start
    after = machine.apply(Entry(4, 1003, encode_batch(CommandBatch("n", 4, [Resolved(answer.txid, answer.txid)]))))
    assert [record.txid for record in after.published] == [answer.txid]


def test_entries_of_other_versions():
    """Newer ones stop this node; older ones are not replayed: the owner is started anew."""
    entries = story(1, 5)
    machine = Machine()
    newer = replace(commands.decode_batch(entries[0].batch), version=commands.NEWEST + 1)
    with pytest.raises(NewerVersionError):
        machine.apply(Entry(1, 1, encode_batch(newer)))
    assert machine.position == 0
    older = replace(commands.decode_batch(entries[0].batch), version=commands.VERSION - 1)
    assert machine.apply(Entry(1, 1, encode_batch(older))).anew
    assert machine.coordinator is None
    state = machine.dump().replace(b'"version":%d' % commands.VERSION, b'"version":%d' % (commands.NEWEST + 1))
    with pytest.raises(NewerVersionError):
        Machine.restore(Checkpoint(1, state))


@pytest.mark.parametrize(
    ("predicate", "version"),
    [
        (Predicate(PTR), commands.VERSION),
        (Predicate(PTR, Raw(b'{"v":1}'), whole=True), commands.VERSION),
        (Predicate(PTR, bounds=(Bound("v", Order.NUMBER, "<", ("3",)),)), commands.NARROW),
        (Predicate(PTR, span=Span(until=RowPosition("a", "a"))), commands.NARROW),
        (Predicate(PTR, inserts=True), commands.NARROW),
        (Predicate(PTR, whole=True, counted=True), commands.NARROW),
    ],
)
def test_nodes_that_know_only_wider_read_sets_stop(predicate, version):
    """They would decide otherwise. As long as nobody reads so, nodes of both releases run side by side."""
    asked = Ask(1, Prepare("c", [write("a", 1)], predicates=[predicate]))
    batch = commands.encode_batch("n", 1, [commands.encode(Tick()), commands.encode(asked)])
    assert commands.version_of(batch) == version
    assert commands.decode_batch(batch).commands == [Tick(), asked]


def test_a_database_that_has_gone_back_takes_the_memory_of_calls_along():
    """What was answered may be gone. Nodes of the release before would still answer it: they have to stop."""
    machine = Machine()
    machine.apply(Entry(1, 1000, encode_batch(CommandBatch("n", 1, [Start(1, 0, "g1")]))))
    call = Prepare("c", [write("a", 1)], idempotent=True, result="1")
    machine.apply(Entry(2, 1001, encode_batch(CommandBatch("n", 2, [Ask(1, call), Ask(2, Finish(1, 1, True))]))))
    asked = [Ask(3, Begin("c", idempotent=True))]
    again = machine.apply(Entry(3, 1002, encode_batch(CommandBatch("n", 3, asked))))
    assert [answer for _, answer in again.answers] == [Replayed(1, None)]
    leaves = commands.encode_batch("n", 4, [commands.encode(Start(2, 1, "g2", left_behind=True))])
    assert commands.version_of(leaves) > commands.VERSION
    step = machine.apply(Entry(4, 1003, leaves))
    assert (step.left_behind, machine.head.generation) == (True, "g2")
    assert machine.look(Begin("c1", idempotent=True), 1003) is None, "the database may still apply what is of before"
    machine.coordinator.epoch_read(2, 1003)
    machine.coordinator._in_charge_at = 1003
    after = machine.apply(Entry(5, 1004, encode_batch(CommandBatch("n", 5, asked))))
    assert [answer for _, answer in after.answers] == [Began(1, 2, unsure=True)]
    assert commands.version_of(machine.dump()) == commands.version_of(leaves), (
        "a node of before must not begin there either"
    )
    assert Machine.restore(Checkpoint(5, machine.dump())).dump() == machine.dump()
    later = commands.encode_batch("n", 6, [commands.encode(command) for command in asked])
    assert later == encode_batch(CommandBatch("n", 6, asked)), "a batch is what it would be if it were encoded at once"


def test_a_checkpoint_of_the_release_before_has_no_witnesses():
    entries = story(1, 60)
    machine = Machine()
    for entry in entries:
        machine.apply(entry)
    before = Checkpoint(machine.position, decided(machine.dump()).encode())
    assert Machine.restore(before).coordinator.witnesses.all == []
    assert decided(Machine.restore(before).dump()) == decided(machine.dump())


# --- one node's shell, over a log in memory --------------------------------------------------------------------------


class NoDatabase:
    """Answers what a take-over asks: there are no tables yet. The epoch is that of the log's nodes."""

    def __init__(self, epochs: list[int]):
        self.epochs = epochs

    async def run(self, statement):
        if statement.text == fences.RAISE_EPOCH:
            self.epochs.append(statement.params[1])
        if statement.text in (fences.RAISE_EPOCH, fences.READ_EPOCH):
            return [(epoch,) for epoch in self.epochs[-1:]]
        if statement.text == fences.STANDING:
            return [(epoch, 0) for epoch in self.epochs[-1:]]
        return [(0,)] if "max" in statement.text.lower() else []

    is_open = False

    def warm(self):
        pass

    async def aclose(self):
        pass


EPOCHS: WeakKeyDictionary[MemoryLog, list[int]] = WeakKeyDictionary()


def node(log: MemoryLog, name: str) -> Replica:
    epochs = EPOCHS.setdefault(log, [])
    return Replica(
        "acme",
        name,
        log,
        lambda: NoDatabase(epochs),
        SystemClock(),
        lambda *_args, **_fields: None,
        checkpoint_entries=4,
    )


async def commit(replica: Replica, call: str, row: str) -> None:
    prepared = await replica.ask(Prepare(call, [write(row, 1)]))
    assert isinstance(prepared, Prepared)
    assert isinstance(await replica.ask(Finish(prepared.txid, prepared.epoch, True)), Committed)


async def test_entries_of_before_the_log_went_back_are_not_replayed_onto_those_of_after():
    """Two reads are answered in the wrong order: one of before, one of after. Their positions fit each other."""
    log = MemoryLog(SystemClock().now)
    one = node(log, "one")
    await commit(one, "c0", "a")
    machine = one.machine
    tick = encode_batch(CommandBatch("two", 1, [Tick()]))
    start, then = machine.last, machine.last.position
    of_before = [Entry(then + 1, 1, tick), Entry(then + 2, 2, tick)]
    assert one.take(start, [Entry(then + 1, 3, tick)])
    assert not one.take(start, of_before)
    assert not one.take(Last(then + 1, 1), of_before[1:])
    assert machine.last == Last(then + 1, 3)
    assert one.take(start, [Entry(then + 1, 3, tick), Entry(then + 2, 4, tick)])
    assert machine.last == Last(then + 2, 4)


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_node_that_skipped_entries_asks_for_what_it_knew(is_lost, monkeypatch):
    """Others may have gone on with a log that had gone back, and know nothing of what was lost; this node does."""
    log = MemoryLog(SystemClock().now)
    fast, slow = node(log, "fast"), node(log, "slow")
    await commit(slow, "c0", "a")
    witnesses = slow.machine.coordinator.witnesses.sids(SystemClock().now())
    for n in range(1, 12):
        await commit(fast, f"c{n}", "a")
    while fast._tasks:
        await asyncio.wait(list(fast._tasks))
    checkpoint = await log.checkpoint("acme")
    await log.trim("acme", checkpoint.position + 1)
    asked = []

    async def standing(sids):
        asked.append(set(witnesses) <= set(sids))
        return slow.machine.coordinator.epoch, int(is_lost and asked[-1])

    monkeypatch.setattr(slow._questions, "standing", standing)
    before = slow.machine.coordinator.epoch
    assert isinstance(await slow.ask(Begin("c99")), Began)
    assert asked[0]
    assert slow.machine.coordinator.epoch == before + is_lost
    await fast.follow()
    assert slow.machine.dump() == fast.machine.dump()


async def drained(feed: LocalFeed) -> None:
    while True:
        await feed.next(1000)


async def test_a_node_that_skipped_entries_cuts_its_listeners_off():
    """It cannot tell them what it has not seen: they come back, and are given it out of the log."""
    log = MemoryLog(SystemClock().now)
    fast, slow = node(log, "fast"), node(log, "slow")
    await commit(fast, "c0", "a")
    feed = LocalFeed(slow, Subscription(["x"], "u", ""))
    slow.hub.add(feed)
    await feed.resume(None)
    page = await feed.next(1000)
    assert page.live
    for n in range(1, 12):
        await commit(fast, f"c{n}", "a")
    while fast._tasks:
        await asyncio.wait(list(fast._tasks))
    # Everything below the checkpoint goes, as it does when it is old enough.
    checkpoint = await log.checkpoint("acme")
    await log.trim("acme", checkpoint.position + 1)
    await slow.follow()
    assert len(slow.hub) == 0
    with pytest.raises(FeedClosedError):
        await drained(feed)
    await fast.follow()  # the other one has looked, and said so in the log
    assert slow.machine.position == fast.machine.position


async def test_a_node_among_newer_ones_answers_that_it_has_to_be_replaced():
    log = MemoryLog(SystemClock().now)
    old = node(log, "old")
    await commit(old, "c0", "a")
    await log.append("acme", 0, encode_batch(CommandBatch("new", 1, [Tick()], commands.NEWEST + 1)))
    for _ in range(2):
        answer = await old.ask(Begin("c1"))
        assert isinstance(answer, Unready)
        assert "replaced" in answer.reason
    with pytest.raises(FeedClosedError):
        await LocalFeed(old, Subscription(["x"], "u", "")).resume(None)


@pytest.mark.parametrize("where", ["entry", "checkpoint"])
async def test_a_node_that_cannot_replay_says_so_and_keeps_nobody_waiting(where):
    """What is half replayed would decide otherwise than other nodes."""
    log = MemoryLog(SystemClock().now)
    one = node(log, "one")
    await commit(one, "c0", "a")
    if where == "entry":
        one.machine.coordinator.handle = None  # a defect
    else:
        while one._tasks:
            await asyncio.wait(list(one._tasks))
        await log.write_checkpoint("acme", Checkpoint(1000, b'{"version":1}'))
        one = node(log, "two")
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(one.ask(Prepare(f"c{n}", [write("b", n)])) for n in range(3)))
    assert all(isinstance(answer, Unready) for answer in answers)
    if where == "entry":  # the other node, which has no such defect, goes on
        assert isinstance(await node(log, "other").ask(Begin("c9")), Began)


async def test_a_listener_who_waits_is_told_when_the_node_stops():
    """It waits for the coordinator to serve, which this node will never see."""
    log = MemoryLog(SystemClock().now)
    one = node(log, "one")
    await commit(one, "c0", "a")
    one.machine.coordinator.stage = CoordinatorStage.RECOVERING
    feed = LocalFeed(one, Subscription(["x"], "u", ""))
    waiting = asyncio.ensure_future(feed.resume(None))
    while not one.waits:
        await asyncio.sleep(0)
    await log.append("acme", 0, encode_batch(CommandBatch("new", 1, [Tick()], commands.NEWEST + 1)))
    with pytest.raises(StoppedError):
        await one.follow()
    with pytest.raises(FeedClosedError):
        await asyncio.wait_for(waiting, 20)


async def test_a_log_that_fails_in_its_own_way_keeps_nobody_waiting():
    class Failing(MemoryLog):
        async def append(self, owner, after, batch, at=None):
            raise ZeroDivisionError

    one = node(Failing(SystemClock().now), "one")
    with pytest.raises(CoordinatorUnavailableError, match="ZeroDivisionError"):
        await asyncio.wait_for(one.ask(Prepare("c", [write("a", 1)])), 20)


# --- the numbers of rows, which nodes of the release before pass over -------------------------------------------------


def with_numbers(command: commands.Command) -> commands.Command:
    if isinstance(command, Start):
        return replace(command, order={PTR: 40})
    if isinstance(command, Ask) and isinstance(command.request, Prepare):
        return replace(command, request=replace(command.request, order={PTR: 50}))
    return command


def numbered(entries: list[Entry]) -> list[Entry]:
    """The same log, as nodes write it that number rows."""
    more = []
    for entry in entries:
        batch = commands.decode_batch(entry.batch)
        given = [with_numbers(command) for command in batch.commands]
        more.append(Entry(entry.position, entry.at, encode_batch(replace(batch, commands=given))))
    return more


def without_numbers(answer):
    return replace(answer, order={}) if isinstance(answer, Prepared) else answer


def test_the_numbers_of_rows_change_nothing_else():
    """Nodes that know them and nodes that do not come to the same decisions from the same log."""
    entries = story()
    old, new = Machine(), Machine()
    for entry, more in zip(entries, numbered(entries), strict=True):
        before, after = old.apply(entry), new.apply(more)
        assert [(t, without_numbers(a)) for t, a in after.answers] == before.answers
        after.answers = before.answers
        assert after == before
    assert old.coordinator.dump().order is None
    assert new.coordinator.dump().order[PTR] > 50


def test_numbers_rise_with_the_txids():
    entries = numbered(story(5))
    machine = Machine()
    answers = [answer for entry in entries for _, answer in machine.apply(entry).answers]
    firsts = [(a.txid, a.order[PTR]) for a in answers if isinstance(a, Prepared) and a.order]
    assert len(firsts) > 50
    assert firsts == sorted(firsts)
    assert len({first for _, first in firsts}) == len(firsts)
    assert min(firsts)[1] == 51


async def test_a_checkpoint_of_a_release_that_does_not_number_rows_is_a_reason_to_start_anew():
    """Another node may know higher numbers: this one takes the owner over, so that all of them know the same."""
    log = MemoryLog(SystemClock().now)
    one = node(log, "one")
    await commit(one, "c0", "a")
    assert one.machine.coordinator.knows_row_order
    position, state = one.machine.position, one.machine.dump()
    assert b'"order":{"tbl_x":1}' in state
    await log.write_checkpoint("acme", Checkpoint(position, state.replace(b',"order":{"tbl_x":1}', b"")))
    await log.trim("acme", position + 1)
    two = node(log, "two")
    await commit(two, "c1", "b")
    await one.follow()
    assert one.machine.coordinator.epoch == two.machine.coordinator.epoch > 1
    assert one.machine.dump() == two.machine.dump()
