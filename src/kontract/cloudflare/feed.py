"""Change streams between a Worker and an owner's Durable Object: a WebSocket that the object may sleep behind.

The object accepts it with the hibernation API: while nothing happens it is not kept in memory, and workerd keeps the
connection. What has to survive that is in the socket's attachment. (Cloudflare documentation, "Use WebSockets":
attachments of up to 2 KiB, kept for as long as the connection.)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any
from urllib.parse import quote

import js
import msgspec
from js import Object
from pyodide.ffi import create_proxy, to_js

from kontract.core import limits
from kontract.core.errors import RateLimitedError
from kontract.core.events import Frame, Parcel, Resume, Subscription, decode_frame
from kontract.core.pace import Pace
from kontract.ports import ClientGoneError, CoordinatorUnavailableError, FeedClosedError

# RFC 6455, section 7.4.1
_NORMAL = 1000
_UNSUPPORTED = 1003
_POLICY = 1008
_TOO_BIG = 1009

_FIRST_LOOK = 0.002
"""Seconds until it is looked again whether a client has taken what it was sent; doubled each time."""

_LATER_LOOK = 0.5

_encode = msgspec.json.encode


class SocketSubscriber:
    """The object's end. Implements :class:`kontract.core.protocol.audience.Subscriber`."""

    def __init__(self, socket: Any, subscription: Subscription) -> None:
        """Use a WebSocket that the object has accepted."""
        self._socket = socket
        self.subscription = subscription

    @classmethod
    def restored(cls, socket: Any) -> SocketSubscriber:
        """Return the subscriber of a socket that has outlived an earlier life of the object."""
        return cls(socket, msgspec.json.decode(str(socket.deserializeAttachment()), type=Subscription))

    def send(self, parcel: Parcel) -> None:
        """Send; a socket that is closing is told by its close event."""
        with contextlib.suppress(Exception):  # JavaScript's errors come in many classes
            self._socket.send(parcel.text)

    def keep(self) -> None:
        """Write the attachment."""
        self._socket.serializeAttachment(_encode(self.subscription).decode())

    def close(self) -> None:
        """Close."""
        with contextlib.suppress(Exception):  # it is closed
            self._socket.close(_NORMAL)


class SocketFeed:
    """The Worker's end. Implements :class:`kontract.ports.Feed`; belongs to one request."""

    def __init__(self, socket: Any) -> None:
        """Accept the socket and listen."""
        self._socket = socket
        self._frames: deque[str] = deque()
        self._closed = False
        self._something = asyncio.Event()
        self._proxies = [create_proxy(self._message), create_proxy(self._gone)]
        socket.accept()
        socket.addEventListener("message", self._proxies[0])
        for event in ("close", "error"):
            socket.addEventListener(event, self._proxies[1])

    async def resume(self, since: str | None) -> None:
        """Ask for a page."""
        try:
            self._socket.send(_encode(Resume(since)).decode())
        except Exception as error:  # JavaScript's errors come in many classes
            raise FeedClosedError(str(error)) from error

    async def next(self, milliseconds: float) -> Frame | None:
        """Return the next frame."""
        if not self._frames and not self._closed:
            self._something.clear()
            try:
                async with asyncio.timeout(milliseconds / 1000):
                    await self._something.wait()
            except TimeoutError:
                return None
        if self._frames:
            return decode_frame(self._frames.popleft())
        message = "the owner's object closed the connection"
        raise FeedClosedError(message)

    def close(self) -> None:
        """Hang up."""
        self._closed = True
        self._something.set()
        for proxy in self._proxies:
            proxy.destroy()
        self._proxies = []
        with contextlib.suppress(Exception):  # it is closed
            self._socket.close(_NORMAL)

    def _message(self, event: Any) -> None:
        self._frames.append(str(event.data))
        self._something.set()

    def _gone(self, _event: Any) -> None:
        self._closed = True
        self._something.set()


