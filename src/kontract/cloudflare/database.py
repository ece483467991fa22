"""PostgreSQL over Hyperdrive: one connection per request.

A connection belongs to the request that opened it; one kept from an earlier request hangs. Hyperdrive keeps the real
connections, so opening one here is cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from pg8000.exceptions import DatabaseError as PgDatabaseError
from pg8000.exceptions import InterfaceError
from pyodide.ffi import JsException

from kontract.cloudflare.postgres_wire import Connection, Tls, connect
from kontract.core import database_url, limits
from kontract.core.database_url import DatabaseUrl, DatabaseUrlError
from kontract.core.statements import Statement
from kontract.core.transaction import sqlstates
from kontract.ports import DatabaseError, DatabaseUnavailableError

CONNECT_MS = 5_000

Connect: TypeAlias = Callable[[], Awaitable[Connection]]

TRIES: Mapping[str, Sequence[Tls]] = {
    "disable": (Tls.NONE,),
    "allow": (Tls.NONE, Tls.REQUIRED),
    "prefer": (Tls.OFFERED, Tls.NONE),
    "require": (Tls.REQUIRED,),
    "verify-ca": (Tls.REQUIRED,),
    "verify-full": (Tls.REQUIRED,),
}
"""What is tried for each sslmode, in libpq's order. The platform verifies every certificate: it knows no other way."""

_BREAKS = (OSError, InterfaceError, TimeoutError, JsException)


class HyperdriveDatabase:
    """One connection for one request; statements of concurrent tasks take turns."""

    def __init__(self, connect: Connect) -> None:
        """Connect with ``connect`` when first needed."""
        self._connect = connect
        self._connecting: asyncio.Future[Connection] | None = None
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether a connection was asked for."""
        return self._connecting is not None

    def warm(self) -> None:
        """Start connecting."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(_seen)

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement. After a connection broke, the next statement opens a new one."""
        async with self._turn:
            whole = False
            limit = (statement.timeout_ms or limits.TRANSACTION_MS) + CONNECT_MS
            try:
                async with asyncio.timeout(limit / 1000):
                    self.warm()
                    assert self._connecting is not None
                    connection = await asyncio.shield(self._connecting)
                    rows = await connection.run(statement)
                whole = True
            except PgDatabaseError as error:
                refused = _database_error(error)
                whole = not sqlstates.ends_connection(refused.sqlstate)
                raise refused from error
            except _BREAKS as error:
                raise DatabaseUnavailableError(str(error)) from error
            finally:
                if not whole:  # also when cancelled: half an answer is left in it
                    self._connecting = None
            return rows

    async def aclose(self) -> None:
        """Close the connection; a failure to do so changes nothing for anybody."""
        if self._connecting is None:
            return
        try:
            connection = await self._connecting
            await connection.close()
        except Exception:  # noqa: BLE001, S110 - it is gone already
            pass

    async def _open(self) -> Connection:
        async with asyncio.timeout(CONNECT_MS / 1000):
            return await self._connect()


def _seen(future: asyncio.Future[Connection]) -> None:
    """Look at the error of a connection that nobody came to use."""
    if not future.cancelled():
        future.exception()


def _database_error(error: PgDatabaseError) -> DatabaseError:
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return DatabaseError(fields.get("C", "XX000"), fields.get("M", "unknown"), fields.get("n", ""))


def connector(env: Any) -> Connect:
    """Return how to connect: through the HYPERDRIVE binding, or to the secret DATABASE_URL when there is none."""
    binding = getattr(env, "HYPERDRIVE", None)
    if binding is not None:
        return lambda: connect(
            str(binding.host), int(binding.port), str(binding.user), str(binding.database), str(binding.password)
        )
    url = getattr(env, "DATABASE_URL", None)
    if not url:
        return partial(_refuse, "there is neither a HYPERDRIVE binding nor a DATABASE_URL secret; see wrangler.toml")
    try:
        target = database_url.read(str(url))
        target.only_host("a Worker")
    except DatabaseUrlError as error:
        return partial(_refuse, str(error))
    return partial(_connect_to, target)


async def _connect_to(target: DatabaseUrl) -> Connection:
    """Connect with as much TLS as libpq would use; where it is used, the platform checks the certificate."""
    host, port = target.only_host("a Worker")
    first, *others = TRIES[target.sslmode]
    try:
        return await connect(host, port, target.user, target.database, target.password, first)
    except (*_BREAKS, PgDatabaseError):
        if not others:
            raise
        return await connect(host, port, target.user, target.database, target.password, *others)


async def _refuse(message: str) -> Connection:
    raise InterfaceError(message)
