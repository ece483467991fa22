"""What listens for `kontract dev` and `kontract serve --local`: on both loopback addresses, before the runtime.

It does what the runtime behind it does not: it listens on 127.0.0.1 and ::1 (`localhost` is either), refuses names that
are not this machine's (hosts.py), and answers with a JSON error while the runtime is away, or when it dies in the
middle of a call. Everything else goes through as it comes: bodies and streams by the piece, WebSockets byte by byte.

Each request has its own connection to the runtime, because the end of a kept connection looks like the end of the
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import secrets
import socket
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import h11

from kontract.cli.toolchain.hosts import Hosts
from kontract.core.errors import Code

LOOPBACK = ("127.0.0.1", "::1")

_PIECE = 65_536
_HEAD_BYTES = 65_536  # of one request or answer; workerd itself takes less
_HEAD_SECONDS = 60.0  # for the rest of a head that has begun
_IDLE_SECONDS = 75.0  # of a connection that is kept open
_LINGER_SECONDS = 2.0  # for the rest of a request that was answered early
_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"expect"}  # of one connection (RFC 9110, section 7.6.1)
_NOT_JSON = "the runtime failed before the application answered; see the terminal for the reason, then try again"
_AWAY = "the runtime is starting; try again in a moment"
_DIED = "the runtime ended before it answered; the call may or may not have been applied"


class Front:
    """Listens in its own thread. `upstream` is the runtime's port; `open` says whether requests are passed on."""

    def __init__(self, port: int, upstream: int, hosts: Hosts, addresses: Sequence[str] = LOOPBACK) -> None:
        self.port = port
        self.upstream = upstream
        self.open = False
        self.addresses: list[str] = []  # where it listens
        self._wanted = addresses
        self._hosts = hosts
        self._sockets: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front", daemon=True)

    def start(self) -> None:
        """Listen; raises OSError if a port is taken. A machine without IPv6 has only one address."""
        for address in self._wanted:
            with contextlib.suppress(_NoSuchAddressError):
                self._sockets.append(_listening(address, self.port))
                self.addresses.append(address)
        self._thread.start()
        self._do(self._serve())

    def stop(self) -> None:
        """Close everything."""
        if self._thread.is_alive():
            self._do(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        for listening in self._sockets:
            listening.close()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self) -> None:
        self._servers = [await asyncio.start_server(self._met, sock=one, limit=_PIECE) for one in self._sockets]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Connection(self, self._hosts, reader, writer).run()
        except asyncio.CancelledError:
            writer.transport.abort()  # we are gone, and wait for nobody who reads slowly
        except (OSError, TimeoutError):
            pass  # it is gone
        finally:
            # Not before the socket is closed: stop() ends the loop when there is no task left.
            try:
                await _hang_up(writer)
            finally:
                self._tasks.discard(task)


