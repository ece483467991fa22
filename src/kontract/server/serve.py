"""One process of `kontract serve`: what it starts, in which order it stops, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from kontract.core import limits, logs
from kontract.core.statements import Statement
from kontract.core.transaction import sqlstates
from kontract.gateway.app import Gateway
from kontract.gateway.routes import Registry
from kontract.ports import DatabaseError, DatabaseUnavailableError, Log, RuntimeAdapter
from kontract.server import exporter
from kontract.server.assets import Assets
from kontract.server.clients import Clients
from kontract.server.database import Pool
from kontract.server.http import Http
from kontract.server.runtime import ManyNodes, SingleProcess
from kontract.server.settings import Settings, SettingsError
from kontract.server.shared_log.postgres import PostgresLog
from kontract.server.shared_log.tikv import TiKVLog
from kontract.server.shared_postgres import PostgresShared
from kontract.server.shared_tikv import create_tikv_adapter
from kontract.server.sockets import PeerSockets
from kontract.server.system import SystemClock
from kontract.server.tikv import connect_tikv
from kontract.server.workers import Channel, Workers, child_command

FINISH_SECONDS = 20.0
"""How long running requests may continue after SIGTERM: twice the longest transaction."""

CLOSE_SECONDS = 5.0
"""How long work after the answers, and closing connections, may take then."""

DATABASE_SECONDS = 60.0
"""How long a start waits for a database that does not answer, or takes no connections yet."""

DATABASE_PAUSE_SECONDS = 0.5

CONNECTIONS = 65_536
"""Open connections of one process. Each costs some ten kilobytes; the system's limit of open files comes first."""

BACKLOG = 1_024
"""Connections that wait to be accepted."""

TABLES = ["storage", "trxs", "coordination", "coordination_log", "coordination_checkpoints", "shared"]

Ready = Callable[[], None]


class ServedPlatform(RuntimeAdapter, Protocol):
    """A platform of a server process, which is started and stopped."""

    async def start(self) -> None:
        """Start what runs in the background; raises SettingsError for what cannot work as configured."""
        ...

    async def stop(self) -> None:
        """Finish what was spawned, and stop what runs in the background. Never raises."""
        ...

    def doubt(self) -> None:
        """Have every coordinator look whether the database is still the same: a connection was lost."""
        ...


def open_platform(settings: Settings, pool: Pool, log: Log) -> ServedPlatform:
    """Return the platform for the settings. Only this function knows all kinds of coordination."""
    if settings.coordination == "memory":
        return SingleProcess(pool.database, settings.environment, log)
    if settings.coordination == "postgres":
        shared = PostgresShared(pool.database())
        return ManyNodes(pool.database, settings.environment, PostgresLog(pool.database), shared.for_owner, log)
    try:
        tikv = connect_tikv(settings.tikv_pd_endpoint, environment=settings.environment)
    except (ImportError, ValueError) as error:
        raise SettingsError(str(error)) from None
    do_stub, kv = create_tikv_adapter(tikv)
    log_in_tikv = TiKVLog(tikv.raw, SystemClock().now)
    platform = ManyNodes(pool.database, settings.environment, log_in_tikv, do_stub.for_owner, log)
    platform.kv = kv
    return platform


class LineLog:
    """Log lines on standard output, written together once per turn of the loop: one system call for many requests."""

    def __init__(self, level: str) -> None:
        """Write lines of ``level`` and above."""
        self._levels = logs.from_level(level)
        self._lines: list[str] = []
        self.observe: Callable[[dict[str, Any]], None] | None = None

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        """Write a line."""
        if event == "request" and self.observe is not None:
            self.observe(fields)
        if level not in self._levels:
            return
        self._lines.append(logs.line(level, event, fields))
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        lines, self._lines = self._lines, []
        if lines:
            with suppress(OSError):  # nobody reads any more; a server goes on without its log
                sys.stdout.write("\n".join(lines) + "\n")
                sys.stdout.flush()


def application(*, development: bool = False) -> tuple[Registry, Path, str]:
    """Return what `kontract build` has compiled, the folder with public/ in it, and why there is no application.

    The last is empty except in ``development``: otherwise it raises SettingsError.
    """
    source = Path.cwd() / "src"
    if development:
        # Bytecode is told from its source by size and whole seconds: it would hide an edit of the same second.
        sys.dont_write_bytecode = True
    if (source / "routes.py").is_file():
        sys.path.insert(0, str(source))  # before any other application that this Python has
    try:
        compiled = importlib.import_module("routes")
    except ModuleNotFoundError as error:
        if error.name != "routes":
            raise
        message = "src/routes.py is missing, so there are no functions; run: kontract build"
        raise SettingsError(message) from None
    broken = str(getattr(compiled, "BROKEN", ""))
    if broken and not development:
        message = f"the application was not built. {broken}"
        raise SettingsError(message)
    return Registry(compiled.ROUTES, compiled.TABLES), Path(str(compiled.__file__)).resolve().parents[1], broken


