"""Commands on their way into the log: several share an append, and each of their senders learns how it ended."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw

from kontract.coordination import outgoing
from kontract.coordination.outgoing import Outgoing
from kontract.core.errors import PayloadTooLargeError
from kontract.core.messages import Prepare, Write
from kontract.core.protocol.commands import Ask, Forget, Tick, decode_batch
from kontract.ports.shared_log import MAX_BATCH_BYTES, LogUnavailableError
from support.probe import Probe


class Log:
    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def append(self, number: int, batch: bytes) -> None:
        assert number == len(self.batches) + 1
        self.batches.append(batch)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error

    def commands(self) -> list[list]:
        return [decode_batch(batch).commands for batch in self.batches]


async def test_what_comes_during_an_append_goes_with_the_next_one():
    log = Log()
    out = Outgoing("n", log.append)
    sending = [asyncio.ensure_future(out.send(Forget([n]))) for n in range(3)]
    await asyncio.sleep(0)
    sending += [asyncio.ensure_future(out.send(Forget([n]))) for n in range(3, 5)]
    await asyncio.sleep(0)
    log.go_on.set()
    await asyncio.gather(*sending)
    assert log.commands() == [[Forget([0]), Forget([1]), Forget([2])], [Forget([3]), Forget([4])]]


async def test_a_command_is_encoded_once():
    """To know its size and to join it with others; the batch takes it as it is."""
    log = Log()
    log.go_on.set()
    out = Outgoing("n", log.append)
    with Probe() as probe:
        await asyncio.gather(*(out.send(Forget([n])) for n in range(3)))
    assert probe.codecs == {("kontract.core.protocol.commands", "encode"): 3 + 1}, "three commands and their batch"


async def test_a_batch_has_a_size(monkeypatch):
    monkeypatch.setattr(outgoing, "BATCH_BYTES", 70)
    log = Log()
    log.go_on.set()
    out = Outgoing("n", log.append)
    await asyncio.gather(*(out.send(Forget([n])) for n in range(5)))
    assert [len(commands) for commands in log.commands()] == [2, 2, 1]


async def test_what_is_too_large_for_the_log_is_refused_before_it_is_sent():
    log = Log()
    data = Raw(b'"%s"' % (b"x" * MAX_BATCH_BYTES))
    with pytest.raises(PayloadTooLargeError, match="split it"):
        await Outgoing("n", log.append).send(Ask(1, Prepare("c", [Write("t", "t", "a", None, data)])))
    assert log.batches == []


@pytest.mark.parametrize("error", [LogUnavailableError("away"), OSError("of somebody's own log")])
async def test_an_append_that_fails_fails_for_its_own_commands_alone(error):
    """Nobody waits for ever, whatever a log raises."""
    log = Log()
    log.error = error
    out = Outgoing("n", log.append)
    first = asyncio.ensure_future(out.send(Tick()))
    await asyncio.sleep(0)
    log.go_on.set()
    with pytest.raises(LogUnavailableError):
        await first
    log.error = None
    await out.send(Forget([1]))
    assert log.commands()[-1] == [Forget([1])]


async def test_what_waits_can_be_given_up():
    """The log has gone back in time: what was to follow is not of this log."""
    log = Log()
    out = Outgoing("n", log.append)
    first = asyncio.ensure_future(out.send(Tick()))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(out.send(Tick()))
    await asyncio.sleep(0)
    out.give_up("gone back")
    with pytest.raises(LogUnavailableError, match="gone back"):
        await second
    log.go_on.set()
    await first
    assert len(log.batches) == 1
