"""PostgreSQL through asyncpg: a pool for the server, and a single connection for commands and tests.

Every statement of :mod:`kontract.core.transaction.sql` stands alone, so a request holds a connection while a statement
runs and not longer: a few connections serve hundreds of requests that wait for something else.

What stops a statement that waits on a lock when this process dies is PostgreSQL's ``statement_timeout``. How it is set
depends on what stands between, which the first connection finds out (:class:`Access`):

- PostgreSQL itself: as a parameter of the connection. Statements are prepared once and cost one network turn each.
- A pooler in transaction mode: it lends another server connection to each transaction, so nothing may be left in a
  session. Statements are prepared if it keeps them for its clients (PgBouncer from 1.21 on); if not, each goes out
  whole, in one network turn. The role's own setting (``ALTER ROLE .. SET statement_timeout``) holds on all connections.
  Without it only this process limits its statements, and ``kontract serve`` says so when it starts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg
from msgspec import Struct

from kontract.core import limits
from kontract.core.statements import Statement
from kontract.core.transaction import sqlstates
from kontract.ports import DatabaseError, DatabaseUnavailableError
from kontract.server.connect import connect
from kontract.server.prepared import KEPT, Statements, are_tracked

CONNECT_SECONDS = 5.0

CLOSE_SECONDS = 2.0
"""How long a clean disconnect may take; then the socket is closed without it."""

IDLE_SECONDS = 300.0
"""An unused connection is closed after this time: firewalls drop silent connections."""

LIFE_SECONDS = 1_800.0
"""A connection is replaced after half an hour, so that a database that has moved is found at its new address."""

_LOOK = "SELECT pg_backend_pid(), setting::int FROM pg_settings WHERE name = 'statement_timeout'"

RENEW_SECONDS = 1.0
"""All connections are replaced when one of them cannot write, but not more often than this: reads need them, too."""

_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
T = TypeVar("T")

_PROTOCOL_VIOLATION = "08P01"
_READ_ONLY = "25006"
_UNKNOWN_STATEMENT = ("26000", "42P05")
"""invalid_sql_statement_name, duplicate_prepared_statement: a pooler has changed the server under a prepared one."""


async def _fetch(found: Awaitable[T]) -> T:
    """Await what asyncpg finds; raises DatabaseError, and DatabaseUnavailableError if the connection is of no use."""
    try:
        return await found
    except asyncpg.PostgresConnectionError as error:
        raise DatabaseUnavailableError(str(error)) from error
    except asyncpg.PostgresError as error:
        constraint = getattr(error, "constraint_name", None)
        raise DatabaseError(error.sqlstate or "XX000", str(error), constraint or "") from error
    except _LOST as error:
        raise DatabaseUnavailableError(str(error) or type(error).__name__) from error


class AsyncpgDatabase:
    """One connection, opened when first used; statements of concurrent tasks take turns."""

    def __init__(self, url: str) -> None:
        """Connect to ``url`` (postgresql://...) later."""
        self._url = url
        self._connection: Any = None
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def warm(self) -> None:
        """Nothing: the connection is opened at the first statement."""

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement."""
        async with self._turn:
            timeout = None if statement.timeout_ms is None else statement.timeout_ms / 1000
            try:
                if self._connection is None:
                    self._connection = await _connect(self._url, statement_cache_size=0)
                return await _fetch(self._connection.fetch(statement.text, *statement.params, timeout=timeout))
            except DatabaseUnavailableError:
                self._drop()
                raise
            except DatabaseError as error:
                if sqlstates.ends_connection(error.sqlstate):
                    self._drop()
                raise

    async def aclose(self) -> None:
        """Close the connection."""
        self._drop()

    def _drop(self) -> None:
        """Have no connection: the next statement opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _connect(url: str, **options: Any) -> Any:
    """Open a connection; raises DatabaseUnavailableError, and DatabaseError for what the server refuses."""
    try:
        return await connect(url, seconds=CONNECT_SECONDS, **options)
    except asyncpg.ProtocolViolationError as error:  # what PgBouncer says to a parameter that it does not know
        raise DatabaseError(_PROTOCOL_VIOLATION, str(error)) from error
    except asyncpg.PostgresConnectionError as error:
        raise DatabaseUnavailableError(str(error)) from error
    except asyncpg.PostgresError as error:
        raise DatabaseError(error.sqlstate or "XX000", str(error)) from error
    except (*_LOST, ValueError) as error:
        raise DatabaseUnavailableError(str(error) or type(error).__name__) from error


class Access(Struct, frozen=True):
    """What the first connection found out.

    ``pooled``: something stands between that hands each transaction to another server connection. ``session_timeout``:
    ``statement_timeout`` can be set for a connection. ``role_timeout_ms``: the role's own, 0 when it has none.
    ``prepared``: statements are prepared once.
    """

    pooled: bool
    session_timeout: bool
    role_timeout_ms: int
    prepared: bool

    @property
    def is_unbounded(self) -> bool:
        """Whether PostgreSQL puts no limit of time on our statements: those of a process that died may wait on."""
        return not self.session_timeout and self.role_timeout_ms == 0


_WITHOUT_SESSIONS = Access(pooled=True, session_timeout=False, role_timeout_ms=0, prepared=False)


class _Held:
    """A connection of the pool, and when it was opened and last used (seconds of a clock that never goes back)."""

    __slots__ = ("access", "connection", "idle_since", "opened", "statements")

    def __init__(self, connection: Any, access: Access, now: float) -> None:
        self.connection = connection
        self.statements = Statements(connection, named=access.prepared, pooled=access.pooled)
        self.access = access
        self.opened = now
        self.idle_since = now


class Pool:
    """The connections of one process: at most ``size``, opened when needed, the one used last first."""

    def __init__(self, url: str, size: int, prepared: str = "auto") -> None:
        """Connect to ``url`` later. ``prepared``: "on", "off", or "auto" for wherever it is known to work."""
        self._url = url
        self._size = size
        self._prepared = prepared
        self._access: Access | None = None
        self._learning = asyncio.Lock()
        self._idle: list[_Held] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.Task[None] | None = None
        self._renewed_at = 0.0  # connections opened before are not used again
        self._closed = False
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the other side has closed an unused connection."""

    # --- what can be seen --------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many connections there may be."""
        return self._size

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return self._open

    @property
    def in_use(self) -> int:
        """How many of them run a statement."""
        return self._open - len(self._idle)

    @property
    def waiting(self) -> int:
        """How many statements wait for one."""
        return len(self._waiting)

    async def access(self) -> Access:
        """Return what lies between here and the database; connects at the first call. Raises as ``run`` does."""
        if self._access is None:
            async with self._learning:
                if self._access is None:
                    self._access = await _look(self._url, self._prepared)
        return self._access

    # --- what is done ------------------------------------------------------------------------------------------------

    def database(self) -> PooledDatabase:
        """Return a database for one request."""
        return PooledDatabase(self)

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement on a connection of the pool."""
        began = time.monotonic()
        while True:
            held = await self._take()
            whole = False
            try:
                rows = await _run(held, statement)
            except DatabaseError as error:
                if error.sqlstate in _UNKNOWN_STATEMENT and held.access.prepared:
                    # It has not run. A pooler that looked like PostgreSQL: go on without what it cannot do.
                    self._access = _WITHOUT_SESSIONS
                    continue
                whole = not sqlstates.ends_connection(error.sqlstate)
                if error.sqlstate == _READ_ONLY and held.opened < began:
                    self._renew()
                    continue  # it has not run either, and a new connection says how the database is now
                raise
            else:
                whole = True
                return rows
            finally:
                if whole and not held.connection.is_closed():
                    self._give_back(held)
                else:  # also when cancelled: half an answer may be left in it
                    self._lose(held)

    async def aclose(self) -> None:
        """Close every connection that is idle; those in use are closed when they come back."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        await asyncio.gather(*(_say_goodbye(held.connection) for held in idle))

    async def _take(self) -> _Held:
        """Return a connection that is this caller's alone; raises DatabaseError, DatabaseUnavailableError."""
        while True:
            if self._closed:
                message = "this server is shutting down"
                raise DatabaseUnavailableError(message)
            while self._idle:
                held = self._idle.pop()
                fit = held.access is self._access and held.opened >= self._renewed_at
                if fit and not held.connection.is_closed():
                    return held
                self._open -= 1
                held.connection.terminate()
            if self._open < self._size:
                return await self._open_one()
            await self._wait()

    def _renew(self) -> None:
        """Have none of the connections of before.

        A database that was read-only for a while leaves read-only sessions behind, and one that is a standby now leads
        to where writing is not possible, although there may be a server that takes writes at the same address.
        """
        now = time.monotonic()
        if now - self._renewed_at > RENEW_SECONDS:
            self._renewed_at = now

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(limits.TRANSACTION_MS / 1000):
                await turn
        except TimeoutError:
            message = f"all {self._size} connections were in use for {limits.TRANSACTION_MS} ms"
            raise DatabaseUnavailableError(message) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()  # the turn was this one's: it is the next one's
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)

    async def _open_one(self) -> _Held:
        self._open += 1
        try:
            access = await self.access()
            connection = await _connect(self._url, **_options(access))
        except BaseException:
            self._open -= 1
            self._wake()
            raise
        if self._sweeper is None and not self._closed:
            self._sweeper = asyncio.create_task(self._sweep())
        held = _Held(connection, access, time.monotonic())
        connection.add_termination_listener(lambda _: self._ended(held))
        return held

    def _ended(self, held: _Held) -> None:
        """See whether it was us: what we close is not among the idle ones any more."""
        if held in self._idle and not self._closed:
            self.on_lost()

    def _give_back(self, held: _Held) -> None:
        now = time.monotonic()
        if self._closed or now - held.opened > LIFE_SECONDS or held.opened < self._renewed_at:
            self._lose(held)
            return
        held.idle_since = now
        self._idle.append(held)
        self._wake()

    def _lose(self, held: _Held) -> None:
        self._open -= 1
        held.connection.terminate()
        self._wake()

    def _wake(self) -> None:
        """Let the longest waiting statement try again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _sweep(self) -> None:
        """Close connections that are not used any more."""
        while True:
            await asyncio.sleep(IDLE_SECONDS / 10)
            before = time.monotonic() - IDLE_SECONDS
            old = [held for held in self._idle if held.idle_since < before]
            self._idle = [held for held in self._idle if held.idle_since >= before]
            self._open -= len(old)
            await asyncio.gather(*(_say_goodbye(held.connection) for held in old))


class PooledDatabase:
    """The pool as one request sees it. Implements :class:`kontract.ports.Database`."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        """Use ``pool``."""
        self._pool = pool

    @property
    def is_open(self) -> bool:
        """No: each statement gives its connection back."""
        return False

    def warm(self) -> None:
        """Nothing: there is a connection, or it is opened at the first statement."""

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement."""
        return await self._pool.run(statement)

    async def aclose(self) -> None:
        """Nothing: no connection is held between statements."""


