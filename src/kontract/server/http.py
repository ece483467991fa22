"""Between granian's requests (RSGI) and the gateway's: bodies, streams, WebSockets, callers who leave, shutting down.

RSGI specification: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any

from granian.rsgi import ProtocolClosed, ProtocolError  # type: ignore[attr-defined]  # granian says so to nobody

from kontract.core.errors import UnavailableError
from kontract.gateway.addresses import subscriber
from kontract.gateway.app import Gateway
from kontract.gateway.http import UNREADABLE, Request, Response, error_response
from kontract.ports import Outlet, RuntimeAdapter, Socket
from kontract.server import body as bodies
from kontract.server.assets import Assets, Moved, not_modified
from kontract.server.body import Body, BodyRoom
from kontract.server.clients import Clients
from kontract.server.sockets import PeerSocket, PeerSockets
from kontract.server.streams import StreamOutlet
from kontract.server.websocket import LAST_MESSAGE_SECONDS, ClientSocket, GoneSocket

LEFT_AFTER_SECONDS = 0.5
"""How long a request runs before anybody looks whether its caller is still there. Nearly all are answered by then."""

SWEEP_SECONDS = 0.25
"""How often that is looked at."""

_NOT_HERE = 501  # not implemented on this system: event streams are

_RETRY_LATER = {"Retry-After": "1"}


class Exchange:
    """A request that is being answered."""

    __slots__ = (
        "committing",
        "gone",
        "may_leave",
        "protocol",
        "reading_since",
        "started",
        "stream",
        "task",
        "too_slow",
        "watcher",
    )

    def __init__(self, protocol: Any, task: asyncio.Task[Any], now: float, *, may_leave: bool) -> None:
        """Start. ``may_leave``: the protocol tells when the caller does."""
        self.may_leave = may_leave
        self.protocol = protocol
        self.task = task
        self.started = now
        self.reading_since: float | None = None
        self.too_slow = False
        self.committing = False
        self.gone = False
        self.stream = ""  # its protocol, once the answer is a stream
        self.watcher: asyncio.Task[None] | None = None

    def commits(self) -> None:
        """Take that it begins to commit."""
        self.committing = True

    async def watch(self) -> None:
        """End the work for a caller who leaves; a transaction that is being committed is left to finish."""
        await self.protocol.client_disconnect()
        if not self.committing:
            self.gone = True
            self.task.cancel()


class Http:
    """The RSGI application of one process."""

    def __init__(
        self, gateway: Gateway, platform: RuntimeAdapter, clients: Clients, assets: Assets, sockets: PeerSockets
    ) -> None:
        """Answer with ``gateway`` over ``platform``, and with the files of ``assets``."""
        self._sockets = sockets
        self._room = BodyRoom()
        self._gateway = gateway
        self._platform = platform
        self._clients = clients
        self._assets = assets
        self._exchanges: set[Exchange] = set()
        self._loop = asyncio.get_running_loop()
        self._sweeper = self._loop.create_task(self._sweep())
        self.draining = False

    # --- what can be seen --------------------------------------------------------------------------------------------

    def gauges(self) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
        """Return numbers for :class:`~kontract.server.metrics.Metrics`."""
        streams = {"sse": 0, "websocket": 0}
        for exchange in self._exchanges:
            if exchange.stream:
                streams[exchange.stream] += 1
        yield "kontract_requests_running", (), len(self._exchanges) - sum(streams.values())
        for protocol, count in streams.items():
            yield "kontract_streams_open", (("protocol", protocol),), count
        yield "kontract_draining", (), float(self.draining)

    @property
    def running(self) -> int:
        """How many requests and streams there are."""
        return len(self._exchanges)

    # --- shutting down -----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Say no to ``/ready``, close each connection after its answer, and end the streams: they resume elsewhere."""
        self.draining = True
        for exchange in list(self._exchanges):
            if exchange.stream:
                exchange.task.cancel()

    async def streams_closed(self) -> None:
        """Wait until the streams that :meth:`drain` ended have told their clients, who are given a moment each."""
        closing = [exchange.task for exchange in self._exchanges if exchange.stream]
        if closing:
            await asyncio.wait(closing, timeout=2 * LAST_MESSAGE_SECONDS)

    async def idle(self) -> None:
        """Wait until nothing is being answered."""
        while self._exchanges:
            await asyncio.wait([exchange.task for exchange in self._exchanges])
            await asyncio.sleep(0)

    def close(self) -> None:
        """Cut what is left."""
        self._sweeper.cancel()
        for exchange in list(self._exchanges):
            exchange.task.cancel()

    # --- answering ---------------------------------------------------------------------------------------------------

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        plain = scope.proto == "http"
        exchange = Exchange(protocol, task, time.monotonic(), may_leave=plain)
        self._exchanges.add(exchange)
        try:
            if plain:
                await self._answer(scope, protocol, exchange)
            else:
                await self._converse(scope, protocol, exchange)
        except asyncio.CancelledError:
            if exchange.gone:
                ms = round((time.monotonic() - exchange.started) * 1000, 1)
                self._platform.log("info", "client_gone", method=scope.method, path=scope.path[:200], ms=ms)
        except (ProtocolClosed, ProtocolError):
            pass  # nobody to answer
        finally:
            self._exchanges.discard(exchange)
            if exchange.watcher is not None:
                exchange.watcher.cancel()

    async def _answer(self, scope: Any, protocol: Any, exchange: Exchange) -> None:
        method, path = scope.method, scope.path
        headers = _headers(scope.headers)
        if method in ("GET", "HEAD"):
            asset = self._assets.find(path)
            if isinstance(asset, Moved):
                query = f"?{scope.query_string}" if scope.query_string else ""
                protocol.response_empty(307, [("location", f"{asset.location}{query}")])
                return
            if asset is not None:
                if not_modified(asset, headers.get("if-none-match")):
                    protocol.response_empty(304, list(asset.headers))
                else:
                    protocol.response_bytes(200, list(asset.headers), asset.body)
                return
        address = self._address(scope, headers)
        body = Body(protocol, headers, exchange, self._room, subscriber(address))
        response = await self._handle(scope, method, path, headers, exchange, body, address)
        if response.stream is None:  # a stream must be begun, to be ended when its client leaves
            await body.discard()
        named = list(response.headers.items())
        if self.draining and "Connection" not in response.headers:
            named.append(("Connection", "close"))
        if response.stream is not None:
            peer = self._sockets.find(scope.client)
            outlet = StreamOutlet(protocol.response_stream(response.status, named), self, peer)
            await self._stream("sse", exchange, peer, response.stream(outlet))
        elif response.body:
            protocol.response_bytes(response.status, named, response.body)
        else:
            protocol.response_empty(response.status, named)

    async def _converse(self, scope: Any, protocol: Any, exchange: Exchange) -> None:
        """Answer a request for a WebSocket: RSGI has room for a status alone where it is refused."""
        if not self._sockets.can_find:
            protocol.close(_NOT_HERE)
            return
        headers = _headers(scope.headers)
        address = self._address(scope, headers)
        response = await self._handle(scope, scope.method, scope.path, headers, exchange, _no_body, address)
        if response.websocket is None:
            protocol.close(response.status)
            return
        peer = self._sockets.find(scope.client)
        accepted = False
        try:
            if peer is not None:  # else the client has left
                await protocol.accept()
                accepted = True
        except (ProtocolClosed, ProtocolError):
            pass  # likewise
        finally:
            if not accepted:
                await response.websocket(GoneSocket())  # it gives back what it has taken
                if peer is not None:
                    self._sockets.forget(peer)
        if peer is not None and accepted:
            await self._stream("websocket", exchange, peer, response.websocket(ClientSocket(protocol, self, peer)))

    async def _handle(
        self,
        scope: Any,
        method: str,
        path: str,
        headers: Mapping[str, str],
        exchange: Exchange,
        body: Any,
        address: str,
    ) -> Response:
        if self.draining and path == "/ready":
            error = UnavailableError("this server is shutting down", headers=_RETRY_LATER)
            return error_response(error, self._platform.random.token(12).hex())
        request = Request(
            method=method,
            path=path,
            headers=headers,
            body=body,
            query=scope.query_string,
            client=address,
            commits=exchange.commits,
        )
        return await self._gateway.handle(request, self._platform)

    def _address(self, scope: Any, headers: Mapping[str, str]) -> str:
        return self._clients.address(scope.client, headers.get("x-forwarded-for"))

    async def _stream(self, kind: str, exchange: Exchange, peer: PeerSocket | None, work: Awaitable[None]) -> None:
        exchange.stream = kind
        if kind == "sse":  # a WebSocket is told by its own messages
            exchange.watcher = self._loop.create_task(exchange.watch())
        if self.draining:
            self._loop.call_soon(exchange.task.cancel)
        try:
            await work
        finally:
            if peer is not None:
                self._sockets.forget(peer)

    async def _sweep(self) -> None:
        """Look after requests that take long: callers who have left, and bodies that do not come."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for exchange in list(self._exchanges):
                if exchange.reading_since is not None and now - exchange.reading_since > bodies.BODY_SECONDS:
                    exchange.reading_since = None
                    exchange.too_slow = True
                    exchange.task.cancel()
                elif exchange.watcher is None and exchange.may_leave and now - exchange.started > LEFT_AFTER_SECONDS:
                    exchange.watcher = self._loop.create_task(exchange.watch())


async def _no_body(_at_most: int) -> bytes:
    return b""


def _headers(given: Any) -> dict[str, str]:
    """Return headers as the gateway has them; a repeated one becomes one with commas (RFC 9110, section 5.3).

    granian leaves a value out that is not visible ASCII, and its name with it. What it counts is complete.
    """
    items = given.items()
    headers = dict(items)
    if len(headers) < len(items):
        headers = {}
        for name, value in items:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if len(given) > len(headers):
        headers |= {name: UNREADABLE for name in given.keys() if name not in headers}  # noqa: SIM118 - not a dict
    return headers


def _implements(outlet: StreamOutlet, socket: ClientSocket) -> object:
    """For the type checker: these are what the gateway asks for."""
    checked: tuple[Outlet, Socket] = (outlet, socket)
    return checked
