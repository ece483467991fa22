"""The gateway's platform on CPython: asyncio, the system's clock and randomness, log lines on standard output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kontract.core import shared
from kontract.core.collection import Mark, Stage
from kontract.core.coordinator import Drop, JournalEntry, PutBlock, PutEnded, PutRecord, Record
from kontract.core.messages import Answer, Request, decode_answer, decode_request, encode
from kontract.core.recovery import Saved
from kontract.core.shared import DictRows, SharedAnswer, SharedRequest, SharedState
from kontract.ports import Clock, CoordinatorStub, Database, DOStub, Mutex
from kontract.server.crypto import NativeCrypto
from kontract.server.system import SystemClock, SystemRandomness
from kontract.shell import CoordinatorShell


def log_line(level: str, event: str, **fields: Any) -> None:
    """Write one JSON line."""
    line = msgspec.json.encode({"level": level, "event": event, **{k: v for k, v in fields.items() if v is not None}})
    sys.stdout.write(line.decode() + "\n")


class MemoryJournal:
    """A journal that ends with the process: for one process, and for tests. ``reopen`` plays a restart."""

    def __init__(self) -> None:
        """Start as a coordinator that has never run."""
        self._head: tuple[int, int] | None = None
        self._records: dict[int, bytes] = {}
        self._marks: dict[int, Mark] = {}
        self._ended: dict[str, int] = {}

    def load(self) -> Saved | None:
        """Return what was written."""
        if self._head is None:
            return None
        epoch, last_txid = self._head
        return Saved(epoch, last_txid, [self._decode(raw) for raw in self._records.values()], dict(self._ended))

    def start(self, epoch: int, last_txid: int) -> None:
        """Begin in ``epoch``."""
        self._head = (epoch, last_txid)
        self._records.clear()
        self._marks.clear()
        self._ended.clear()

    def write(self, entries: list[JournalEntry]) -> None:
        """Keep entries."""
        for entry in entries:
            match entry:
                case PutRecord():
                    # Encoded at once: the coordinator goes on changing its record.
                    self._records[entry.record.txid] = msgspec.json.encode(entry.record)
                case PutBlock():
                    assert self._head is not None
                    self._head = (self._head[0], entry.last_txid)
                case PutEnded():
                    self._ended[entry.session] = entry.until
                case Drop():
                    self._ended = {session: until for session, until in self._ended.items() if until > entry.now}
                    for txid, raw in list(self._records.items()):
                        if _expired(self._decode(raw), entry):
                            del self._records[txid]

    def newest(self, call: str) -> Record | None:
        """Return the newest record of a call."""
        found = [record for record in map(self._decode, self._records.values()) if record.call == call]
        return max(found, key=lambda record: record.txid, default=None)

    def marks(self) -> list[Mark]:
        """Return the collection's marks."""
        return list(self._marks.values())

    def write_marks(self, marks: list[Mark]) -> None:
        """Keep marks; one that is done goes as soon as there is a newer one."""
        self._marks.update({mark.watermark: mark for mark in marks})
        newest = max(self._marks, default=0)
        self._marks = {w: mark for w, mark in self._marks.items() if mark.stage < Stage.FENCES or w == newest}

    @staticmethod
    def _decode(raw: bytes) -> Record:
        return msgspec.json.decode(raw, type=Record)


def _expired(record: Record, drop: Drop) -> bool:
    if not record.settled_at:
        return False
    if record.idempotent:
        return record.settled_at < drop.idempotent_before
    return record.txid < drop.below_txid or record.settled_at < drop.settled_before


class LocalStub:
    """A coordinator in this process, reached through the same text messages as a remote one."""

    def __init__(self, shell: CoordinatorShell) -> None:
        """Talk to ``shell``."""
        self._shell = shell

    async def ask(self, request: Request) -> Answer:
        """Ask."""
        return decode_answer(encode(await self._shell.ask(decode_request(encode(request)))))


class LocalShared:
    """Shared state in this process, reached through the same text messages as a remote one."""

    def __init__(self, state: SharedState, clock: Clock) -> None:
        """Talk to ``state``."""
        self._state = state
        self._clock = clock

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Ask."""
        answer = self._state.handle(shared.decode_request(shared.encode(request)), self._clock.now())
        return shared.decode_answer(shared.encode(answer))


class SingleProcess:
    """RuntimeAdapter for one process: coordinators in memory, PostgreSQL for the data."""

    def __init__(self, open_database: Callable[[], Database], environment: Mapping[str, str]) -> None:
        """Serve with databases that ``open_database`` makes."""
        self.clock = SystemClock()
        self.random = SystemRandomness()
        self.crypto = NativeCrypto()
        self.log = log_line
        self.environment = environment
        self.open_database = open_database
        self._shells: dict[str, CoordinatorShell] = {}
        self._shared: dict[str, SharedState] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the coordinator of ``owner``, made at its first use."""
        shell = self._shells.get(owner)
        if shell is None:
            shell = self._shells[owner] = CoordinatorShell(
                owner, MemoryJournal(), self.open_database, self.clock, self.log
            )
        return LocalStub(shell)

    def shared(self, owner: str) -> DOStub:
        """Return the shared state of ``owner``, made at its first use."""
        state = self._shared.get(owner)
        if state is None:
            state = self._shared[owner] = SharedState(DictRows())
        return LocalShared(state, self.clock)

    def mutex(self) -> Mutex:
        """Return a new lock."""
        return asyncio.Lock()

    def spawn(self, work: Awaitable[Any]) -> None:
        """Let work go on by itself."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def within(self, milliseconds: float, work: Awaitable[Any]) -> Any:
        """Await with a time limit."""
        async with asyncio.timeout(max(0.0, milliseconds) / 1000):
            return await work
