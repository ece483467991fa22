"""The shared log in TiKV when TiKV misbehaves: lost answers, late requests, nodes that were away, crashes half-way."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from kontract.ports.shared_log import Checkpoint, LogUnavailableError, TrimmedError
from kontract.server.shared_log import tikv as module
from kontract.server.shared_log.tikv import Head, TiKVLog, _Keys
from kontract.server.tikv import connect_tikv
from support.tikv import FakeCluster, Kind

KEYS = _Keys("owner")
SPACE = b"k/"


@pytest.fixture
async def cluster():
    async with FakeCluster.started() as one:
        yield one


@pytest.fixture
async def make(cluster):
    """Makes a log as another node sees it."""
    logs: list[TiKVLog] = []
    time = itertools.count(1)

    def make(timeout: float = 10) -> TiKVLog:
        client = connect_tikv(cluster.endpoints, keyspace=SPACE.decode(), timeout=timeout)
        logs.append(TiKVLog(client.raw, lambda: next(time)))
        return logs[-1]

    yield make
    for log in logs:
        await log.aclose()
    assert cluster.data.mixed == set()


async def filled(log: TiKVLog, count: int) -> None:
    for number in range(1, count + 1):
        await log.append("owner", number - 1, b"%d" % number)


async def batches(log: TiKVLog, after: int = 0) -> list[bytes]:
    entries = await log.read("owner", after)
    assert [entry.position for entry in entries] == list(range(after + 1, after + 1 + len(entries)))
    return [entry.batch for entry in entries]


def there(cluster: FakeCluster, prefix: bytes) -> list[bytes]:
    """The keys in the data that begin with a prefix."""
    start = SPACE + prefix
    return [key for key in cluster.data.keys(start, start + b"\xff" * 40)]  # noqa: C416


@pytest.mark.parametrize("seed", range(8))
async def test_a_storm(cluster, make, seed):
    """Every batch that was answered is in the log once, every other one once at most, and all see one order."""
    cluster.topology.split(SPACE + KEYS.entry(7), SPACE + KEYS.entry(20), SPACE + KEYS.head)
    logs, dice = [make(), make(), make()], random.Random(seed)
    cluster.faults.storm(seed, 0.15, Kind.LOST, Kind.STALE, Kind.STALE_DONE, Kind.UNDETERMINED, Kind.NO_LEADER,
                         Kind.NOT_FOUND, Kind.EPOCH, Kind.REFUSED)  # fmt: skip
    answered: set[bytes] = set()
    unknown: set[bytes] = set()

    async def node(number: int) -> None:
        after = 0
        for n in range(4):
            batch = b"%d/%d" % (number, n) + (b"." * 20_000 if dice.random() < 0.2 else b"")
            try:
                entries = await logs[number % 3].append("owner", after, batch)
            except LogUnavailableError:
                unknown.add(batch)
                continue
            assert batch in [entry.batch for entry in entries]
            answered.add(batch)
            after = entries[-1].position
            if number == 0:
                cluster.topology.lead(SPACE + KEYS.entry(after), dice.choice(cluster.topology.stores))

    await asyncio.gather(*[node(number) for number in range(9)])
    assert cluster.faults.storm_hits > 10
    cluster.faults.calm()
    order = await batches(logs[0])
    assert len(order) == len(set(order)), "a batch is there twice"
    assert answered <= set(order) <= answered | unknown
    assert await batches(make()) == order


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.REFUSED, Kind.STALE, Kind.STALE_DONE, Kind.UNDETERMINED, Kind.LATE])
@pytest.mark.parametrize("size", [10, 50_000])
async def test_an_answer_that_is_lost(cluster, make, kind, size):
    """The log finds out what became of the batch, and appends it if it is not there; once."""
    log = make()
    await log.append("owner", 0, b"first")
    fault = cluster.faults.add(kind, "RawCompareAndSwap")
    batch = b"x" * size
    assert [entry.batch for entry in await log.append("owner", 0, batch)] == [b"first", batch]
    fault.released.set()
    await asyncio.gather(*cluster.faults.late)
    await log.append("owner", 2, b"last")
    assert await batches(make()) == [b"first", batch, b"last"]


async def test_a_request_that_comes_too_late(cluster, make):
    """A batch that was given up is there later, or never: never twice, and never in place of another's."""
    for others_first in (True, False):
        hasty, other = make(timeout=0.3), make()
        end = len(await batches(other))
        late = cluster.faults.add(Kind.LATE, "RawCompareAndSwap")
        unreadable = cluster.faults.add(Kind.REFUSED, "RawGet", times=1000)
        with pytest.raises(LogUnavailableError):
            await hasty.append("owner", end, b"given up")
        unreadable.times = 0
        if others_first:
            await other.append("owner", end, b"other")
        late.released.set()
        await asyncio.gather(*cluster.faults.late)
        expected = b"other" if others_first else b"given up"
        assert await batches(other, end) == [expected]
        assert [entry.batch for entry in await hasty.append("owner", end, b"next")] == [expected, b"next"]
        assert await batches(other, end) == [expected, b"next"]


