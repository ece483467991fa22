"""A transport from httpx to a gateway in this process, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx

from kontract.gateway.http import Request, Response
from kontract.ports import ClientGoneError, Outlet

CLIENT = "127.0.0.1"
"""The network address of all callers."""

Answer = Callable[[Request], Awaitable[Response]]


class InProcess(httpx.AsyncBaseTransport):
    """A transport whose server is a function. A request continues when its caller leaves, as on a server."""

    def __init__(self, answer: Answer) -> None:
        """Send requests to ``answer``."""
        self._answer = answer
        self._running: set[asyncio.Task[Response]] = set()
        self._streams: set[_Streamed] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        body = await request.aread()

        async def read(at_most: int) -> bytes:
            return body[: at_most + 1]

        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        # A separate task with its own context variables: a function sees none of its test.
        task = asyncio.ensure_future(self._answer(Request(request.method, path, headers, read, query, CLIENT)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        response = await asyncio.shield(task)
        if response.stream is None:
            return httpx.Response(response.status, headers=response.headers, content=response.body)
        stream = _Streamed(response.stream)
        self._streams.add(stream)
        return httpx.Response(response.status, headers=response.headers, stream=stream)

    async def aclose(self) -> None:
        """Close, and wait for running requests."""
        for stream in self._streams:
            await stream.aclose()
        if self._running:
            await asyncio.wait(set(self._running))


class _Streamed(httpx.AsyncByteStream):
    """A body that is read while it is written."""

    def __init__(self, write: Callable[[Outlet], Awaitable[None]]) -> None:
        self._outlet = _Outlet()
        self._task = asyncio.ensure_future(self._run(write))

    async def _run(self, write: Callable[[Outlet], Awaitable[None]]) -> None:
        try:
            await write(self._outlet)
        finally:
            self._outlet.end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._outlet.take()) is not None:
            yield chunk

    async def aclose(self) -> None:
        self._outlet.end()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class _Outlet:
    """Implements :class:`kontract.ports.Outlet`."""

    separate = False

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = False

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise ClientGoneError
        await self._chunks.put(data)

    async def close(self) -> None:
        self.end()

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._chunks.put_nowait(None)

    async def take(self) -> bytes | None:
        return await self._chunks.get()