class _NoSuchAddressError(Exception):
    """The machine has no such address."""


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        # Named, or asyncio does not see that this is TCP, leaves Nagle's algorithm on, and each answer waits for 40 ms.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _NoSuchAddressError from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # :: beside 0.0.0.0 on one port
        made.bind((address, port))
        made.listen(128)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise _NoSuchAddressError from error
        raise
    return made


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class _Connection:
    """One caller's connection: requests one after the other."""

    def __init__(self, front: Front, hosts: Hosts, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._front = front
        self._hosts = hosts
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)

    async def run(self) -> None:
        while True:
            try:
                request = await self._next_request()
                if request is None:
                    return
                if not await self._answer(request):
                    await self._linger()
                    return
                self._http.start_next_cycle()
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self.refuse(Code.INVALID_REQUEST, f"this is not HTTP/1.1: {error}")
                return
            except h11.LocalProtocolError:
                return  # an answer that cannot be passed on

    async def _next_request(self) -> h11.Request | None:
        begun = False
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:  # ConnectionClosed
                return None
            async with asyncio.timeout(_HEAD_SECONDS if begun else _IDLE_SECONDS):
                data = await self._reader.read(_PIECE)
            begun = True
            self._http.receive_data(data)

    async def _answer(self, request: h11.Request) -> bool:
        """Answer one request; return False when the connection ends with it."""
        headers = dict(request.headers)  # h11 has seen to it that there is one Host, and names are in lower case
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._hosts.allow(host):
            return await self.refuse(Code.FORBIDDEN, Hosts.refusal(host))
        if not request.target.startswith(b"/") and request.target != b"*":
            return await self.refuse(Code.INVALID_REQUEST, "the target of a request is a path")
        if not self._front.open:
            return await self.refuse(Code.UNAVAILABLE, _AWAY)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._front.upstream, limit=_PIECE)
        except OSError:
            return await self.refuse(Code.UNAVAILABLE, _AWAY)
        try:
            return await _Exchange(self, request, headers, reader, writer).run()
        finally:
            await _hang_up(writer)

    # --- the caller's side ------------------------------------------------------------------------------------------

    async def send(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()

    async def next_piece(self) -> h11.Data | None:
        """Return the next piece of the request's body, None at its end; ConnectionError if the caller is gone."""
        while True:
            if self._http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                return event
            if isinstance(event, h11.EndOfMessage):
                return None
            if event is not h11.NEED_DATA:
                raise ConnectionResetError
            await self._receive()

    async def until_gone(self) -> None:
        """Return when the caller has gone; what it sends meanwhile (its next request, once) waits."""
        while True:
            data = await self._reader.read(_PIECE)
            if not data:
                return
            self._http.receive_data(data)
            if len(self._http.trailing_data[0]) > _PIECE:
                await asyncio.Event().wait()  # enough: the rest stays where it is

    async def _linger(self) -> None:
        """Read what is still on its way: a connection with something unread is reset, and the answer lost with it."""
        if self._http.their_state is not h11.SEND_BODY:
            return
        with contextlib.suppress(OSError, TimeoutError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self._reader.read(_PIECE):
                    pass

    async def _receive(self) -> None:
        data = await self._reader.read(_PIECE)
        if not data:
            raise ConnectionResetError
        self._http.receive_data(data)

    async def tunnel(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes through in both directions until one side ends."""
        self._writer.write(head)
        writer.write(self._http.trailing_data[0])
        ways = [
            asyncio.create_task(_pour(self._reader, writer)),
            asyncio.create_task(_pour(reader, self._writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)

    async def refuse(self, code: Code, message: str) -> bool:
        """Answer with an error in the gateway's format."""
        number = secrets.token_hex(12)
        body = json.dumps({"error": code.name, "message": message, "request_id": number}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Request-Id", number),
            ("Connection", "close"),  # of the request nothing else has been read
        ]
        if code.passes:
            headers.append(("Retry-After", "1"))
        await self.send(h11.Response(status_code=code.status, headers=headers))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())
        return False

    @property
    def may_go_on(self) -> bool:
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()


class _Exchange:
    """One request and its answer, over its own connection to the runtime."""

    def __init__(
        self,
        caller: _Connection,
        request: h11.Request,
        headers: dict[bytes, bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._caller = caller
        self._request = request
        self._upgrade = b"upgrade" in headers and b"upgrade" in headers.get(b"connection", b"").lower()
        self._safe = request.method in (b"GET", b"HEAD", b"OPTIONS")
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)

    async def run(self) -> bool:
        """Return whether the caller's connection can be used again."""
        with contextlib.suppress(OSError):  # the answer, or its absence, says more
            await self._send(self._head())
        sending = asyncio.create_task(self._send_body())
        answering = asyncio.create_task(self._pass_answer())
        try:
            await asyncio.wait([sending, answering], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                sending.result()  # raises what is wrong with the body
                return False  # the caller is gone
            return await answering
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.wait([sending, answering])
            for task in (sending, answering):
                if not task.cancelled():
                    task.exception()

    def _head(self) -> h11.Request:
        kept = [(name, value) for name, value in self._request.headers.raw_items() if name.lower() not in _HOP]
        kept.append((b"Connection", b"Upgrade" if self._upgrade else b"close"))
        return h11.Request(method=self._request.method, target=self._request.target, headers=kept)

    async def _send(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()

    async def _send_body(self) -> None:
        """Send the body, and return when the caller has gone."""
        try:
            while (piece := await self._caller.next_piece()) is not None:
                with contextlib.suppress(OSError):
                    await self._send(piece)
        except ConnectionError:
            return
        with contextlib.suppress(OSError):
            await self._send(h11.EndOfMessage())
        if self._upgrade:
            await asyncio.Event().wait()  # what comes now belongs to the tunnel
        await self._caller.until_gone()

    async def _pass_answer(self) -> bool:
        try:
            response = await self._response()
        except (OSError, h11.RemoteProtocolError):
            return await self._died()
        if isinstance(response, h11.InformationalResponse):  # 101: the only one that ends here
            await self._caller.tunnel(_raw_head(response) + self._http.trailing_data[0], self._reader, self._writer)
            return False
        headers = dict(response.headers)
        if response.status_code >= 500 and b"x-request-id" not in headers and not _is_json(headers):
            # Everything that the gateway answers has an id: these are the words of what is in front of it.
            return await self._died(_NOT_JSON)
        kept = [(name, value) for name, value in response.headers.raw_items() if name.lower() not in _HOP]
        await self._caller.send(h11.Response(status_code=response.status_code, headers=kept, reason=response.reason))
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            await self._caller.send(event)
        await self._caller.send(event)
        return self._caller.may_go_on

    async def _response(self) -> h11.Response | h11.InformationalResponse:
        while True:
            event: h11.Response | h11.InformationalResponse = await self._next_event()
            if isinstance(event, h11.Response) or event.status_code == 101:
                return event

    async def _next_event(self) -> Any:
        """Return the next event; raises ConnectionError or h11.RemoteProtocolError when the runtime has gone."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_PIECE))
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise ConnectionResetError
            else:
                return event

    async def _died(self, message: str = _DIED) -> bool:
        code = Code.UNAVAILABLE if self._safe else Code.COMMIT_UNKNOWN
        if message is _DIED and self._safe:
            message = _AWAY
        return await self._caller.refuse(code, message)


def _is_json(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").startswith(b"application/json")


def _raw_head(response: h11.InformationalResponse) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (response.status_code, response.reason or b"Switching Protocols")]
    lines += [b"%s: %s" % (name, value) for name, value in response.headers.raw_items()]
    return b"\r\n".join([*lines, b"", b""])
