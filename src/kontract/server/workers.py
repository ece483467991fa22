"""Several processes that share a port: the parent starts them, replaces one that dies, and passes signals on.

Parent and child are connected by a socket pair. A child says ``ready`` on it, and answers ``metrics``. When the parent
dies, whatever the signal, the child reads the end of the line and stops as it would on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kontract.ports import Log
from kontract.server import exporter
from kontract.server.settings import Settings

ANSWER_SECONDS = 2.0
"""How long a child may take to report its metrics; then those of the others are served without them."""

QUICK_SECONDS = 10.0
"""A child that dies sooner has a reason that the next one will have, too: the pauses grow."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

_USAGE = 2
_LINE = 1 << 24


class Channel:
    """The child's end of the line."""

    def __init__(self, descriptor: int) -> None:
        """Use an inherited socket."""
        self._socket = socket.socket(fileno=descriptor)
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, metrics: Callable[[], Awaitable[str]], parent_gone: Callable[[], None]) -> None:
        """Say that this process is ready, and answer from now on."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._writer.write(b"ready\n")
        self._task = asyncio.create_task(self._listen(reader, self._writer, metrics, parent_gone))

    async def _listen(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        metrics: Callable[[], Awaitable[str]],
        parent_gone: Callable[[], None],
    ) -> None:
        with suppress(OSError):
            while await reader.readline():
                text = (await metrics()).encode()
                writer.write(b"%d\n" % len(text) + text)
        parent_gone()


class _Worker:
    """One child, as its parent sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: asyncio.subprocess.Process | None = None
        self.started = 0.0
        self.is_ready = False
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._turn = asyncio.Lock()

    async def start(self, command: list[str], environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.started, self.is_ready = time.monotonic(), False
            self.process = await asyncio.create_subprocess_exec(
                *command,
                "--worker",
                self.name,
                "--channel",
                str(theirs.fileno()),
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent, which passes it on once
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE)

    async def wait_ready(self) -> bool:
        """Wait until the worker is ready; False if it ended instead."""
        assert self._reader is not None
        self.is_ready = await self._reader.readline() == b"ready\n"
        return self.is_ready

    async def metrics(self) -> str:
        """Ask for its numbers; empty when it has none to tell."""
        if not self.is_ready or self._reader is None or self._writer is None:
            return ""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._writer.write(b"metrics\n")
                    size = int(await self._reader.readline() or b"0")
                    return (await self._reader.readexactly(size)).decode()
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                self.is_ready = False  # half an answer is on its way: it is not asked again
                return ""

    def send(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def wait(self) -> int:
        assert self.process is not None
        code = await self.process.wait()
        self.is_ready = False
        if self._writer is not None:
            self._writer.close()
        return code


class Workers:
    """The parent. ``command``: how a child is started, to which its name and its end of the line are added."""

    def __init__(self, settings: Settings, command: list[str], log: Log) -> None:
        """Start ``settings.workers`` children."""
        self._settings = settings
        self._command = command
        self._log = log
        self._workers = [_Worker(str(number)) for number in range(1, settings.workers + 1)]
        self._stopping = asyncio.Event()
        self._ready: Callable[[], None] | None = None
        self._failed = 0

    async def run(self, ready: Callable[[], None], patience: float) -> int:
        """Run until a signal, and return the exit code. ``patience``: seconds that children have for stopping."""
        self._ready = ready
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        metrics = None
        if self._settings.metrics is not None:
            metrics = await exporter.export(self._settings.metrics, self.metrics)
        keepers = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        await self._stopping.wait()
        _, late = await asyncio.wait(keepers, timeout=patience)
        if late:
            self._log("warning", "workers_killed", count=len(late))
            for worker in self._workers:
                worker.send(signal.SIGKILL)
            await asyncio.wait(late)
        if metrics is not None:
            metrics.close()
        return self._failed

    async def metrics(self) -> str:
        """Return the numbers of all children that answer."""
        from kontract.server.metrics import join

        asked: list[Awaitable[str]] = [worker.metrics() for worker in self._workers]
        return join(await asyncio.gather(*asked))

    async def _keep(self, worker: _Worker) -> None:
        """Run one child, and another one when it dies, until the parent stops."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            await worker.start(self._command, dict(self._settings.environment))
            if self._stopping.is_set():
                worker.send(signal.SIGTERM)
            was_ready = await worker.wait_ready()
            if self._ready is not None and all(one.is_ready for one in self._workers):
                self._ready()
                self._ready = None
            code = await worker.wait()
            if self._stopping.is_set():
                return
            if not was_ready and code == _USAGE:  # it has said why, and the others would say the same
                self._failed = code
                self._stop(signal.SIGTERM)
                return
            if time.monotonic() - worker.started > QUICK_SECONDS:
                pause = FIRST_PAUSE
            self._log("error", "worker_died", worker=worker.name, code=code, again_in=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, LONGEST_PAUSE)

    def _signalled(self, number: int) -> None:
        if self._stopping.is_set():
            for worker in self._workers:
                worker.send(signal.SIGKILL)
            os._exit(128 + number)
        self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopping.set()
        for worker in self._workers:
            worker.send(number)


def child_command() -> list[str]:
    """Return how this program starts a child."""
    return [sys.executable, "-m", "kontract.cli.main", "serve"]
