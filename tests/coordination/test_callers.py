"""Who waits for an answer: it comes once, whether it was there first or the caller."""

from __future__ import annotations

import asyncio

import pytest

from kontract.coordination.callers import Callers
from kontract.core.messages import Busy, Left
from kontract.ports import CoordinatorUnavailableError


def test_an_answer_that_is_there_needs_no_loop():
    """Most messages are answered in the step that takes them: no future, no turn of the loop."""
    callers = Callers()
    caller = callers.add()
    caller.decide(Busy())
    with pytest.raises(StopIteration) as ended:
        caller.answer().send(None)
    assert ended.value.value == Busy()


async def test_an_answer_that_comes_later_wakes_its_caller():
    callers = Callers()
    first, second = callers.add(), callers.add()
    waiting = [asyncio.ensure_future(caller.answer()) for caller in (first, second)]
    await asyncio.sleep(0)
    callers.find(second.ticket).decide(Left())
    assert await waiting[1] == Left()
    assert not waiting[0].done()
    callers.fail_all(CoordinatorUnavailableError, "gone")
    with pytest.raises(CoordinatorUnavailableError, match="gone"):
        await waiting[0]
    assert await second.answer() == Left(), "what was said first stands"


async def test_one_that_has_gone_is_told_nothing():
    callers = Callers()
    caller = callers.add()
    callers.hold(caller)
    waiting = asyncio.ensure_future(caller.answer())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert callers.held
    caller.decide(Left())
    callers.remove(caller)
    assert (len(callers), callers.held, callers.find(caller.ticket)) == (0, False, None)