class ClientSocket:
    """A client's WebSocket. Implements :class:`kontract.ports.Socket`.

    workerd collects a message before it shows it, up to a limit of its own, and reads on whatever is done with what it
    has shown. So a client that sends too large or too many messages cannot be made to wait: its connection is closed.
    """

    separate = True

    def __init__(self, socket: Any) -> None:
        """Accept the Worker's end of a pair and listen."""
        self._socket = socket
        self._messages: deque[str] = deque()
        self._closed = False
        self._something = asyncio.Event()
        self._pace = Pace(limits.STREAM_FRAMES_AT_ONCE, limits.STREAM_FRAMES_PER_SECOND, _now())
        self._proxies = [create_proxy(self._message), create_proxy(self._gone)]
        socket.accept()
        socket.addEventListener("message", self._proxies[0])
        for event in ("close", "error"):
            socket.addEventListener(event, self._proxies[1])

    async def write(self, data: bytes) -> None:
        """Send a message, and wait while the platform holds more than a little that the client has not taken.

        It buffers whatever is sent, without a bound and without a word: it only says how much waits when it is asked.
        """
        if self._closed:
            raise ClientGoneError
        try:
            self._socket.send(data.decode())
        except Exception as error:  # JavaScript's errors come in many classes
            raise ClientGoneError(str(error)) from error
        pause = _FIRST_LOOK
        while self._buffered() > limits.STREAM_BUFFERED_BYTES:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATER_LOOK)
            if self._closed:
                raise ClientGoneError

    def _buffered(self) -> int:
        """Return how many bytes the platform holds; 0 from one that does not say so."""
        return int(getattr(self._socket, "bufferedAmount", 0) or 0)

    async def receive(self) -> str:
        """Wait for a message."""
        while not self._messages:
            if self._closed:
                raise ClientGoneError
            self._something.clear()
            await self._something.wait()
        return self._messages.popleft()

    async def close(self) -> None:
        """Close."""
        self._hang_up(_NORMAL)

    def _hang_up(self, code: int, reason: str = "") -> None:
        """Close with a code; a second one is not said."""
        self._closed = True
        self._messages.clear()
        self._something.set()
        for proxy in self._proxies:
            proxy.destroy()
        self._proxies = []
        with contextlib.suppress(Exception):  # it is closed
            self._socket.close(code, reason)

    def _message(self, event: Any) -> None:
        data = event.data
        if not isinstance(data, str):
            self._hang_up(_UNSUPPORTED, "messages must be text")
        elif _is_too_long(data):
            self._hang_up(_TOO_BIG, f"a message has at most {limits.STREAM_MESSAGE_BYTES} bytes")
        elif self._pace.spend(_now()):
            self._hang_up(_POLICY, f"at most {limits.STREAM_FRAMES_PER_SECOND} messages a second")
        else:
            self._messages.append(data)
            self._something.set()

    def _gone(self, _event: Any) -> None:
        self._closed = True
        self._something.set()


def _is_too_long(text: str) -> bool:
    most = limits.STREAM_MESSAGE_BYTES
    return len(text) > most or len(text.encode(errors="replace")) > most


def _now() -> float:
    return float(js.performance.now())


class StreamOutlet:
    """The writable side of a response's body. Implements :class:`kontract.ports.Outlet`."""

    separate = False

    def __init__(self, writable: Any) -> None:
        """Write to a WritableStream."""
        self._writer = writable.getWriter()

    async def write(self, data: bytes) -> None:
        """Write, and wait until it was taken."""
        try:
            await self._writer.write(to_js(data))
        except Exception as error:  # JavaScript's errors come in many classes
            raise ClientGoneError(str(error)) from error

    async def close(self) -> None:
        """End the body."""
        try:
            async with asyncio.timeout(1):
                await self._writer.close()
        except Exception:  # noqa: BLE001 - nobody reads it any more
            with contextlib.suppress(Exception):  # it is over
                await self._writer.abort()


async def connect(namespace: Any, owner: str, subscription: Subscription) -> SocketFeed:
    """Open a connection to the object of ``owner``; raises CoordinatorUnavailableError, RateLimitedError."""
    stub = namespace.get(namespace.idFromName(owner))
    address = f"https://object/?owner={quote(owner)}&subscription={quote(_encode(subscription).decode())}"
    upgrade = to_js({"headers": {"Upgrade": "websocket"}}, dict_converter=Object.fromEntries)
    try:
        response = await stub.fetch(js.Request.new(address, upgrade))
    except Exception as error:
        raise CoordinatorUnavailableError(repr(error)) from error
    raw = getattr(response, "js_object", response)
    if raw.status == 429:
        message = f"one user may have {limits.STREAMS_PER_USER} open streams; close one first"
        raise RateLimitedError(message, headers={"Retry-After": "30"})
    if raw.status != 101:
        message = f"the object answered {raw.status}"
        raise CoordinatorUnavailableError(message)
    return SocketFeed(raw.webSocket)
