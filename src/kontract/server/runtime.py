"""The gateway's platform on CPython: asyncio, the system's clock and randomness, log lines on standard output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kontract.core import limits, logs, shared
from kontract.core.collection import Mark, Stage
from kontract.core.errors import RateLimitedError
from kontract.core.events import Frame, Subscription, decode_frame, encode_frame
from kontract.core.hub import LogHead
from kontract.core.messages import Answer, Request, decode_answer, decode_request, encode
from kontract.core.phases import Phase
from kontract.core.records import Drop, JournalEntry, PutBlock, PutEnded, PutRecord, Record, is_kept
from kontract.core.recovery import Saved
from kontract.core.shared import DictRows, SharedAnswer, SharedRequest, SharedState
from kontract.ports import (
    Clock,
    CoordinatorStub,
    CoordinatorUnavailableError,
    Database,
    DOStub,
    Feed,
    FeedClosedError,
    KVStore,
    Log,
    Mutex,
)
from kontract.server.crypto import NativeCrypto
from kontract.server.system import SystemClock, SystemRandomness
from kontract.shell import CoordinatorShell


def log_line(level: str, event: str, **fields: Any) -> None:
    """Write one JSON line."""
    sys.stdout.write(logs.line(level, event, fields) + "\n")


class MemoryJournal:
    """A journal that ends with the process: for one process, and for tests. ``reopen`` plays a restart."""

    def __init__(self) -> None:
        """Start as a coordinator that has never run."""
        self._head: tuple[int, int] | None = None
        self._records: dict[int, bytes] = {}
        self._marks: dict[int, Mark] = {}
        self._ended: dict[str, int] = {}
        self._log_head = LogHead("g0", 0)

    def load(self) -> Saved | None:
        """Return what was written."""
        if self._head is None:
            return None
        epoch, last_txid = self._head
        return Saved(epoch, last_txid, [self._decode(raw) for raw in self._records.values()], dict(self._ended))

    def start(self, epoch: int, last_txid: int, generation: str) -> None:
        """Begin in ``epoch``."""
        self._head = (epoch, last_txid)
        self._log_head = LogHead(generation, last_txid)
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
                        record = self._decode(raw)
                        if record.settled_at and _unpublished(record, entry):
                            self._log_head = LogHead(self._log_head.generation, max(self._log_head.floor, txid))
                        if _expired(record, entry):
                            del self._records[txid]

    def newest(self, call: str) -> Record | None:
        """Return the newest record of a call."""
        found = [record for record in map(self._decode, self._records.values()) if record.call == call]
        return max(found, key=lambda record: record.txid, default=None)

    def log_head(self) -> LogHead:
        """Return where the event log begins."""
        return self._log_head

    def committed(self, after: int, up_to: int) -> list[Record]:
        """Return committed records in txid order."""
        page: list[Record] = []
        size = 0
        for txid in sorted(txid for txid in self._records if after < txid <= up_to):
            record = self._decode(self._records[txid])
            if record.phase == Phase.COMMITTED.value:
                page.append(record)
                size += len(self._records[txid])
            if len(page) >= limits.EVENT_PAGE_TRANSACTIONS or size >= limits.EVENT_PAGE_BYTES:
                break
        return page

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
    if is_kept(record):
        return record.settled_at < drop.idempotent_before
    return _unpublished(record, drop)


def _unpublished(record: Record, drop: Drop) -> bool:
    """Whether the events of a settled record are not kept any more."""
    return record.txid < drop.below_txid or record.settled_at < drop.settled_before


class LocalStub:
    """A coordinator in this process, reached through the same text messages as a remote one."""

    def __init__(self, shell: CoordinatorShell) -> None:
        """Talk to ``shell``."""
        self._shell = shell

    async def ask(self, request: Request) -> Answer:
        """Ask."""
        return decode_answer(encode(await self._shell.ask(decode_request(encode(request)))))


class LocalFeed:
    """A line to a coordinator in this process: both ends in one. Implements Feed and the hub's Subscriber."""

    def __init__(self, shell: CoordinatorShell, subscription: Subscription) -> None:
        """Listen; :meth:`resume` says from where."""
        self.subscription = subscription
        self._shell = shell
        self._frames: asyncio.Queue[str | None] = asyncio.Queue()
        self._closed = False

    def send(self, text: str) -> None:
        """Take a frame from the hub."""
        self._frames.put_nowait(text)

    def keep(self) -> None:
        """Nothing: it ends with the process, as its connection does."""

    def close(self) -> None:
        """Hang up, from either side."""
        self._closed = True
        self._shell.hub.remove(self.subscription.number)
        self._frames.put_nowait(None)

    async def resume(self, since: str | None) -> None:
        """Ask for a page."""
        try:
            page = await self._shell.resume(self, since)
        except CoordinatorUnavailableError as error:
            raise FeedClosedError(str(error)) from error
        self.send(encode_frame(page).decode())

    async def next(self, milliseconds: float) -> Frame | None:
        """Return the next frame."""
        if self._closed and self._frames.empty():
            raise FeedClosedError
        try:
            async with asyncio.timeout(milliseconds / 1000):
                text = await self._frames.get()
        except TimeoutError:
            return None
        if text is None:
            raise FeedClosedError
        return decode_frame(text)


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

    def __init__(
        self, open_database: Callable[[], Database], environment: Mapping[str, str], log: Log = log_line
    ) -> None:
        """Serve with databases that ``open_database`` makes."""
        self.clock = SystemClock()
        self.random = SystemRandomness()
        self.crypto = NativeCrypto()
        self.log = log
        self.environment = environment
        self.kv: KVStore | None = None
        self.open_database = open_database
        self._shells: dict[str, CoordinatorShell] = {}
        self._shared: dict[str, SharedState] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Nothing: coordinators are made at their first use."""

    async def stop(self) -> None:
        """Finish what was spawned, if it takes no longer than a transaction, and stop the coordinators' clocks."""
        if self._tasks:
            _, unfinished = await asyncio.wait(list(self._tasks), timeout=limits.TRANSACTION_MS / 1000)
            for task in unfinished:
                task.cancel()
        for shell in self._shells.values():
            shell.rest()

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the coordinator of ``owner``, made at its first use."""
        return LocalStub(self._shell(owner))

    def _shell(self, owner: str) -> CoordinatorShell:
        shell = self._shells.get(owner)
        if shell is None:
            shell = self._shells[owner] = CoordinatorShell(
                owner, MemoryJournal(), self.open_database, self.clock, self.log
            )
        return shell

    async def open_feed(self, owner: str, subscription: Subscription) -> Feed:
        """Listen to the changes of ``owner``."""
        shell = self._shell(owner)
        if not shell.hub.has_room(subscription.user):
            message = f"one user may have {limits.STREAMS_PER_USER} open streams; close one first"
            raise RateLimitedError(message, headers={"Retry-After": "30"})
        feed = LocalFeed(shell, subscription)
        shell.hub.add(feed)
        return feed

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