def check_port(host: str, port: int, name: str = "PORT") -> None:
    """Raise SettingsError when the address is not available; later, processes of one server share it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # leftovers of closed connections are fine
        try:
            probe.bind((host, port))
        except OSError as error:
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            message = (
                f"cannot listen on {shown} ({error.strerror}): stop the process that uses it, or choose another {name}"
            )
            raise SettingsError(message) from None


class DatabaseAwayError(SettingsError):
    """The database does not answer, or does not accept connections yet: it may in a moment."""


async def await_database(pool: Pool, coordination: str, log: LineLog) -> None:
    """Check the database, and wait for it if that may help: servers and their databases start together."""
    until = time.monotonic() + DATABASE_SECONDS
    said = False
    while True:
        try:
            return await check_database(pool, coordination)
        except DatabaseAwayError as error:
            if time.monotonic() + DATABASE_PAUSE_SECONDS > until:
                message = f"{error}. This server has waited {DATABASE_SECONDS:.0f} s"
                raise SettingsError(message) from None
            if not said:
                log("warning", "database_awaited", reason=str(error), seconds=DATABASE_SECONDS)
                log.flush()
                said = True
            await asyncio.sleep(DATABASE_PAUSE_SECONDS)


async def check_database(pool: Pool, coordination: str) -> None:
    """Raise SettingsError when the database refuses this server, or has not been migrated."""
    try:
        await pool.access()
        found = await pool.run(
            Statement("SELECT to_regclass(n) IS NOT NULL FROM unnest($1::text[]) AS t(n)", (TABLES,))
        )
        there, shared = all(row[0] for row in found[:2]), all(row[0] for row in found[2:])
    except DatabaseError as error:
        if sqlstates.meaning(error.sqlstate).fix is sqlstates.Fix.RETRY:
            message = f"the database accepts no connections at the moment (SQLSTATE {error.sqlstate}: {error.message})"
            raise DatabaseAwayError(message) from None
        message = (
            f"the database refuses the connection (SQLSTATE {error.sqlstate}: {error.message}): check DATABASE_URL"
        )
        raise SettingsError(message) from None
    except DatabaseUnavailableError as error:
        message = f"the database cannot be reached ({error}): check DATABASE_URL, and that PostgreSQL is running there"
        raise DatabaseAwayError(message) from None
    if not there:
        message = "the tables storage and trxs are missing from the database: run: kontract migrate"
        raise SettingsError(message)
    if coordination == "postgres" and not shared:
        message = (
            "the tables for coordinators that processes share are missing from the database: run: "
            "kontract migrate --coordination (or set KONTRACT_COORDINATION=memory, if this is the only process)"
        )
        raise SettingsError(message)


class ServerProcess:
    """One process that answers requests, from start to end."""

    def __init__(
        self, settings: Settings, worker: str = "1", channel: Channel | None = None, ready: Ready | None = None
    ) -> None:
        """Serve as ``settings`` say. ``worker``: its name among the processes of this server.

        ``channel``: the line to the parent, where there is one. ``ready``: called once requests are answered.
        """
        self._settings = settings
        self._worker = worker
        self._channel = channel
        self._ready = ready
        self._stop = asyncio.Event()
        self._interactive = False

    async def run(self) -> int:
        """Serve until a signal and return the exit code; raises SettingsError when it cannot start."""
        settings = self._settings
        registry, root, broken = application(development=settings.development)
        log = LineLog(settings.log_level)
        pool = Pool(settings.database_url, settings.pool, settings.prepared)
        try:
            await await_database(pool, settings.coordination, log)
            platform = open_platform(settings, pool, log)
            pool.on_lost = platform.doubt
            await platform.start()
            http = Http(
                Gateway(registry, broken),
                platform,
                Clients(settings.trusted_proxies),
                Assets(root / "public", watched=settings.development),
                PeerSockets(settings.port),
            )
            collect = self._metrics(registry, http, pool, log)
            # Before granian: its threads outlive an error of the start, and the interpreter ends badly under them.
            exported = None
            if settings.metrics is not None and self._channel is None:  # else the parent answers for its processes
                exported = await exporter.export(settings.metrics, collect)
            access = await pool.access()
            granian = _granian(http, settings)
            self._on_signals()
            settle_memory()
            serving = asyncio.ensure_future(granian.serve())
            log(
                "info",
                "serving",
                host=settings.host,
                port=settings.port,
                worker=self._worker,
                pid=os.getpid(),
                functions=len(registry),
                coordination=settings.coordination,
                pooled=access.pooled,
                prepared=access.prepared,
            )
            if access.is_unbounded:
                log("warning", "statement_timeout", advice=_ADVICE)
            await self._tell(collect)
            await self._serve(serving)
            await self._finish(http, granian, serving, log)
            if exported is not None:
                exported.close()
            await platform.stop()
            log("info", "stopped", worker=self._worker)
        finally:
            await pool.aclose()
            log.flush()
        return 0

    def _metrics(self, registry: Registry, http: Http, pool: Pool, log: LineLog) -> exporter.Collect:
        """Count from now on, if metrics are enabled; return the function that renders them."""
        if self._settings.metrics is None:
            return _none
        from kontract.server.metrics import Metrics  # 50 ms

        metrics = Metrics(self._worker, registry.names())
        log.observe = metrics.observe
        metrics.gauges += [http.gauges, lambda: _pool_gauges(pool)]
        return metrics.text

    async def _tell(self, collect: exporter.Collect) -> None:
        """Say that requests are answered, and give metrics to the parent, if there is one."""
        if self._channel is not None:
            await self._channel.open(collect, self._stop.set)
        if self._ready is not None:
            self._ready()

    async def _serve(self, serving: asyncio.Future[None]) -> None:
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if serving.done():
            serving.result()

    async def _finish(self, http: Http, granian: Granian, serving: asyncio.Future[None], log: LineLog) -> None:
        log("info", "draining", worker=self._worker, running=http.running)
        http.drain()
        if self._settings.drain_seconds and not self._interactive:
            await asyncio.sleep(self._settings.drain_seconds)
        await http.streams_closed()  # granian drops messages that are on their way
        granian.stop()  # type: ignore[no-untyped-call]
        finished = asyncio.ensure_future(http.idle())
        await asyncio.wait([finished], timeout=FINISH_SECONDS)
        if not finished.done():
            log("warning", "cut", worker=self._worker, running=http.running)
            finished.cancel()
        http.close()
        # Answers that were given are on their way out; connections that do nothing are closed.
        await asyncio.wait([serving], timeout=CLOSE_SECONDS)

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if self._settings.development:
            # Ctrl-C reaches the command that started this one, too; it decides.
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)  # the second one: at once
        self._interactive = number == signal.SIGINT
        self._stop.set()


_ADVICE = (
    "the database is reached through a pooler and its role has no statement_timeout, so a statement of a server that "
    "dies may wait for a lock for a long time; run: ALTER ROLE <role> SET statement_timeout = '5s'"
)


def _granian(http: Http, settings: Settings) -> Granian:
    return Granian(
        http,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=limits.HEAD_BYTES),
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        log_enabled=False,
    )


def settle_memory() -> None:
    """Let the collector of cycles pass over what the start has made: it lives as long as the process.

    Each full collection walks everything that it knows; modules and types are some 100,000 objects.
    """
    gc.collect()
    gc.freeze()


async def _none() -> str:
    return ""


def _pool_gauges(pool: Pool) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    return [
        ("kontract_pool_connections", (("state", "max"),), pool.size),
        ("kontract_pool_connections", (("state", "idle"),), pool.open_connections - pool.in_use),
        ("kontract_pool_connections", (("state", "used"),), pool.in_use),
        ("kontract_pool_waiting", (), pool.waiting),
    ]


def run(settings: Settings, ready: Ready | None = None) -> int:
    """Run the server to its end and return the exit code; raises SettingsError. ``ready``: called once it answers."""
    check_port(settings.host, settings.port)
    if settings.workers == 1:
        return _run(ServerProcess(settings, ready=ready).run)

    async def parent() -> int:
        application(development=settings.development)
        pool = Pool(settings.database_url, 1, settings.prepared)
        log = LineLog(settings.log_level)
        try:
            await await_database(pool, settings.coordination, log)
        finally:
            await pool.aclose()
        try:
            workers = Workers(settings, child_command(), log)
            return await workers.run(ready or _nothing, settings.drain_seconds + FINISH_SECONDS + 3 * CLOSE_SECONDS)
        finally:
            log.flush()

    return _run(parent)


def run_worker(settings: Settings, worker: str, channel: int) -> int:
    """Run one process of several, whose parent is at the other end of the descriptor ``channel``."""

    async def child() -> int:
        return await ServerProcess(settings, worker, Channel(channel)).run()

    return _run(child)


def _nothing() -> None:
    """Nobody waits for it."""


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run on uvloop, where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    _raise_file_limit()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def _raise_file_limit() -> None:
    """Raise the limit of open files: every connection is one, and many systems allow 1,024 by default."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
