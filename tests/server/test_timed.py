"""A time limit without a timer for what does not wait: in everything else it is asyncio.timeout."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kontract.server import timed


async def _with_timers(work):
    """Run, and count the timers that were set."""
    loop = asyncio.get_running_loop()
    timers = []
    real = loop.call_at
    loop.call_at = lambda when, *rest, **context: timers.append(when) or real(when, *rest, **context)
    try:
        return await work, len(timers)
    finally:
        del loop.call_at


async def test_what_does_not_wait_sets_no_timer_and_what_waits_does():
    async def at_once():
        return "here"

    async def later():
        await asyncio.sleep(0)
        return "later"

    assert await _with_timers(timed.within(5, at_once())) == ("here", 0)
    assert await _with_timers(timed.within(5, later())) == ("later", 1)


async def test_work_that_waits_too_long_is_cancelled_and_says_timeout():
    ended = []

    async def long():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(True)
            raise

    with pytest.raises(TimeoutError):
        await timed.within(0, long())
    assert ended == [True]
    assert asyncio.current_task().cancelling() == 0


async def test_what_is_awaited_gets_what_it_waits_for_through_many_steps():
    """The first step is taken outside of the event loop's hands: neither it nor the ones behind it may be lost."""
    futures = [asyncio.get_running_loop().create_future() for _ in range(3)]

    async def work():
        return [await future for future in futures]

    task = asyncio.ensure_future(timed.within(5, work()))
    for number, future in enumerate(futures):
        await asyncio.sleep(0)
        future.set_result(number)
    assert await task == [0, 1, 2]


@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_comes_through(waits):
    async def fails():
        if waits:
            await asyncio.sleep(0)
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        await timed.within(5, fails())


@pytest.mark.parametrize("when", ["at its first wait", "at its second"])
async def test_a_cancelled_task_is_cancelled_in_its_work(when):
    """A caller who leaves ends the function, also one that cleans up with another wait."""
    cleaned = []

    async def work():
        try:
            if when == "at its second":
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    task = asyncio.ensure_future(timed.within(5, work()))
    for _ in range(4):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]


async def test_an_inner_limit_that_was_entered_before_the_outer_one_keeps_its_meaning():
    """The work's own asyncio.timeout is entered in the first step, before the limit around it."""

    async def work():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        return "went on"

    assert await timed.within(5, work()) == "went on"

    async def outer_comes_first():
        async with asyncio.timeout(5):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await timed.within(0, outer_comes_first())
    assert asyncio.current_task().cancelling() == 0


async def test_the_work_runs_in_the_task_of_its_caller():
    async def work():
        mine = [asyncio.current_task()]
        await asyncio.sleep(0)
        return [*mine, asyncio.current_task()]

    assert set(await timed.within(5, work())) == {asyncio.current_task()}


async def test_work_that_ignores_its_end_leaves_no_cancelled_task_behind():
    """What comes after it in the same task would be cut off."""

    async def stubborn():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "all the same"

    assert await timed.within(0, stubborn()) == "all the same"
    assert asyncio.current_task().cancelling() == 0


async def test_a_task_that_somebody_cancels_as_well_is_cancelled():
    """The limit and a caller who leaves at the same moment: the caller decides, as with asyncio.timeout."""

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.current_task().cancel()
            raise

    task = asyncio.ensure_future(timed.within(0, work()))
    with pytest.raises(asyncio.CancelledError):
        await task
