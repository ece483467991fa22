"""What the laboratory runs: each function takes and returns what JSON can hold."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import js
from pyodide.ffi import to_js

from kontract.cloudflare import database as of_platform
from kontract.cloudflare import modules
from kontract.cloudflare import runtime as of_runtime
from kontract.cloudflare.crypto import NativeCrypto
from kontract.cloudflare.database import HyperdriveDatabase, connector
from kontract.core import limits
from kontract.core.statements import Statement
from kontract.ports import DatabaseError, DatabaseUnavailableError
from support.crypto_operations import answer
from support.noise_nk import play
from support.raystream_vectors import text


def _database(url: str) -> HyperdriveDatabase:
    return HyperdriveDatabase(connector(SimpleNamespace(HYPERDRIVE=None, DATABASE_URL=url)))


async def connected(url: str) -> str:
    """``connected`` if DATABASE_URL leads to a database, else why not."""
    database = _database(url)
    try:
        await database.run(Statement("SELECT 1"))
    except (DatabaseError, DatabaseUnavailableError) as error:
        return str(error) or "broken"
    finally:
        await database.aclose()
    return "connected"


async def _outcome(database: HyperdriveDatabase, text: str, params: Any = (), timeout_ms: int | None = None) -> Any:
    """Rows; or what PostgreSQL says, as [sqlstate, message, constraint]; or what became of the connection."""
    try:
        return await database.run(Statement(text, tuple(params), timeout_ms))
    except DatabaseError as error:
        return [error.sqlstate, error.message, error.constraint]
    except DatabaseUnavailableError as error:
        return f"lost: {error}"


async def asked(argument: dict[str, Any]) -> list[Any]:
    """What statements return over one connection, one after the other, or all of them at once (``together``)."""
    database = _database(argument["url"])
    works = [_outcome(database, *statement) for statement in argument["statements"]]
    try:
        return await asyncio.gather(*works) if argument["together"] else [await work for work in works]
    finally:
        await database.aclose()


async def impatient(argument: dict[str, Any]) -> list[Any]:
    """The same where a connection, or a statement without a limit of its own, has so many milliseconds."""
    before = limits.TRANSACTION_MS, of_platform.CONNECT_MS
    of_platform.CONNECT_MS = argument.get("connect_ms", of_platform.CONNECT_MS)
    limits.TRANSACTION_MS = argument.get("statement_ms", limits.TRANSACTION_MS) - of_platform.CONNECT_MS
    try:
        return await asked(argument)
    finally:
        limits.TRANSACTION_MS, of_platform.CONNECT_MS = before


async def cancelled(argument: dict[str, Any]) -> list[Any]:
    """What is returned to two tasks of which one is cancelled while PostgreSQL works for both; and afterwards."""
    database, watching = _database(argument["url"]), _database(argument["url"])
    [[pid]] = await database.run(Statement("SELECT pg_backend_pid()"))
    lost = asyncio.ensure_future(_outcome(database, "SELECT pg_advisory_lock_shared(7)"))
    other = asyncio.ensure_future(_outcome(database, "SELECT pg_backend_pid()"))
    try:
        [[waits]] = [[""]]
        while waits != "advisory":
            [[waits]] = await watching.run(
                Statement("SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = $1::int", (pid,))
            )
        lost.cancel()
        [ended] = await asyncio.gather(lost, return_exceptions=True)
        [[next_pid]] = await database.run(Statement("SELECT pg_backend_pid()"))
        await watching.run(Statement(argument["release"]))
        return [type(ended).__name__, await other == [[pid]], next_pid != pid]
    finally:
        await database.aclose()
        await watching.aclose()


async def logged(level: str | None) -> list[str]:
    """The levels that are written where KONTRACT_LOG_LEVEL is this; None: what the Worker itself was told."""
    levels = of_runtime._log()[0] if level is None else of_runtime.written(SimpleNamespace(KONTRACT_LOG_LEVEL=level))
    return sorted(levels)


async def read(argument: dict[str, Any]) -> list[int]:
    """How long the bodies are that are read of streams of chunks of so many bytes; -1 of one that was cut off."""
    read = []
    for sizes in argument["streams"]:
        stream = js.TransformStream.new()
        writer = stream.writable.getWriter()
        for size in sizes:
            work = writer.write(to_js(b"x" * size)) if size >= 0 else writer.abort()
            work.catch(lambda _: None)
        if -1 not in sizes:
            writer.close().catch(lambda _: None)
        request = js.Object.fromEntries(to_js([["body", stream.readable]]))
        body = await modules.module(modules.HTTP).body(request, argument["most"])
        read.append(-1 if body is None else len(body.to_bytes()))
    return read


async def crypto(cases: list[dict[str, Any]]) -> list[str]:
    """The answers of native cryptography."""
    return [await answer(NativeCrypto(), case) for case in cases]


async def noise(vectors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Noise handshakes, played from published vectors."""
    return [play(NativeCrypto(), vector) for vector in vectors]


async def raystream(_: None) -> str:
    """The text of docs/reference/raystream-vectors.json."""
    return text(NativeCrypto())
