"""Serves metrics for Prometheus on a separate port: they are for operators and must not be public."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kontract.server.settings import SettingsError

Collect = Callable[[], Awaitable[str]]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUEST_SECONDS = 10.0
"""How long one request may take, answer included."""


async def export(address: tuple[str, int], collect: Collect) -> asyncio.Server:
    """Answer ``GET /metrics`` with what ``collect`` returns; raises SettingsError when the port is taken."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _answer(head, collect))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    try:
        return await asyncio.start_server(connected, *address, limit=8_192)
    except OSError as error:
        message = f"cannot listen on {address[0]}:{address[1]} ({error.strerror}): choose another KONTRACT_METRICS"
        raise SettingsError(message) from None


async def _answer(head: bytes, collect: Collect) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return _response("404 Not Found", "text/plain", b"this port has /metrics\n")
    if method != b"GET":
        return _response("405 Method Not Allowed", "text/plain", b"use GET\n")
    return _response("200 OK", CONTENT_TYPE, (await collect()).encode())


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
