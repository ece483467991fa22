"""What a pooler does that keeps prepared statements for its clients (PgBouncer from 1.21 on), as far as a client sees.

It gives statements names of its own, by their text, and a connection a made-up process id. It stands before one
connection each and changes no servers: that a name means the same on all of them is its promise.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

SSL_REQUEST = 80877103


@dataclass
class Keeping:
    """``names``: what statements are called behind it, by their text."""

    url: str = ""
    names: dict[bytes, bytes] = field(default_factory=dict)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    [length] = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(length - 4)


@asynccontextmanager
async def keeping(url: str, *, renames: bool = True) -> AsyncIterator[Keeping]:
    """Stand before the server of a database's URL. ``renames`` False: it passes names on, as older ones do."""
    parts = urlsplit(url)
    pooler = Keeping()
    tasks: set[asyncio.Task] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        known: dict[bytes, bytes] = {}

        async def to_server() -> None:
            length, code = struct.unpack("!ii", start := await reader.readexactly(8))
            if code == SSL_REQUEST:
                writer.write(b"N")
                length, _ = struct.unpack("!ii", start := await reader.readexactly(8))
            up_writer.write(start + await reader.readexactly(length - 8))
            while True:
                kind, body = await _message(reader)
                if renames and kind == b"P" and not body.startswith(b"\0"):
                    name, text = body.split(b"\0", 2)[:2]
                    known[name] = pooler.names.setdefault(text, b"KEPT_%d" % len(pooler.names))
                    body = known[name] + body[len(name) :]
                elif renames and kind == b"B":
                    portal, name = body.split(b"\0", 2)[:2]
                    body = portal + b"\0" + known.get(name, name) + body[len(portal) + 1 + len(name) :]
                elif renames and kind in b"DC" and body.startswith(b"S"):
                    name = body[1:-1]
                    body = b"S" + known.get(name, name) + b"\0"
                up_writer.write(_sent(kind, body))

        async def to_client() -> None:
            while True:
                kind, body = await _message(up_reader)
                if kind == b"K":
                    body = struct.pack("!i", 1) + body[4:]
                writer.write(_sent(kind, body))

        both = [asyncio.ensure_future(one()) for one in (to_server, to_client)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for side in (writer, up_writer):
                side.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pooler.url = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
    try:
        yield pooler
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sent(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
