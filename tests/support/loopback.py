"""HTTP on loopback for tests of clients: a gateway of this process behind a socket, and a proxy that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import httpx

from kontract.gateway.http import Request, Response
from kontract.ports import ClientGoneError
from support.api import Api


@dataclass
class Received:
    """A request. Names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Received], Awaitable[Response | None]]
"""Answers a request; None closes the connection without an answer."""


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server on a free port of loopback. Connections are kept open between requests, as servers do."""
    tasks: set[asyncio.Task] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(task := asyncio.current_task())
        try:
            while (request := await _read(reader)) is not None:
                response = await handler(request)
                if response is None:
                    break
                if response.stream is not None:
                    writer.write(_head(response.status, {**response.headers, "Connection": "close"}))
                    await response.stream(SocketOutlet(writer))
                    break
                writer.write(_encode(response))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()  # or the loop may end before the socket does
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(set(tasks))


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("iso-8859-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Received(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def _encode(response: Response) -> bytes:
    headers = dict(response.headers)
    if response.status != 204:
        headers["Content-Length"] = str(len(response.body))
    return _head(response.status, headers) + response.body


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


class SocketOutlet:
    """A streamed body that ends with its connection."""

    separate = False

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as error:
            raise ClientGoneError from error

    async def close(self) -> None:
        self._writer.close()


def handler_of(api: Api) -> Handler:
    """A gateway of this process as the handler of a server."""

    async def handle(received: Received) -> Response:
        async def read(at_most: int) -> bytes:
            return received.body[: at_most + 1]

        path, _, query = received.target.partition("?")
        request = Request(received.method, path, received.headers, read, query, client="127.0.0.1")
        return await api.gateway.handle(request, api.platform)

    return handle


class Fault(Enum):
    """What the proxy does to a request."""

    REFUSE = "closed before it was forwarded"
    LOSE = "forwarded and answered, and then closed without the answer"


@dataclass
class Instead:
    """Forwarded and answered, and then another answer in place of it: what it makes of the real one."""

    of: Callable[[Response], Response]


@dataclass
class Proxy:
    """Between a client and a server. ``faults``: for the next requests whose target contains the text, in order.

    ``seen``: all requests. A Response in place of a fault is answered without asking the server.
    """

    url: str
    faults: list[tuple[str, Fault | Instead | Response]] = field(default_factory=list)
    seen: list[Received] = field(default_factory=list)

    def targets(self) -> list[str]:
        return [f"{one.method} {one.target}" for one in self.seen]


def _passed_on(http: httpx.AsyncClient, url: str, headers: dict[str, str]) -> Response:
    """A stream that is passed on as it comes."""

    async def run(outlet: SocketOutlet) -> None:
        try:
            async with http.stream("GET", url, headers=headers) as answer:
                async for chunk in answer.aiter_bytes():
                    await outlet.write(chunk)
        finally:
            await outlet.close()

    return Response(200, headers={"content-type": "text/event-stream"}, stream=run)


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy before ``upstream``."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:

        async def handle(received: Received) -> Response | None:
            proxy.seen.append(received)
            fault = None
            for planned in proxy.faults:
                if planned[0] in received.target:
                    proxy.faults.remove(planned)
                    fault = planned[1]
                    break
            if isinstance(fault, Response):
                return fault
            if fault is Fault.REFUSE:
                return None
            headers = {name: value for name, value in received.headers.items() if name != "host"}
            if received.target.startswith("/stream?"):
                return _passed_on(http, upstream + received.target, headers)
            answer = await http.request(
                received.method, upstream + received.target, headers=headers, content=received.body
            )
            if fault is Fault.LOSE:
                return None
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name not in ("content-length", "content-encoding", "transfer-encoding", "connection")
            }
            response = Response(answer.status_code, answer.content, kept)
            return fault.of(response) if isinstance(fault, Instead) else response

        async with serving(handle) as url:
            proxy = Proxy(url)
            yield proxy
