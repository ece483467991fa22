"""A client of a change stream in this process: what it is sent, parsed as the standard says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from kontract.gateway.http import Request, Response
from kontract.ports import ClientGoneError
from support.api import Api
from support.sessions import bearer


class Listener:
    """An outlet that keeps what it is sent. ``stop_reading`` plays a client that does not take anything."""

    separate = False

    def __init__(self) -> None:
        self.text = ""
        self.closed = False
        self.reading = asyncio.Event()
        self.reading.set()
        self.gone = False
        self._news = asyncio.Event()

    async def write(self, data: bytes) -> None:
        await self.reading.wait()
        if self.gone:
            raise ClientGoneError
        self.text += data.decode()
        self._news.set()

    async def close(self) -> None:
        self.closed = True
        self._news.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """(event, id, data) of every event so far."""
        found = []
        for block in self.text.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "data" in fields:
                found.append(
                    {"event": fields.get("event", ""), "id": fields.get("id"), "data": json.loads(fields["data"])}
                )
        return found

    @property
    def changes(self) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events if not event["event"]]

    @property
    def last_id(self) -> str | None:
        return next((event["id"] for event in reversed(self.events) if event["id"]), None)

    async def until(self, ready, seconds: float = 20) -> Any:
        """Wait until ``ready(self)`` is true and return it."""
        async with asyncio.timeout(seconds):
            while not (answer := ready(self)):
                self._news.clear()
                await self._news.wait()
        return answer


async def listen(
    api: Api, query: str = "table=tasks&table=accounts", **headers: str | None
) -> tuple[Response, Listener]:
    """Open a stream; its response, and who listens (to nothing, if it was refused)."""

    async def body(_: int) -> bytes:
        return b""

    given = bearer() | {name.lower().replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in given.items() if value is not None}
    response = await api.gateway.handle(Request("GET", "/stream", sent, body, query), api.platform)
    listener = Listener()
    if response.stream is not None:
        listener.task = asyncio.ensure_future(response.stream(listener))
        await listener.until(lambda one: any(event["event"] == "ready" for event in one.events) or one.closed)
    return response, listener


class Talker(Listener):
    """A client with a WebSocket: messages both ways."""

    separate = True

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self._said: asyncio.Queue[str | None] = asyncio.Queue()

    async def write(self, data: bytes) -> None:
        await super().write(data)
        self.messages.append(json.loads(data))

    async def receive(self) -> str:
        text = await self._said.get()
        if text is None:
            raise ClientGoneError
        return text

    def say(self, message: Any) -> None:
        self._said.put_nowait(message if isinstance(message, str) else json.dumps(message))

    def hang_up(self) -> None:
        self._said.put_nowait(None)

    @property
    def named(self) -> list[str]:
        return [message["event"] for message in self.messages if message["event"] != "heartbeat"]


async def talk(api: Api, query: str) -> tuple[Response, Talker]:
    """Open a stream over a WebSocket."""

    async def body(_: int) -> bytes:
        return b""

    headers = bearer() | {"upgrade": "websocket"}
    response = await api.gateway.handle(Request("GET", "/stream", headers, body, query), api.platform)
    talker = Talker()
    if response.websocket is not None:
        talker.task = asyncio.ensure_future(response.websocket(talker))
        await talker.until(lambda one: one.messages)
    return response, talker
