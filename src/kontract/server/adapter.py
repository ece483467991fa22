"""A gateway built by hand: ``create_gateway(adapter, port)``, for programs with their own adapters.

``kontract serve`` does the same with settings, several processes, metrics and signals. Here the caller provides the
parts (:class:`RuntimeAdapter`) and an event loop, and decides when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian
from msgspec import Struct

from kontract.core import limits
from kontract.gateway import config
from kontract.gateway.app import Gateway
from kontract.gateway.config import ConfigurationError
from kontract.gateway.routes import Registry
from kontract.ports import Database, DOStub, KVStore, Log
from kontract.ports.shared_log import SharedLog
from kontract.server.assets import Assets
from kontract.server.clients import Clients
from kontract.server.database import Pool
from kontract.server.http import Http
from kontract.server.runtime import ManyNodes, SingleProcess, log_line
from kontract.server.settings import Network
from kontract.server.sockets import PeerSockets

FINISH_SECONDS = 20.0
"""How long running requests may continue after a stop: twice the longest transaction."""


class OwnedStub(DOStub, Protocol):
    """A DOStub that can return the stubs of all owners, like those of this package."""

    def for_owner(self, owner: str) -> DOStub:
        """Return the shared state of an owner."""
        ...


@dataclass
class RuntimeAdapter:
    """The parts of a gateway.

    ``pg``: the URL of a PostgreSQL, a :class:`~kontract.server.database.Pool`, or a function that returns a Database.
    ``routes``: ``@backend`` functions by name, or a Registry that `kontract build` compiled. ``tables``: the ``@table``
    structs of the functions' rows. ``do_stub`` and ``kv``: the tiers of ``ctx.shared``, by default in memory.
    ``coordination``: the log that several nodes share (PostgresLog, TiKVLog); without it the coordinators live in the
    memory of this process, which must then be the only one on this database.
    """

    pg: str | Pool | Callable[[], Database]
    routes: Mapping[str, Callable[..., Any]] | Registry
    do_stub: OwnedStub | None = None
    kv: KVStore | None = None
    coordination: SharedLog | None = None
    tables: Iterable[type[Struct]] = ()


@dataclass
class GatewayServer:
    """A gateway that listens inside its context: ``async with create_gateway(...) as server``."""

    adapter: RuntimeAdapter
    port: int
    host: str
    environment: Mapping[str, str]
    log: Log
    public: Path | None
    trusted_proxies: tuple[Network, ...] = ()
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Check the parts before anything is started."""
        try:
            config.read(self.environment)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        pg: Any = self.adapter.pg  # whatever a caller without a type checker gave
        if not (isinstance(pg, (str, Pool)) or callable(pg)):
            message = "pg must be the URL of a PostgreSQL, a Pool, or a function that returns a Database"
            raise TypeError(message)
        routes = self.adapter.routes
        self._registry = routes if isinstance(routes, Registry) else Registry.of(routes, self.adapter.tables)

    async def __aenter__(self) -> Self:
        """Listen."""
        adapter, pg = self.adapter, self.adapter.pg
        self._pool = Pool(pg, 10) if isinstance(pg, str) else None
        pool = pg if isinstance(pg, Pool) else self._pool
        open_database = pool.database if pool is not None else cast("Callable[[], Database]", pg)
        given = adapter.do_stub.for_owner if adapter.do_stub is not None else None
        single = SingleProcess(open_database, self.environment, self.log, given)
        self._platform: SingleProcess | ManyNodes = single
        if adapter.coordination is not None:
            shared = given or single.shared
            self._platform = ManyNodes(open_database, self.environment, adapter.coordination, shared, self.log)
        self._platform.kv = adapter.kv
        if self._pool is not None:
            self._pool.on_lost = self._platform.doubt
        await self._platform.start()
        self._http = Http(
            Gateway(self._registry),
            self._platform,
            Clients(self.trusted_proxies),
            Assets(self.public),
            PeerSockets(self.port),
        )
        self._granian = Granian(
            self._http,
            address=self.host,
            port=self.port,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(max_buffer_size=limits.HEAD_BYTES),
            log_enabled=False,
        )
        self._serving = asyncio.ensure_future(self._granian.serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Accept no new requests, finish running ones, and release everything."""
        self._http.drain()
        self._granian.stop()  # type: ignore[no-untyped-call]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await self._http.idle()
        self._http.close()
        await asyncio.wait([self._serving], timeout=5)
        await self._platform.stop()
        if self._pool is not None:
            await self._pool.aclose()

    async def serve(self) -> None:
        """Listen until :meth:`stop` is called, or this is cancelled."""
        async with self:
            stopped = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait([stopped, self._serving], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()

    def stop(self) -> None:
        """Let :meth:`serve` end."""
        self._stop.set()


def create_gateway(
    adapter: RuntimeAdapter,
    port: int = 8787,
    *,
    host: str = "127.0.0.1",
    environment: Mapping[str, str] | None = None,
    log: Log = log_line,
    public: Path | None = None,
) -> GatewayServer:
    """Return a gateway over ``adapter``; ``await server.serve()`` listens.

    ``environment`` (default: the process's) has KONTRACT_SECRET, KONTRACT_OWNER, KONTRACT_SIGN_UP and
    KONTRACT_CORS_ORIGINS, and is what functions see as ``ctx.env``. ``public``: a folder of files to serve.

    Raises ValueError when the environment is incomplete or wrong, TypeError when a route is not a ``@backend`` function
    or ``pg`` has another type.
    """
    return GatewayServer(adapter, port, host, os.environ if environment is None else environment, log, public)