async def _run(held: _Held, statement: Statement) -> Sequence[Sequence[Any]]:
    # The server's limit comes first: it says what became of the statement.
    patience = (statement.timeout_ms or limits.STATEMENT_MS) / 1000 + 1.0
    # Never BEGIN, SET LOCAL and COMMIT around it: a process that is stopped in between keeps the locks of its rows, and
    # everybody else waiting, for as long as it pleases. A statement alone ends by itself.
    return await _fetch(held.statements.fetch(statement, patience))


async def _look(url: str, prepared: str) -> Access:
    """Connect, and find out what lies between. Raises DatabaseError, DatabaseUnavailableError."""
    session = True
    try:
        connection = await _connect(url, **_options(Access(False, True, 0, False)))
    except DatabaseError as error:
        if error.sqlstate != _PROTOCOL_VIOLATION:
            raise
        connection, session = await _connect(url, statement_cache_size=0), False
    try:
        [[pid, setting]] = await _fetch(connection.fetch(_LOOK, timeout=CONNECT_SECONDS))
        # A pooler makes up the process id that a client is told (it stands for the client in a cancel request).
        pooled = pid != connection.get_server_pid()
        kept = not pooled or (prepared == "auto" and await _keeps(url))
    finally:
        connection.terminate()
    session = session and not pooled
    return Access(
        pooled=pooled,
        session_timeout=session,
        role_timeout_ms=0 if session else int(setting),
        prepared=prepared == "on" or (prepared == "auto" and kept),
    )


async def _keeps(url: str) -> bool:
    """Whether the pooler at this address keeps prepared statements."""
    connection = await _connect(url, statement_cache_size=KEPT)
    try:
        return await _fetch(are_tracked(connection))
    finally:
        connection.terminate()


def _options(access: Access) -> dict[str, Any]:
    settings = {}
    if access.session_timeout:
        settings["statement_timeout"] = str(limits.STATEMENT_MS)
        # A policy that would hide rows makes the statement fail instead: rows must not vanish without a word.
        settings["row_security"] = "off"
    return {
        "statement_cache_size": KEPT if access.prepared else 0,
        "server_settings": settings,
    }


async def _say_goodbye(connection: Any) -> None:
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except Exception:  # noqa: BLE001 - it is gone already
        connection.terminate()
