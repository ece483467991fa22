"""The shell of one process: what it can answer at once it answers at once, and with values."""

from __future__ import annotations

import pytest
from msgspec import Raw

from kontract.coordination.shell import CoordinatorShell
from kontract.core.events import Page, Subscription
from kontract.core.messages import Answer, Began, Begin, Committed, Finish, Key, Prepare, Prepared, Request, Write
from kontract.core.transaction import fences
from kontract.server.feed import LocalFeed
from kontract.server.journal import MemoryJournal
from kontract.server.system import SystemClock
from support.probe import Probe

OWNER = "acme"


class EmptyDatabase:
    """No tables, and the epoch that was raised."""

    epoch = 0
    is_open = False

    async def run(self, statement):
        if statement.text == fences.RAISE_EPOCH:
            self.epoch = statement.params[1]
        if statement.text in (fences.RAISE_EPOCH, fences.READ_EPOCH):
            return [(self.epoch,)]
        return [(0,)] if "max" in statement.text.lower() else []

    def warm(self):
        pass

    async def aclose(self):
        pass


@pytest.fixture
async def shell():
    database = EmptyDatabase()
    shell = CoordinatorShell(OWNER, MemoryJournal(), lambda: database, SystemClock(), lambda *_, **__: None)
    await commit(shell, "first")
    yield shell
    shell.rest()


async def commit(shell: CoordinatorShell, call: str) -> None:
    began = await shell.ask(Begin(call))
    assert isinstance(began, Began)
    message = Prepare(call, [write()], snapshot=began.snapshot, epoch=began.epoch, reads=[Key("t", "a")])
    prepared = await shell.ask(message)
    assert isinstance(prepared, Prepared)
    assert isinstance(await shell.ask(Finish(prepared.txid, prepared.epoch, applied=True)), Committed)


def write() -> Write:
    return Write("t", "t", "a", 1, Raw(b'{"n":1}'))


def at_once(shell: CoordinatorShell, request: Request) -> Answer:
    """Ask without a loop: whoever waited for something would fail here."""
    asking = shell.ask(request)
    try:
        asking.send(None)
    except StopIteration as ended:
        return ended.value
    asking.close()
    raise AssertionError(f"{request} is waited for")


async def test_a_transaction_is_answered_at_once_and_in_values(shell):
    """No future, timer or task, and no JSON."""
    with Probe() as probe:
        began = at_once(shell, Begin("c"))
        message = Prepare("c", [write()], snapshot=began.snapshot, epoch=began.epoch, reads=[Key("t", "a")])
        prepared = at_once(shell, message)
        committed = at_once(shell, Finish(prepared.txid, prepared.epoch, applied=True))
    assert committed == Committed(prepared.txid)
    assert not probe.loop
    assert not probe.codecs


async def test_an_answer_that_has_to_wait_is_waited_for(shell):
    """A finish is answered when everything before it is visible, too."""
    first = at_once(shell, Prepare("c1", [Write("t", "t", "x", None, Raw(b"1"))]))
    second = at_once(shell, Prepare("c2", [Write("t", "t", "y", None, Raw(b"1"))]))
    with pytest.raises(AssertionError, match="is waited for"):
        at_once(shell, Finish(second.txid, second.epoch, applied=True))
    assert isinstance(at_once(shell, Finish(first.txid, first.epoch, applied=True)), Committed)


async def test_a_change_reaches_a_stream_of_this_process_as_a_value(shell):
    """It was bytes, text and bytes again on its way between two objects in one memory."""
    feeds = [LocalFeed(shell, Subscription(["t"], f"u{n}", "")) for n in range(3)]
    for feed in feeds:
        shell.hub.add(feed)
        await feed.resume(None)
        assert isinstance(await feed.next(1000), Page)
    with Probe() as probe:
        await commit(shell, "c")
        batches = [await feed.next(1000) for feed in feeds]
    assert batches[0] is batches[1] is batches[2]
    assert bytes(batches[0].changes[0].data) == b'{"n":1}'
    assert not probe.codecs
