"""PostgreSQL's protocol as pg8000 speaks it, over a workerd socket that is awaited.

pg8000 reads and writes a blocking socket. In workerd that works through stack switching, which suspends the whole
Python stack at every read; some fifty suspended stacks at once corrupt the interpreter (measured: "function signature
mismatch", and the isolate is gone). So the bytes move here, with ordinary awaits, and pg8000 only makes and reads
messages: start-up, authentication, binding and errors are its code.

A statement goes out in one piece (parse, bind, describe, execute, sync) and costs one network turn, where pg8000 itself
takes two. That also makes it safe behind a transaction pooler, which may change servers after every sync (PostgreSQL
documentation, "Message Flow").
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NoReturn

from js import Object
from pg8000 import core as pg
from pg8000.exceptions import InterfaceError
from pyodide.ffi import to_js
from workers import import_from_javascript

from kontract.core.statements import Statement

SET_TIMEOUT = "SELECT set_config('statement_timeout', $1, true)"
"""Local to the implicit transaction that a pipeline is until its sync: nothing stays in the session."""

SSL_REQUEST = pg.ii_pack(8, 80877103)

_INTEGERS = frozenset({20, 21, 23})  # int8, int2, int4 (pg_type.oid)


class _HandshakeStartedError(Exception):
    """pg8000 wants to read the server's first answer: its start-up message is complete."""


class _Outbox:
    """What pg8000 takes for its socket: it collects what is to be sent, and has nothing to read."""

    def __init__(self) -> None:
        self.pending = bytearray()

    def makefile(self, mode: str) -> _Outbox:
        del mode
        return self

    def write(self, data: bytes) -> None:
        self.pending += data

    def flush(self) -> None:
        """Nothing: the connection sends what is pending before it reads."""

    def read(self, size: int) -> NoReturn:
        raise _HandshakeStartedError(size)

    def take(self) -> bytes:
        data = bytes(self.pending)
        self.pending.clear()
        return data


class Messages(pg.CoreConnection):  # type: ignore[misc]  # pg8000 is untyped
    """pg8000's side of the protocol, without its I/O."""

    def __init__(self, user: str, database: str | None, password: str | None) -> None:
        """Make the start-up message."""
        self.outbox = _Outbox()
        try:
            super().__init__(
                user,
                database=database,
                password=password,
                sock=self.outbox,
                ssl_context=False,
                application_name="kontract",
            )
        except _HandshakeStartedError:
            self._transaction_status = None

    def close(self) -> None:
        """Nothing: pg8000 calls it when its start-up is interrupted, which is on purpose here."""

    def add(self, text: str, params: Sequence[Any]) -> None:
        """Append one statement, without a sync. Everything is text: the SQL casts its parameters."""
        self.send_PARSE(pg.NULL_BYTE, text)
        self.send_BIND(pg.NULL_BYTE, [None if value is None else str(value) for value in params])
        self._send_message(pg.DESCRIBE, b"P" + pg.NULL_BYTE)
        self.send_EXECUTE()

    def handle_ROW_DESCRIPTION(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Start the rows anew: the last statement of a pipeline is the one whose rows count."""
        super().handle_ROW_DESCRIPTION(data, context)
        context.rows = []
        context.input_funcs = [int if column["type_oid"] in _INTEGERS else str for column in context.columns]


class Connection:
    """One connection, used by one task at a time. Raises OSError or InterfaceError when it breaks."""

    def __init__(self, socket: Any, messages: Messages) -> None:
        """Use :func:`connect`."""
        self._socket = socket
        self._reader = socket.readable.getReader()
        self._writer = socket.writable.getWriter()
        self._messages = messages
        self._inbox = bytearray()

    async def log_in(self) -> None:
        """Wait until the server is ready; raises pg8000's DatabaseError when it refuses."""
        context = pg.Context(None)
        code = None
        while code not in (pg.READY_FOR_QUERY, pg.ERROR_RESPONSE):
            await self._send()  # the start-up message, then what the handlers of authentication have to say
            code = await self._receive(context)
        if context.error is not None:
            raise context.error

    async def run(self, statement: Statement) -> list[list[Any]]:
        """Run one statement; rows hold int for integer columns and str for all others."""
        context = pg.Context(statement.text)
        if statement.timeout_ms is not None:
            self._messages.add(SET_TIMEOUT, (str(statement.timeout_ms),))
        self._messages.add(statement.text, statement.params)
        self._messages.outbox.write(pg.SYNC_MSG)
        await self._send()
        while await self._receive(context) != pg.READY_FOR_QUERY:
            pass
        if context.error is not None:
            raise context.error
        rows: list[list[Any]] = context.rows or []
        return rows

    async def close(self) -> None:
        """Say goodbye and close the socket."""
        self._messages.outbox.write(pg.TERMINATE_MSG)
        await self._send()
        await self._socket.close()

    async def _send(self) -> None:
        data = self._messages.outbox.take()
        if data:
            await self._writer.write(to_js(data))

    async def _receive(self, context: Any) -> bytes:
        head = await self._read(5)
        code, length = pg.ci_unpack(head)
        body = await self._read(length - 4)
        self._messages.message_types[code](body, context)
        return bytes(code)

    async def _read(self, size: int) -> bytes:
        while len(self._inbox) < size:
            chunk = await self._reader.read()
            if chunk.done:
                message = "the server closed the connection"
                raise InterfaceError(message)
            self._inbox += chunk.value.to_bytes()
        data = bytes(self._inbox[:size])
        del self._inbox[:size]
        return data


class Tls(enum.Enum):
    """Whether a connection is encrypted, with the platform's check of the certificate."""

    NONE = "no"
    OFFERED = "if the server has it"
    REQUIRED = "yes"


async def connect(
    host: str, port: int, user: str, database: str | None, password: str | None, tls: Tls = Tls.NONE
) -> Connection:
    """Open a connection and log in; raises OSError, InterfaceError or JsException, DatabaseError if it is refused."""
    sockets = import_from_javascript("cloudflare:sockets")
    address = to_js({"hostname": host, "port": port}, dict_converter=Object.fromEntries)
    options = to_js({"secureTransport": "off" if tls is Tls.NONE else "starttls"}, dict_converter=Object.fromEntries)
    socket = sockets.connect(address, options)
    if tls is not Tls.NONE:
        socket = await _start_tls(socket, tls)
    connection = Connection(socket, Messages(user, database, password))
    await connection.log_in()
    return connection


async def _start_tls(socket: Any, tls: Tls) -> Any:
    writer = socket.writable.getWriter()
    await writer.write(to_js(SSL_REQUEST))
    writer.releaseLock()
    reader = socket.readable.getReader()
    answer = await reader.read()
    reader.releaseLock()
    said = b"" if answer.done else answer.value.to_bytes()
    if said == b"N" and tls is Tls.OFFERED:
        return socket
    if said != b"S":
        message = "the server refuses TLS"
        raise InterfaceError(message)
    return socket.startTls()
