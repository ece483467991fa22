"""PostgreSQL through pg8000 over Hyperdrive.

Quirks of the platform, as measured:

- a connection belongs to the request that opened it; one kept from an earlier request hangs. Hyperdrive keeps the real
  connections, so opening one here is cheap;
- pg8000's calls look synchronous, but workerd suspends the calling Python stack while they wait, so other tasks of the
  isolate go on. A suspended stack cannot be cancelled: each call runs in a task of its own, which is left behind when
  its time is over;
- pg8000 takes two network turns for a statement with parameters. The extended protocol allows one: parse, bind, describe,
  execute and sync are sent together (PostgreSQL documentation, "Message Flow"). That is also what makes it safe behind a
  transaction pooler, which may change servers at every sync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pg8000 import core as pg
from pg8000.exceptions import DatabaseError as PgDatabaseError
from pg8000.exceptions import InterfaceError

from kontract.core import limits
from kontract.core.sql import Statement
from kontract.ports import DatabaseError, DatabaseUnavailableError

CONNECT_MS = 5_000

SET_TIMEOUT = "SELECT set_config('statement_timeout', $1, true)"
"""Local to the implicit transaction that a pipeline of messages is until its sync: nothing stays in the session."""

_INTEGERS = frozenset({20, 21, 23})  # int8, int2, int4 (pg_type.oid)


class PipelinedConnection(pg.CoreConnection):  # type: ignore[misc]  # pg8000 is untyped
    """A pg8000 connection that sends a whole statement in one network turn."""

    def run_pipelined(self, statement: Statement) -> list[list[Any]]:
        """Run one statement; rows hold int for integer columns and str for all others."""
        context = pg.Context(statement.text)
        if statement.timeout_ms is not None:
            self._send(SET_TIMEOUT, (str(statement.timeout_ms),))
        self._send(statement.text, statement.params)
        pg._write(self._sock, pg.SYNC_MSG)  # noqa: SLF001 - pinned, and tested against the real database
        pg._flush(self._sock)  # noqa: SLF001
        self.handle_messages(context)
        rows: list[list[Any]] = context.rows or []
        return rows

    def _send(self, text: str, params: Sequence[str | int | None]) -> None:
        self.send_PARSE(pg.NULL_BYTE, text)
        self.send_BIND(pg.NULL_BYTE, [None if value is None else str(value) for value in params])
        self._send_message(pg.DESCRIBE, b"P" + pg.NULL_BYTE)
        self.send_EXECUTE()

    def handle_ROW_DESCRIPTION(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Start the rows anew: the last statement of a pipeline is the one whose rows count."""
        super().handle_ROW_DESCRIPTION(data, context)
        context.rows = []
        context.input_funcs = [int if column["type_oid"] in _INTEGERS else str for column in context.columns]


class HyperdriveDatabase:
    """One connection for one request; statements of concurrent tasks take turns."""

    def __init__(self, connect: Callable[[], PipelinedConnection]) -> None:
        """Connect with ``connect`` when first needed."""
        self._connect = connect
        self._connecting: asyncio.Task[PipelinedConnection] | None = None
        self._turn = asyncio.Lock()
        self._broken = False

    def warm(self) -> None:
        """Start connecting."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement."""
        async with self._turn:
            if self._broken:
                message = "the connection broke earlier in this request"
                raise DatabaseUnavailableError(message)
            connection = await self._connection()
            limit = (statement.timeout_ms or limits.TRANSACTION_MS) + CONNECT_MS
            try:
                rows: list[list[Any]] = await _left_behind_after(limit, _call(connection.run_pipelined, statement))
            except PgDatabaseError as error:
                raise _database_error(error) from error
            except (OSError, InterfaceError, TimeoutError) as error:
                self._broken = True
                raise DatabaseUnavailableError(str(error)) from error
            return rows

    async def aclose(self) -> None:
        """Close the connection; a failure to do so changes nothing for anybody."""
        if self._connecting is None:
            return
        try:
            connection = await self._connecting
            connection.close()
        except Exception:  # noqa: BLE001, S110 - it is gone already
            pass

    async def _connection(self) -> PipelinedConnection:
        self.warm()
        assert self._connecting is not None
        try:
            connection: PipelinedConnection = await _left_behind_after(CONNECT_MS, self._connecting)
        except PgDatabaseError as error:
            raise _database_error(error) from error
        except (OSError, InterfaceError, TimeoutError) as error:
            self._broken = True
            raise DatabaseUnavailableError(str(error)) from error
        return connection

    async def _open(self) -> PipelinedConnection:
        return self._connect()


async def _call(function: Callable[[Statement], list[list[Any]]], statement: Statement) -> list[list[Any]]:
    return function(statement)


async def _left_behind_after(milliseconds: float, work: Any) -> Any:
    """Await a task, at most so long; then leave it alone, because its suspended stack cannot be cancelled."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=milliseconds / 1000)
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        message = f"no answer within {milliseconds / 1000:.0f} s"
        raise TimeoutError(message)
    return task.result()


def _database_error(error: PgDatabaseError) -> DatabaseError:
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return DatabaseError(fields.get("C", "XX000"), fields.get("M", "unknown"))


def connector(env: Any) -> Callable[[], PipelinedConnection]:
    """Return how to connect: through the HYPERDRIVE binding, or to the secret DATABASE_URL when there is none."""
    binding = getattr(env, "HYPERDRIVE", None)
    if binding is not None:
        return lambda: PipelinedConnection(
            binding.user,
            host=binding.host,
            port=int(binding.port),
            database=binding.database,
            password=binding.password,
            timeout=None,
            application_name="kontract",
        )
    url = getattr(env, "DATABASE_URL", None)
    if not url:
        return _not_configured
    return lambda: _connect_to_url(str(url))


def _not_configured() -> PipelinedConnection:
    message = "there is neither a HYPERDRIVE binding nor a DATABASE_URL secret; see wrangler.toml"
    raise InterfaceError(message)


def _connect_to_url(url: str) -> PipelinedConnection:
    import ssl
    from urllib.parse import parse_qs, unquote, urlsplit

    parts = urlsplit(url)
    secure = parse_qs(parts.query).get("sslmode", ["prefer"])[0] in ("require", "verify-ca", "verify-full")
    return PipelinedConnection(
        unquote(parts.username or "postgres"),
        host=parts.hostname or "localhost",
        port=parts.port or 5432,
        database=unquote(parts.path.lstrip("/")) or None,
        password=unquote(parts.password) if parts.password else None,
        ssl_context=ssl.create_default_context() if secure else None,
        application_name="kontract",
    )