@pytest.mark.parametrize("size", [10, 50_000])
async def test_a_node_that_was_away(cluster, make, size):
    """It writes where there was something once; nobody takes that for an entry, and nothing of it stays."""
    away, log = make(), make()
    await filled(away, 3)
    for number in range(4, 31):
        await log.append("owner", number - 1, b"%d" % number)
    await log.write_checkpoint("owner", Checkpoint(30, b"state"))
    await log.trim("owner", 25)
    pause = cluster.faults.add(Kind.PAUSED, "RawBatchGet")  # it has written, and goes to look at the head
    append = asyncio.create_task(away.append("owner", 3, b"x" * size))
    await pause.reached.wait()
    assert there(cluster, KEYS.entry(4)), "the point of this test"
    for after in (2, 3):
        with pytest.raises(TrimmedError):
            await make().read("owner", after)
        assert await make().news({"owner": after}) == {"owner": []}
    pause.released.set()
    with pytest.raises(TrimmedError):
        await append
    assert there(cluster, KEYS.entry(4)) == []
    assert await batches(log, 24) == [b"%d" % n for n in range(25, 31)]
    assert [entry.batch for entry in await away.append("owner", 30, b"back")] == [b"back"]


async def test_what_such_a_node_leaves_behind_when_it_dies_goes_with_the_next_trimming(cluster, make):
    """It has written below the floor and looks no more."""
    log, away = make(), make()
    await filled(log, 10)
    await log.write_checkpoint("owner", Checkpoint(10, b"state"))
    await log.trim("owner", 8)
    pause = cluster.faults.add(Kind.PAUSED, "RawBatchGet")
    append = asyncio.create_task(away.append("owner", 3, b"from the past"))
    await pause.reached.wait()
    append.cancel()
    assert there(cluster, KEYS.entry(4))
    await log.trim("owner", 9)
    assert there(cluster, KEYS.entry(4)) == []
    assert await batches(log, 8) == [b"9", b"10"]


@pytest.mark.parametrize("at", [KEYS.entry(3), KEYS.head], ids=["entries", "head"])
async def test_trimming_while_somebody_reads(cluster, make, at):
    """A reader that finds its entries below the floor, or does not find them any more, says that they are gone."""
    log, reader = make(), make()
    await filled(log, 10)
    await log.write_checkpoint("owner", Checkpoint(10, b"state"))
    pause = cluster.faults.add(Kind.PAUSED, matches=lambda key: key == SPACE + at)
    read = asyncio.create_task(reader.read("owner", 2))
    await pause.reached.wait()
    await log.trim("owner", 6)
    pause.released.set()
    with pytest.raises(TrimmedError):
        await read


async def test_news_are_never_missed_by_trimming(cluster, make):
    """Entries asked for after they were deleted, the head before: an answer of "nothing new" would be wrong."""
    log, reader = make(), make()
    await filled(log, 10)
    await log.write_checkpoint("owner", Checkpoint(10, b"state"))
    pause = cluster.faults.add(Kind.PAUSED, "RawBatchGet", matches=lambda key: key == SPACE + KEYS.entry(3))
    news = asyncio.create_task(reader.news({"owner": 2}))
    await pause.reached.wait()
    await log.trim("owner", 6)
    pause.released.set()
    assert await news == {"owner": []}


