"""A bounded closed-loop load generator: so many clients, each with one kept connection, each waits for its answer."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class WrongAnswerError(Exception):
    """An answer that was not the expected one."""


@dataclass
class Round:
    """What a number of requests took."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


class Client:
    """One connection to 127.0.0.1, kept between requests and opened again when the server closed it."""

    def __init__(self, port: int, token: str = "") -> None:
        """Nothing is opened yet. ``token``: sent with every request, if there is one."""
        self._port = port
        self._bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, arguments: Any = None) -> Answer:
        """Send one request and read its whole answer."""
        body = b"" if arguments is None else json.dumps(arguments).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"{self._bearer}Content-Length: {len(body)}\r\n\r\n"
        )
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(head.encode() + body)
        async with asyncio.timeout(60):
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            text = await _body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(status.split()[1]), headers, text)

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(chunks)


async def run(
    port: int, path: str, arguments: Any, requests: int, concurrency: int, expected: bytes, token: str = ""
) -> Round:
    """Send `requests` over `concurrency` connections; an answer without `expected` is an error."""
    left = iter(range(requests))
    result = Round()

    async def client() -> None:
        connection = Client(port, token)
        try:
            for _ in left:
                started = time.perf_counter()
                answer = await connection.call("POST", path, arguments)
                result.latencies.append(time.perf_counter() - started)
                if answer.status != 200 or expected not in answer.body:
                    raise WrongAnswerError(f"{path} answered {answer.status}: {answer.body[:300]!r}")
        finally:
            connection.close()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client())
    result.seconds = time.perf_counter() - started
    return result
