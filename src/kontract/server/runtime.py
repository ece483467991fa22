"""The gateway's platform on CPython: asyncio, the system's clock and randomness, log lines on standard output.

:class:`SingleProcess` keeps coordinators in memory; :class:`ManyNodes` shares them with other processes and machines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kontract.coordination.node import Node
from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits, logs
from kontract.core.errors import RateLimitedError
from kontract.core.events import Subscription
from kontract.core.shared.state import DictRows, SharedState
from kontract.ports import CoordinatorStub, Database, DOStub, Feed, KVStore, Log, Mutex
from kontract.ports.shared_log import SharedLog
from kontract.server import timed
from kontract.server.crypto import NativeCrypto
from kontract.server.feed import LocalFeed, Source
from kontract.server.journal import MemoryJournal
from kontract.server.shared import LocalShared
from kontract.server.system import SystemClock, SystemRandomness


def log_line(level: str, event: str, **fields: Any) -> None:
    """Write one JSON line."""
    sys.stdout.write(logs.line(level, event, fields) + "\n")


class ServerPlatform:
    """What both platforms have in common: RuntimeAdapter without the coordinators and the shared state."""

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
        self._tasks: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Finish what was spawned, if it takes no longer than a transaction."""
        if self._tasks:
            _, unfinished = await asyncio.wait(list(self._tasks), timeout=limits.TRANSACTION_MS / 1000)
            for task in unfinished:
                task.cancel()

    def _source(self, owner: str) -> Source:
        raise NotImplementedError

    def doubt(self) -> None:
        """Have every coordinator look whether the database is still the same: a connection was lost."""
        raise NotImplementedError

    async def open_feed(self, owner: str, subscription: Subscription) -> Feed:
        """Listen to the changes of ``owner``."""
        source = self._source(owner)
        if not source.hub.has_room(subscription.user):
            message = f"one user may have {limits.STREAMS_PER_USER} open streams; close one first"
            raise RateLimitedError(message, headers={"Retry-After": "30"})
        feed = LocalFeed(source, subscription)
        source.hub.add(feed)
        return feed

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
        return await timed.within(max(0.0, milliseconds) / 1000, work)


class SingleProcess(ServerPlatform):
    """RuntimeAdapter for one process: coordinators in memory, PostgreSQL for the data."""

    def __init__(
        self,
        open_database: Callable[[], Database],
        environment: Mapping[str, str],
        log: Log = log_line,
        shared: Callable[[str], DOStub] | None = None,
    ) -> None:
        """Serve with databases that ``open_database`` makes. ``shared``: an owner's shared state, kept elsewhere."""
        super().__init__(open_database, environment, log)
        self._shared_elsewhere = shared
        self._shells: dict[str, CoordinatorShell] = {}
        self._shared: dict[str, SharedState] = {}

    async def stop(self) -> None:
        """Finish what was spawned, and stop the coordinators' clocks."""
        await super().stop()
        for shell in self._shells.values():
            shell.rest()

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the coordinator of ``owner``, made at its first use."""
        return self._shell(owner)

    def _source(self, owner: str) -> Source:
        return self._shell(owner)

    def _shell(self, owner: str) -> CoordinatorShell:
        shell = self._shells.get(owner)
        if shell is None:
            shell = self._shells[owner] = CoordinatorShell(
                owner, MemoryJournal(), self.open_database, self.clock, self.log
            )
        return shell

    def doubt(self) -> None:
        """Ask the shells."""
        for shell in self._shells.values():
            shell.doubt()

    def shared(self, owner: str) -> DOStub:
        """Return the shared state of ``owner``, made at its first use."""
        if self._shared_elsewhere is not None:
            return self._shared_elsewhere(owner)
        state = self._shared.get(owner)
        if state is None:
            state = self._shared[owner] = SharedState(DictRows())
        return LocalShared(state, self.clock)


class ManyNodes(ServerPlatform):
    """RuntimeAdapter for one of several processes, perhaps on several machines, that share coordinators and state."""

    def __init__(
        self,
        open_database: Callable[[], Database],
        environment: Mapping[str, str],
        shared_log: SharedLog,
        shared: Callable[[str], DOStub],
        log: Log = log_line,
    ) -> None:
        """Coordinate over ``shared_log``; ``shared`` returns the shared state of an owner."""
        super().__init__(open_database, environment, log)
        self.shared = shared
        self.node = Node(self.random.token(8).hex(), shared_log, open_database, self.clock, self._log_line)

    def _log_line(self, level: str, event: str, **fields: Any) -> None:
        self.log(level, event, **fields)

    async def start(self) -> None:
        """Begin to follow what other nodes do."""
        self.node.start()

    async def stop(self) -> None:
        """Finish what was spawned, and follow no longer."""
        await super().stop()
        await self.node.stop()

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the coordinator of ``owner``, as this node sees it."""
        return self.node.replica(owner)

    def doubt(self) -> None:
        """Ask the replicas."""
        self.node.doubt()

    def _source(self, owner: str) -> Source:
        return self.node.replica(owner)