@pytest.mark.parametrize("crash", ["part", "head"])
async def test_a_crash_in_the_middle_of_a_checkpoint(cluster, make, crash):
    """The old one stays in force; what was written of the new one goes with the next."""
    log, dying = make(), make()
    await filled(log, 5)
    old = Checkpoint(2, b"o" * 3_000_000)
    await log.write_checkpoint("owner", old)
    part = KEYS.parts(4)
    pause = cluster.faults.add(
        Kind.PAUSED,
        "RawPut" if crash == "part" else "RawCompareAndSwap",
        matches=lambda key: key == SPACE + KEYS.head if crash == "head" else key.endswith(b"\0\0\0\2"),
    )
    writing = asyncio.create_task(dying.write_checkpoint("owner", Checkpoint(4, b"n" * 3_000_000)))
    await pause.reached.wait()
    writing.cancel()
    await asyncio.wait([writing])
    assert await make().checkpoint("owner") == old
    assert there(cluster, part)
    await log.write_checkpoint("owner", Checkpoint(5, b"newest"))
    assert len(there(cluster, KEYS.parts(0)[:-8])) == 1, "old ones and pieces are gone"
    assert await make().checkpoint("owner") == Checkpoint(5, b"newest")


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.REFUSED, Kind.UNDETERMINED, Kind.LATE])
async def test_a_checkpoint_whose_answer_is_lost(cluster, make, kind):
    """It is in force, and it is whole: its own parts are not taken for those of another."""
    log = make()
    await filled(log, 3)
    fault = cluster.faults.add(kind, "RawCompareAndSwap", matches=lambda key: key == SPACE + KEYS.head)
    await log.write_checkpoint("owner", Checkpoint(3, b"state" * 500_000))
    assert fault.met == 1
    fault.released.set()
    await asyncio.gather(*cluster.faults.late)
    assert await make().checkpoint("owner") == Checkpoint(3, b"state" * 500_000)


async def test_a_checkpoint_that_is_replaced_while_it_is_read(cluster, make):
    """The reader gets the new one."""
    log, reader = make(), make()
    await filled(log, 5)
    await log.write_checkpoint("owner", Checkpoint(2, b"o" * 3_000_000))
    pause = cluster.faults.add(Kind.PAUSED, "RawBatchGet")
    reading = asyncio.create_task(reader.checkpoint("owner"))
    await pause.reached.wait()
    await log.write_checkpoint("owner", Checkpoint(4, b"n" * 3_000_000))
    pause.released.set()
    assert await reading == Checkpoint(4, b"n" * 3_000_000)


async def test_the_floor_stays_below_the_checkpoint(make):
    """Whatever is asked for: entries that no checkpoint covers are not deleted."""
    log = make()
    await filled(log, 10)
    await log.trim("owner", 9)
    assert len(await batches(log)) == 10
    await log.write_checkpoint("owner", Checkpoint(4, b"state"))
    await log.trim("owner", 9)
    assert await batches(log, 4) == [b"%d" % n for n in range(5, 11)]


async def test_large_batches_go_with_their_entries(cluster, make, monkeypatch):
    """Not before them, also when an entry far below the floor is kept; and those that no entry names go, too."""
    monkeypatch.setattr(module, "BODY_SPAN", 4)
    log, slow, dying = make(), make(), make()
    large = [bytes([n]) * 20_000 for n in range(20)]
    for number in range(10):
        await log.append("owner", number, large[number])
    pause = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap")
    append = asyncio.create_task(dying.append("owner", 10, b"!" * 20_000))
    await pause.reached.wait()
    append.cancel()
    behind = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap")
    appending = asyncio.create_task(slow.append("owner", 10, large[12]))  # its batch stays where it is now
    await behind.reached.wait()
    for number in (10, 11):
        await log.append("owner", number, large[number])
    behind.released.set()
    assert (await appending)[-1].position == 13
    for number in range(13, 20):
        await log.append("owner", number, large[number])
    await log.write_checkpoint("owner", Checkpoint(20, b"state"))
    await log.trim("owner", 13, keep=[3, 7])
    assert [entry.batch for entry in await log.entries("owner", [3, 7])] == [large[2], large[6]]
    assert await batches(log, 12) == large[12:]
    assert len(there(cluster, KEYS.entry(0)[:-8])) == 2 + 8
    await log.trim("owner", 21)
    for number in range(20, 30):
        await log.append("owner", number, b"small")
    await log.write_checkpoint("owner", Checkpoint(30, b"state"))
    await log.trim("owner", 31)
    assert there(cluster, KEYS.body(0)[:-8]) == []
    assert there(cluster, KEYS.entry(0)[:-8]) == []


