"""Reads of a log are shared: whoever comes during one waits for the next, which sees what was there when it came."""

from __future__ import annotations

import asyncio

import pytest

from kontract.coordination.reads import Reads


class Log:
    """One that is read in two steps; a read sees what was there when it began."""

    def __init__(self) -> None:
        self.entries = 0
        self.seen: list[int] = []
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.fails = False

    async def read(self) -> None:
        found = self.entries
        self.began.set()
        await self.go_on.wait()
        if self.fails:
            raise OSError("the log does not answer")
        self.seen.append(found)


async def test_who_comes_during_a_read_shares_the_next():
    log = Log()
    reads = Reads(log.read)
    early = [asyncio.ensure_future(reads.join()) for _ in range(3)]
    await log.began.wait()
    log.entries = 1
    late = [asyncio.ensure_future(reads.join()) for _ in range(3)]
    await asyncio.sleep(0)
    log.go_on.set()
    await asyncio.gather(*early, *late)
    assert log.seen == [0, 1], "one read for those who came first, one for those who came during it"


async def test_one_who_leaves_takes_nobody_along():
    log = Log()
    reads = Reads(log.read)
    first, second = (asyncio.ensure_future(reads.join()) for _ in range(2))
    await log.began.wait()
    first.cancel()
    await asyncio.wait([first])
    log.go_on.set()
    await second
    assert (first.cancelled(), log.seen) == (True, [0])


async def test_a_read_that_fails_fails_for_all_and_the_next_is_another():
    log = Log()
    log.fails = True
    log.go_on.set()
    reads = Reads(log.read)
    failed = await asyncio.gather(reads.join(), reads.join(), return_exceptions=True)
    assert [type(error) for error in failed] == [OSError, OSError]
    log.fails = False
    await reads.join()
    assert log.seen == [0]
    log.fails = True
    with pytest.raises(OSError, match="does not answer"):
        await reads.join()
