"""PostgreSQL over Hyperdrive, spoken by node-postgres: postgres.js beside this file.

One connection per request. A connection belongs to the request that opened it; one kept from an earlier request hangs.
Hyperdrive keeps the real connections, so opening one here is cheap.

The protocol is JavaScript's, because the bytes of a socket are. A statement crosses to it once, as JSON text, and its
rows come back once, as JSON text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from pyodide.ffi import JsException

from kontract.cloudflare import modules
from kontract.core import database_url, limits
from kontract.core.database_url import DatabaseUrlError
from kontract.core.statements import Statement
from kontract.core.transaction import sqlstates
from kontract.ports import DatabaseError, DatabaseUnavailableError

CONNECT_MS = 5_000

TRIES: Mapping[str, Sequence[bool]] = {
    "disable": (False,),
    "allow": (False, True),
    "prefer": (True, False),
    "require": (True,),
    "verify-ca": (True,),
    "verify-full": (True,),
}
"""Whether TLS is used, for each sslmode what libpq tries, in its order.

Where it is used the platform verifies the certificate: it knows no other way.
"""

Connect: TypeAlias = Callable[[], Any]
"""Starts connecting and returns at once: a Connection of postgres.js."""


class _Target(Struct):
    """Where to connect to, unless a binding says that. ``tls``: what is tried; ``patience``: for how long, in ms.

    ``refused``: why there is nothing to connect to; then every statement fails with it.
    """

    host: str = ""
    port: int = 0
    user: str = ""
    database: str = ""
    password: str | None = None
    tls: Sequence[bool] = (False,)
    refused: str = ""
    patience: int = msgspec.field(default_factory=lambda: CONNECT_MS)
    application_name: str = "kontract"


class _Run(Struct):
    """A statement as postgres.js takes it: parameters as text, which the SQL casts; times in ms.

    ``timeout``: PostgreSQL's own limit. ``patience``: how long its answer may take in all.
    """

    text: str
    params: list[str | None]
    timeout: int | None
    patience: int


class _Answer(Struct):
    """What postgres.js returns: rows of int and str, PostgreSQL's error, or what happened to the connection."""

    rows: list[list[int | str | None]] = []
    sqlstate: str = ""
    message: str = ""
    detail: str = ""
    constraint: str = ""
    lost: str = ""


class HyperdriveDatabase:
    """One connection for one request; it answers the statements of concurrent tasks one after the other."""

    def __init__(self, connect: Connect) -> None:
        """Connect with ``connect`` when first needed."""
        self._connect = connect
        self._connection: Any = None

    @property
    def is_open(self) -> bool:
        """Whether a connection was asked for."""
        return self._connection is not None

    def warm(self) -> None:
        """Start connecting."""
        if self._connection is None:
            self._connection = self._connect()

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run one statement. After a connection broke, the next statement opens a new one."""
        self.warm()
        connection, whole = self._connection, False
        try:
            answer = _decode(str(await connection.run(_encode(statement))))
            if answer.lost:
                raise DatabaseUnavailableError(answer.lost)
            whole = not (answer.sqlstate and sqlstates.ends_connection(answer.sqlstate))
        except JsException as error:
            raise DatabaseUnavailableError(str(error)) from error
        finally:
            if not whole:  # also when cancelled: nobody waits for what it still has to answer
                self._leave(connection)
        if answer.sqlstate:
            # With the detail, as asyncpg has it: only the log sees it.
            message = f"{answer.message}\nDETAIL:  {answer.detail}" if answer.detail else answer.message
            raise DatabaseError(answer.sqlstate, message, answer.constraint)
        return answer.rows

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _leave(self, connection: Any) -> None:
        """Have the next statement open another one; this one closes itself when it has answered what was sent."""
        if self._connection is connection:
            self._connection = None
            connection.close()


_decode = msgspec.json.Decoder(_Answer).decode


def _encode(statement: Statement) -> str:
    params = [None if value is None else str(value) for value in statement.params]
    patience = (statement.timeout_ms or limits.TRANSACTION_MS) + CONNECT_MS
    return msgspec.json.encode(_Run(statement.text, params, statement.timeout_ms, patience)).decode()


def _open(target: _Target, binding: Any = None) -> Any:
    return modules.module(modules.POSTGRES).open(msgspec.json.encode(target).decode(), binding)


def connector(env: Any) -> Connect:
    """Return how to connect: through the HYPERDRIVE binding, or to the secret DATABASE_URL when there is none."""
    binding = getattr(env, "HYPERDRIVE", None)
    return partial(_open, _Target(), binding) if binding is not None else partial(_open, _named(env))


def _named(env: Any) -> _Target:
    """Return what DATABASE_URL names, with as much TLS as libpq would use."""
    url = getattr(env, "DATABASE_URL", None)
    if not url:
        message = "there is neither a HYPERDRIVE binding nor a DATABASE_URL secret; see wrangler.toml"
        return _Target(refused=message)
    try:
        target = database_url.read(str(url))
        host, port = target.only_host("a Worker")
    except DatabaseUrlError as error:
        return _Target(refused=str(error))
    host = f"[{host}]" if ":" in host else host
    return _Target(host, port, target.user, target.database, target.password, TRIES[target.sslmode])