async def test_a_large_batch_that_is_overtaken_by_many(cluster, make, monkeypatch):
    """It is written again, near its entry, or trimming would take it for one that nobody names."""
    monkeypatch.setattr(module, "BODY_SPAN", 4)
    log, slow = make(), make()
    behind = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap")
    appending = asyncio.create_task(slow.append("owner", 0, b"!" * 20_000))
    await behind.reached.wait()
    await filled(log, 9)
    behind.released.set()
    assert (await appending)[-1].position == 10
    await log.write_checkpoint("owner", Checkpoint(9, b"state"))
    await log.trim("owner", 9)
    assert await batches(log, 9) == [b"!" * 20_000]
    assert len(there(cluster, KEYS.body(0)[:-8])) == 1


async def test_round_trips(cluster, make):
    """An append takes two, news of many owners two, the end of a long log is found without reading all of it."""
    log, other = make(), make()
    await filled(log, 300)
    for n in range(100):
        await log.append(f"o{n}", 0, b"first")
    cluster.calls.clear()
    await log.append("owner", 300, b"next")
    assert cluster.calls == {"RawCompareAndSwap": 1, "RawBatchGet": 1}
    cluster.calls.clear()
    assert len(await log.news({f"o{n}": n % 2 for n in range(100)} | {"owner": 301})) == 50
    assert cluster.calls == {"RawBatchGet": 2}
    cluster.calls.clear()
    assert len(await other.append("owner", 0, b"from one that knows nothing")) == 302
    assert sum(cluster.calls.values()) < 15, cluster.calls


async def test_tikv_that_was_emptied(cluster, make):
    """A node that goes on where nothing is any more says so, rather than begin a log in the middle."""
    log = make()
    await filled(log, 5)
    cluster.data.delete_range(SPACE, SPACE + b"\xff")
    with pytest.raises(LogUnavailableError, match="emptied"):
        await log.append("owner", 5, b"6")


async def test_stores_that_go_away(cluster, make):
    """The log goes on with the new leaders; nothing is lost or doubled."""
    logs = [make(), make()]
    cluster.topology.split(SPACE + KEYS.entry(5), SPACE + KEYS.entry(9))
    after, sent = 0, []
    for n in range(16):
        if n in {4, 10}:
            await cluster.stop_store(cluster.topology.find(SPACE + KEYS.entry(after)).leader)
        if n == 8:
            await asyncio.gather(*[cluster.start_store(s) for s in cluster.topology.stores if s not in cluster.up])
        sent.append(b"%d" % n)
        after = (await logs[n % 2].append("owner", after, sent[-1]))[-1].position
    assert await batches(make()) == sent


async def test_nobody_answers(cluster, make):
    """Every method says so with the one error that its users expect."""
    log = make(timeout=0.2)
    await filled(log, 2)
    cluster.faults.storm(1, 1.0, Kind.REFUSED)
    for work in (
        log.append("owner", 2, b"3"), log.read("owner", 0), log.news({"owner": 0}), log.entries("owner", [1]),
        log.checkpoint("owner"), log.write_checkpoint("owner", Checkpoint(1, b"s")), log.trim("owner", 1),
    ):  # fmt: skip
        with pytest.raises(LogUnavailableError):
            await work
    await log.aclose()
    with pytest.raises(LogUnavailableError):
        await log.read("owner", 0)


async def test_nobody_waits_for_ever(cluster, make, monkeypatch):
    """Swaps that hang, with reads that work: an append ends after a while, and the next one has its turn."""
    log = make()
    hanging = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap", times=1000)
    monkeypatch.setattr(module, "APPEND_SECONDS", 0.2)
    async with asyncio.timeout(50):
        for _ in range(2):
            with pytest.raises(LogUnavailableError, match="it is unknown"):
                await log.append("owner", 0, b"x")
    monkeypatch.setattr(module, "APPEND_SECONDS", 60.0)
    hanging.times = 0
    await log.append("owner", 0, b"y")
    hanging.released.set()
    assert b"y" in await batches(log)


def test_a_head_is_read_by_later_versions():
    """It is the one value that is changed in place: nodes of two versions may meet on it."""
    assert module._decode_head(b'[7,9,"aa",2]') == Head(7, 9, "aa", 2)
    assert module._decode_head(b'[7,9,"aa",2,"more"]') == Head(7, 9, "aa", 2)
