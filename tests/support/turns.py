"""Counts network turns: a proxy on the loopback between a client and PostgreSQL (or a pooler)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Turns:
    """``count``: how often the client has spoken and waited, on all connections. ``cut`` ends them."""

    url: str = ""
    count: int = 0
    connections: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


@asynccontextmanager
async def counted(url: str) -> AsyncIterator[Turns]:
    """A proxy before the server of a database's URL; ``.url`` leads through it."""
    parts = urlsplit(url)
    turns = Turns()
    tasks: set[asyncio.Task] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        turns.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection(parts.hostname, parts.port)
        turns.writers += [writer, upstream_writer]
        speaker = ""

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, name: str) -> None:
            nonlocal speaker
            try:
                while data := await source.read(1 << 16):
                    if name == "client" and speaker != "client":
                        turns.count += 1
                    speaker = name
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                pass
            finally:
                target.close()

        await asyncio.gather(pump(reader, upstream_writer, "client"), pump(upstream_reader, writer, "server"))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    turns.url = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
    try:
        yield turns
    finally:
        server.close()
        turns.cut()
        if tasks:
            await asyncio.wait(tasks)
