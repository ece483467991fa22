"""All owners that this process serves: their replicas, and the one task that follows their logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kontract.coordination.replica import Replica
from kontract.coordination.states import StoppedError
from kontract.ports import Clock, Database, Log
from kontract.ports.shared_log import LogUnavailableError, SharedLog

FOLLOW_MS = 10
"""How often to poll the logs while a caller waits for what another node will append."""

LISTEN_MS = 50
"""How often otherwise, while there are streams or unfinished transactions: the delay of events from other nodes."""

IDLE_MS = 500
"""How often timers are checked when nobody waits."""

FORGET_MS = 1_200_000
"""When an unused replica is dropped: late enough for the collection that is due RETENTION_MS after use."""


class Node:
    """This process's part in the coordination of all owners."""

    def __init__(
        self, name: str, log: SharedLog, open_database: Callable[[], Database], clock: Clock, log_line: Log
    ) -> None:
        """``name``: random, one for each life of a process."""
        self.name = name
        self._log = log
        self._open_database = open_database
        self._clock = clock
        self._log_line = log_line
        self._replicas: dict[str, Replica] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def replica(self, owner: str) -> Replica:
        """Return the coordinator of ``owner``, made at its first use."""
        replica = self._replicas.get(owner)
        if replica is None:
            replica = self._replicas[owner] = Replica(
                owner,
                self.name,
                self._log,
                self._open_database,
                self._clock,
                self._log_line,
                on_waiting=self._wanted.set,
            )
        return replica

    def doubt(self) -> None:
        """Have every replica look whether the database is still the same: a connection was lost."""
        for replica in self._replicas.values():
            replica.doubt()

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Follow no longer, and close the log. Never raises."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._log.aclose()

    async def _follow(self) -> None:
        while True:
            await self._pause()
            try:
                await self._read()
            except LogUnavailableError as error:
                self._log_line("warning", "log", error=str(error))
                await self._clock.sleep(IDLE_MS)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must not wait for ever
                self._log_line("error", "log", error=repr(error))
                await self._clock.sleep(IDLE_MS)
            for owner, replica in list(self._replicas.items()):
                replica.tick()
                if replica.is_idle and self._clock.now() - replica.used_at >= FORGET_MS:
                    del self._replicas[owner]

    async def _pause(self) -> None:
        replicas = self._replicas.values()
        if any(replica.waits for replica in replicas):
            await self._clock.sleep(FOLLOW_MS)
            return
        pause = LISTEN_MS if any(replica.follows for replica in replicas) else IDLE_MS
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause / 1000):
                await self._wanted.wait()

    async def _read(self) -> None:
        followed = {owner: replica for owner, replica in self._replicas.items() if replica.follows}
        if not followed:
            return
        asked = {owner: replica.machine.last for owner, replica in followed.items()}
        news = await self._log.news(
            {owner: last.position for owner, last in asked.items()}, {owner: last.at for owner, last in asked.items()}
        )
        for owner, entries in news.items():
            with contextlib.suppress(StoppedError):  # it has said so, and follows no longer
                if entries:
                    followed[owner].take(asked[owner], entries)
                else:
                    await followed[owner].follow()  # from the checkpoint: what comes next is gone
