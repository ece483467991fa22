"""A coordinator never lives on ahead of its journal, nor with a contradiction: it starts again from what is kept."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec import Raw

from kontract.coordination.shell import CoordinatorShell
from kontract.core.messages import Aborted, Begin, Committed, Finish, InDoubt, Prepare, Prepared, Status, Write
from kontract.core.protocol.records import JournalEntry
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request
from kontract.gateway.routes import Registry
from kontract.ports import CoordinatorUnavailableError
from kontract.server.database import AsyncpgDatabase
from kontract.server.journal import MemoryJournal
from kontract.server.runtime import SingleProcess
from kontract.server.system import SystemClock
from routes import ROUTES, TABLES
from support.sessions import ENVIRONMENT, bearer

OWNER = "tenant-1"


class DiskFullError(Exception):
    """What a journal's platform may raise."""


class FailingJournal(MemoryJournal):
    """Fails one write: before anything of it is kept, or after its first entry."""

    def __init__(self, fails: int, kept: int) -> None:
        super().__init__()
        self.fails = fails
        self.kept = kept
        self.writes = 0

    def write(self, entries: list[JournalEntry]) -> None:
        self.writes += 1
        if self.writes == self.fails:
            super().write(entries[: self.kept])
            raise DiskFullError
        super().write(entries)


class Node:
    """One gateway whose coordinator keeps ``journal``."""

    def __init__(self, url: str, journal: MemoryJournal) -> None:
        self.log: list[str] = []
        self.platform = SingleProcess(lambda: AsyncpgDatabase(url), ENVIRONMENT)
        self.platform.log = lambda _level, event, **_fields: self.log.append(event)
        self.shell = CoordinatorShell(OWNER, journal, lambda: AsyncpgDatabase(url), SystemClock(), self.platform.log)
        self.platform._shells[OWNER] = self.shell
        self.gateway = Gateway(Registry(ROUTES, TABLES))

    async def call(self, function: str, *args):
        async def body(_: int) -> bytes:
            return json.dumps(args).encode()

        response = await self.gateway.handle(Request("POST", f"/rpc/{function}", bearer(), body), self.platform)
        assert response.status == 200, response.body
        return json.loads(response.body)["result"]


async def transfers(node: Node) -> None:
    await node.call("open_account", "a", 100)
    await node.call("open_account", "b", 0)
    await asyncio.gather(*(node.call("transfer", "a", "b", 10) for _ in range(3)))
    assert await node.call("balance", "a") == 70
    assert await node.call("total") == 100


@pytest.mark.parametrize("kept", [0, 1], ids=["nothing of it kept", "its first entry kept"])
async def test_whichever_journal_write_fails_no_call_is_lost_or_applied_twice(postgres, kept):
    """The journal fails once, at each of its writes in turn: callers get their answers and the money is right."""
    undisturbed = FailingJournal(0, 0)
    await transfers(Node(postgres.create_database(), undisturbed))
    assert undisturbed.writes >= 10
    for fails in range(1, undisturbed.writes + 1):
        node = Node(postgres.create_database(), FailingJournal(fails, kept))
        await transfers(node)
        # It started once more, from the journal: what it knew beyond that is gone.
        assert [event for event in node.log if event.startswith("coordinator_")] == [
            "coordinator_started",
            "coordinator_failed",
            "coordinator_started",
        ]


def prepare(call: str, row_id: str) -> Prepare:
    return Prepare(call, [Write("tasks", "tbl_tasks_5f0c1d", row_id, None, Raw(b'{"title":"x"}'))])


async def test_a_contradiction_ends_the_coordinator_and_the_journal_starts_the_next(postgres):
    """A commit that is reported after its fence said never is not believed and not forgotten: everything is asked."""
    node = Node(postgres.create_database(), MemoryJournal())
    prepared = await node.shell.ask(prepare("c1", "x"))
    assert isinstance(prepared, Prepared)
    assert await node.shell.ask(Finish(prepared.txid, prepared.epoch, applied=False)) == Aborted(prepared.txid)
    blocker = await node.shell.ask(prepare("c2", "y"))  # keeps what is above it in memory
    above = await node.shell.ask(prepare("c3", "z"))
    assert await node.shell.ask(Finish(above.txid, above.epoch, applied=False)) == Aborted(above.txid)

    with pytest.raises(CoordinatorUnavailableError, match="is restarting"):
        await node.shell.ask(Finish(above.txid, above.epoch, applied=True))
    assert "contradiction" in node.log

    # What was prepared is resolved by its fence before anybody is served, and no txid is given twice.
    began = await node.shell.ask(Begin("reader"))
    assert began.snapshot >= above.txid
    assert (await node.shell.ask(prepare("c4", "y"))).txid > above.txid
    assert await node.shell.ask(Finish(blocker.txid, blocker.epoch, applied=False)) == InDoubt(blocker.txid)


async def test_a_finish_of_another_epoch_names_none_of_our_transactions(postgres):
    """After a lost journal an old worker reports on a number that is somebody else's now: nothing comes of it."""
    node = Node(postgres.create_database(), MemoryJournal())
    prepared = await node.shell.ask(prepare("mine", "x"))
    assert await node.shell.ask(Finish(prepared.txid, prepared.epoch + 1, applied=True)) == Committed(prepared.txid)
    status = await node.shell.ask(Status())
    assert (status.prepared, status.watermark) == (1, prepared.txid - 1)
