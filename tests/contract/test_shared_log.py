"""What a shared log has to do, over memory, PostgreSQL and TiKV: three clients, as of three nodes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from kontract.ports.shared_log import (
    MAX_BATCH_BYTES,
    READ_BYTES,
    READ_ENTRIES,
    Checkpoint,
    Entry,
    SharedLog,
    TrimmedError,
)
from kontract.server.database import AsyncpgDatabase
from kontract.server.shared_log.memory import MemoryLog
from kontract.server.shared_log.postgres import PostgresLog
from kontract.server.shared_log.tikv import TiKVLog
from kontract.server.system import SystemClock
from support.tikv.clients import connections


class Held(AsyncpgDatabase):
    """One connection that stays: opening one for each statement would be most of the work."""

    async def aclose(self) -> None:
        pass

    def drop(self) -> None:
        self._drop()


@pytest.fixture(params=["memory", "postgres", "tikv"])
async def logs(request) -> AsyncIterator[Sequence[SharedLog]]:
    """Three clients of one store, which is empty."""
    match request.param:
        case "memory":
            yield [MemoryLog(SystemClock().now)] * 3
        case "postgres":
            databases = [Held(request.getfixturevalue("coordinated")) for _ in range(3)]
            request.getfixturevalue("no_logs")
            yield [PostgresLog(lambda database=database: database) for database in databases]
            for database in databases:
                database.drop()
        case _:
            async with connections() as connect:
                yield [TiKVLog(connect().raw, SystemClock().now) for _ in range(3)]


@pytest.fixture
def no_logs(postgres, coordinated) -> None:
    postgres.run(coordinated, "TRUNCATE coordination, coordination_log, coordination_checkpoints")


def batches(entries: Sequence[Entry]) -> list[bytes]:
    return [entry.batch for entry in entries]


def positions(entries: Sequence[Entry]) -> list[int]:
    return [entry.position for entry in entries]


async def everything(log: SharedLog, owner: str = "owner", after: int = 0) -> list[Entry]:
    """All entries above a position, page after page."""
    found: list[Entry] = []
    while page := await log.read(owner, after):
        found += page
        after = page[-1].position
    assert positions(found) == list(range(found[0].position, found[0].position + len(found))) if found else True
    return found


async def filled(log: SharedLog, count: int, owner: str = "owner") -> None:
    for number in range(1, count + 1):
        await log.append(owner, number - 1, b"%d" % number)


async def test_one_after_the_other(logs):
    """Positions 1, 2, 3 without a gap, whoever appends; an append answers with what its node has not seen."""
    assert await logs[0].read("owner", 0) == []
    answers = [await logs[n % 3].append("owner", n // 3 * 3, b"%d" % n) for n in range(9)]
    for n, answer in enumerate(answers):
        assert positions(answer) == list(range(n // 3 * 3 + 1, n + 2))
        assert batches(answer) == [b"%d" % m for m in range(n // 3 * 3, n + 1)]
    for log in logs:
        entries = await log.read("owner", 0)
        assert entries == await everything(log)
        assert batches(entries) == [b"%d" % n for n in range(9)]
        assert [await log.read("owner", after) for after in (5, 8, 9)] == [entries[5:], entries[8:], []]
    assert all(answer == entries[answer[0].position - 1 : answer[-1].position] for answer in answers), "and so for good"


async def test_batches_are_bytes(logs):
    """Any bytes, also none."""
    samples = [b"", b"\0", bytes(range(256)), b"x" * 16_383, b"x" * 16_384, b"x" * 16_385, b"\xff" * 100_000]
    for number, batch in enumerate(samples):
        await logs[number % 3].append("owner", number, batch)
    assert batches(await everything(logs[0])) == samples


async def test_owners_are_apart(logs):
    """Each has its log, its checkpoint and its end, also where one name begins like another."""
    names = ["a", "a/b", "a/", "1:a", "ä", ""]
    for number, owner in enumerate(names):
        for n in range(number + 1):
            await logs[n % 3].append(owner, n, f"{owner} {n}".encode())
        await logs[0].write_checkpoint(owner, Checkpoint(1, owner.encode()))
    await logs[1].trim("a", 2)
    for number, owner in enumerate(names):
        entries = await everything(logs[1], owner, 1)
        assert batches(entries) == [f"{owner} {n}".encode() for n in range(1, number + 1)]
        assert await logs[2].checkpoint(owner) == Checkpoint(1, owner.encode())


async def test_a_hundred_at_once(logs):
    """Every batch is there once, all see one order, and everyone is told of what comes before the own batch."""
    sent = [b"batch %d" % n for n in range(100)]
    answers = await asyncio.gather(*[logs[n % 3].append("owner", 0, batch) for n, batch in enumerate(sent)])
    order = await everything(logs[0])
    assert sorted(batches(order)) == sorted(sent)
    assert positions(order) == list(range(1, 101))
    for batch, answer in zip(sent, answers, strict=True):
        assert answer == order[: len(answer)]
        assert batch in batches(answer)  # the last one, unless somebody else's came right after it
    assert await everything(logs[1]) == await everything(logs[2]) == order


async def test_reads_see_answered_appends(logs):
    """On every node, in every way of reading, also while others append."""
    over = False

    async def noise(log: SharedLog, after: int = 0) -> None:
        while not over:
            after = (await log.append("owner", after, b"noise"))[-1].position
            await asyncio.sleep(0)  # in memory nothing else would let the others run

    async def position_of(batch: bytes, page: list[Entry]) -> int:
        """The answer of an append is one page; while others append, the own batch may be on a later one."""
        while batch not in batches(page):
            page = await logs[0].read("owner", page[-1].position)
        return page[batches(page).index(batch)].position

    async def check(number: int) -> None:
        dice, after = random.Random(number), 0
        for n in range(12):
            batch = b"%d/%d" % (number, n)
            mine = await position_of(batch, await dice.choice(logs).append("owner", after, batch))
            reader = dice.choice(logs)
            match dice.randrange(3):
                case 0:
                    seen = await reader.read("owner", mine - 1)
                case 1:
                    seen = (await reader.news({"owner": mine - 1, "nobody": 0}))["owner"]
                case _:
                    seen = await reader.entries("owner", [mine])
            assert seen
            assert (seen[0].position, seen[0].batch) == (mine, batch)
            after = mine

    makers = [asyncio.create_task(noise(log)) for log in logs]
    try:
        await asyncio.gather(*[check(number) for number in range(4)])
    finally:
        over = True
        await asyncio.gather(*makers)


async def test_pages(logs):
    """A read ends after READ_ENTRIES, also that of an append; whoever reads on gets the rest."""
    count = READ_ENTRIES + 20
    for number in range(count):
        await logs[number % 3].append("owner", number, b"%d" % number)
    page = await logs[0].read("owner", 0)
    assert positions(page) == list(range(1, READ_ENTRIES + 1))
    assert batches(await everything(logs[1])) == [b"%d" % n for n in range(count)]
    assert positions(await logs[2].append("owner", 5, b"last")) == list(range(6, READ_ENTRIES + 6))
    assert batches(await logs[2].read("owner", count)) == [b"last"]
    news = await logs[1].news({"owner": 0})
    assert news["owner"]
    assert news["owner"] == page[: len(news["owner"])]


async def test_large_batches(logs):
    """4 MiB each, among small ones, from all nodes at once; one read carries READ_BYTES and what goes beyond."""
    large = [bytes([n]) * MAX_BATCH_BYTES for n in range(3)]
    small = [b"small %d" % n for n in range(12)]
    sent = list(itertools.chain(*zip(large, small[:3], small[3:6], strict=True), small[6:]))
    answers = await asyncio.gather(*[logs[n % 3].append("owner", 0, batch) for n, batch in enumerate(sent)])
    order = await everything(logs[0])
    assert sorted(batches(order)) == sorted(sent)
    for answer in answers:
        assert answer == order[: len(answer)]
        assert sum(len(entry.batch) for entry in answer[:-1]) < READ_BYTES + MAX_BATCH_BYTES
    wanted = [entry.position for entry in order if len(entry.batch) == MAX_BATCH_BYTES]
    assert await logs[1].entries("owner", wanted) == [order[position - 1] for position in wanted]
    news = (await logs[2].news({"owner": 0}))["owner"]
    assert news
    assert news == order[: len(news)]


async def test_news(logs):
    """Of many owners: what is above the position of each, nothing of those without, in their own order."""
    for number in range(1, 41):
        for n in range(number % 4):
            await logs[n % 3].append(f"o{number}", n, b"%d/%d" % (number, n))
    after = {f"o{number}": min(number % 3, number % 4) for number in range(1, 41)} | {"nobody": 0}
    news = await logs[0].news(after)
    for number in range(1, 41):
        expected = [b"%d/%d" % (number, n) for n in range(after[f"o{number}"], number % 4)]
        assert batches(news.get(f"o{number}", [])) == expected
        assert (f"o{number}" in news) is bool(expected)
    assert "nobody" not in news
    assert await logs[1].news({}) == {}


async def test_trimming(logs):
    """What is gone is told apart from what has not come yet; what is above stays, and the log goes on."""
    await filled(logs[0], 10)
    await logs[1].write_checkpoint("owner", Checkpoint(8, b"state"))
    await logs[1].trim("owner", 7)
    for log in logs:
        for after in (0, 5):
            with pytest.raises(TrimmedError):
                await log.read("owner", after)
            assert await log.news({"owner": after}) == {"owner": []}
        assert batches(await log.read("owner", 6)) == [b"7", b"8", b"9", b"10"]
        assert await log.entries("owner", [1, 6]) == []
        assert positions(await log.entries("owner", [9, 3, 7])) == [7, 9]
        assert await log.read("owner", 10) == []
        assert await log.news({"owner": 10}) == {}
    with pytest.raises(TrimmedError):
        await logs[2].append("owner", 2, b"from one that was away")
    assert batches(await logs[2].append("owner", 10, b"new"))[-1] == b"new"
    await logs[0].trim("owner", 3)  # a floor does not sink
    with pytest.raises(TrimmedError):
        await logs[0].read("owner", 4)


async def test_trimming_everything(logs):
    """A log without entries is not an empty log: it goes on where it was."""
    await filled(logs[0], 5)
    await logs[0].write_checkpoint("owner", Checkpoint(5, b"state"))
    await logs[0].trim("owner", 6)
    for log in logs:
        assert await log.read("owner", 5) == []
        assert await log.news({"owner": 5}) == {}
        with pytest.raises(TrimmedError):
            await log.read("owner", 4)
    assert positions(await logs[1].append("owner", 5, b"next")) == [6]
    assert batches(await logs[2].read("owner", 5)) == [b"next"]


async def test_what_is_kept(logs):
    """Single entries below the floor can be had by their positions, until a later call does not name them."""
    await filled(logs[0], 10)
    await logs[0].write_checkpoint("owner", Checkpoint(10, b"state"))
    await logs[0].trim("owner", 8, keep=[2, 5])
    for log in logs:
        assert batches(await log.entries("owner", list(range(1, 11)))) == [b"2", b"5", b"8", b"9", b"10"]
        with pytest.raises(TrimmedError):
            await log.read("owner", 1)
    await logs[1].trim("owner", 10, keep=[5, 9])
    assert batches(await logs[2].entries("owner", list(range(1, 11)))) == [b"5", b"9", b"10"]
    await logs[2].trim("owner", 10)
    assert batches(await logs[0].entries("owner", list(range(1, 11)))) == [b"10"]


async def test_reading_while_others_trim(logs):
    """A reader gets the entries themselves, without a gap, or is told that they are gone."""
    reading = True

    async def write() -> None:
        nonlocal reading
        for number in range(1, 121):
            await logs[0].append("owner", number - 1, b"%d" % number)
            await asyncio.sleep(0)  # in memory nothing else would let the others run
            if number % 10 == 0:
                await logs[0].write_checkpoint("owner", Checkpoint(number, b"%d" % number))
                await logs[0].trim("owner", number - 5)
        reading = False

    async def read(number: int) -> tuple[int, int]:
        dice, seen, gone = random.Random(number), 0, 0
        while reading:
            await asyncio.sleep(0)
            checkpoint = await logs[number % 3].checkpoint("owner")
            end = checkpoint.position if checkpoint is not None else 0
            assert checkpoint is None or checkpoint.state == b"%d" % end
            after = max(0, end + dice.randrange(-15, 1))  # nobody has read further than there is
            try:
                entries = await logs[number % 3].read("owner", after)
            except TrimmedError:
                gone += 1
                continue
            assert positions(entries) == list(range(after + 1, after + 1 + len(entries)))
            assert batches(entries) == [b"%d" % entry.position for entry in entries]
            seen += len(entries)
            news = (await logs[number % 3].news({"owner": after})).get("owner", [])
            assert batches(news) == [b"%d" % (after + 1 + n) for n in range(len(news))]
        return seen, gone

    _, *counts = await asyncio.gather(write(), *[read(number) for number in range(4)])
    assert all(seen for seen, _ in counts)
    assert sum(gone for _, gone in counts)


async def test_checkpoints(logs):
    """The newest is in force, and only that; one that is not newer is ignored."""
    assert await logs[0].checkpoint("owner") is None
    await filled(logs[0], 9)
    for writer, position in ((0, 3), (1, 7), (2, 5), (0, 7), (1, 9)):
        await logs[writer].write_checkpoint("owner", Checkpoint(position, b"%d by %d" % (position, writer)))
        expected = {3: b"3 by 0", 7: b"7 by 1", 5: b"7 by 1", 9: b"9 by 1"}[position]
        for log in logs:
            found = await log.checkpoint("owner")
            assert found is not None
            assert found.state == expected


async def test_large_checkpoints_at_once(logs):
    """Nodes write checkpoints of 5 MiB at the same time, others read: each is whole, and the newest wins."""
    await filled(logs[0], 12)

    def state(position: int) -> bytes:
        return random.Random(position).randbytes(5 * 1024 * 1024 + position)

    async def write(position: int) -> None:
        await logs[position % 3].write_checkpoint("owner", Checkpoint(position, state(position)))

    writing = asyncio.gather(*[write(position) for position in (2, 5, 9, 12, 4)])
    last = 0
    while not writing.done():
        found = await logs[0].checkpoint("owner")
        if found is not None:
            assert found.state == state(found.position)
            assert found.position >= last
            last = found.position
        await asyncio.sleep(0)
    await writing
    assert await logs[1].checkpoint("owner") == Checkpoint(12, state(12))


async def test_times(logs):
    """``at`` is the time of appending: a number of milliseconds since 1970 that everybody is told alike."""
    clock = SystemClock()
    before = clock.now()
    await filled(logs[0], 3)
    after = clock.now()
    first, second = [await log.read("owner", 0) for log in logs[:2]]
    assert first == second
    assert all(before - 1000 <= entry.at <= after + 1000 for entry in first)  # PostgreSQL's clock may be another's
