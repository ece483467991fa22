"""Change streams: ``async for event in api.stream("tasks")``, across lost connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
from msgspec import Struct

from kontract.client.errors import ConnectionFailedError, InvalidAnswerError, error_of
from kontract.client.sse import Parser, ServerSentEvent
from kontract.client.transport import Answer
from kontract.core.errors import HttpError
from kontract.core.model import values
from kontract.ports import Clock, Randomness

PATH = "/stream"

SILENCE_SECONDS = 40.0
"""A stream that is silent for this many seconds is dead: the server sends something every 15 seconds."""

PAUSE_FIRST_MS = 500.0
PAUSE_LAST_MS = 30_000.0
"""Pauses between attempts to connect, doubled each time, jittered over the full length. A stream never gives up: put a
deadline around the loop if it should."""


class Event(Struct, frozen=True, kw_only=True, rename={"old": "oldData"}):
    """A change. ``type``: insert, update, delete, or reset.

    ``data``: the row, None after a deletion; ``old``: the previous row, if the transaction had read it. ``position``:
    where to resume after the transaction of this event; the same for all of its events, which come together. A
    ``reset`` means that events were missed (the position is too old, or the log was restarted): read the tables again;
    it has no table and no row.
    """

    type: str
    table: str = ""
    id: str = ""
    data: Any = None
    old: Any = None
    txid: int = 0
    position: str = ""


Open = Callable[[str, str], Any]
"""Opens (path with query, Last-Event-ID): returns a streaming httpx.Response, or an Answer with an error."""


class Stream:
    """Iterates over the changes of tables; whole transactions, each once, in order."""

    def __init__(
        self, tables: tuple[str, ...], ids: Iterable[str], since: str, open_: Open, clock: Clock, random: Randomness
    ) -> None:
        """Nothing is sent before the iteration begins."""
        if not tables:
            message = "stream: name at least one table"
            raise TypeError(message)
        self.position = since
        self.denied: list[str] = []
        self._query = urlencode([("table", table) for table in tables] + [("id", one) for one in ids])
        self._open = open_
        self._clock = clock
        self._random = random
        self._failures = 0

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Connect, and reconnect after each interruption; raises HttpError for what a retry would not change."""
        while True:
            try:
                async for event in self._connection():
                    yield event
            except (ConnectionFailedError, InvalidAnswerError):
                pass
            except HttpError as error:
                if not error.error_code.passes:
                    raise
            pause = min(PAUSE_FIRST_MS * 2.0 ** min(self._failures, 10), PAUSE_LAST_MS)
            self._failures += 1
            await self._clock.sleep(pause * self._random.uniform())

    async def _connection(self) -> AsyncIterator[Event]:
        response = await self._open(f"{PATH}?{self._query}", self.position)
        if isinstance(response, Answer):
            raise error_of(response, self._clock.now())
        parser, pending = Parser(self.position), list[Event]()
        try:
            async for chunk in _chunks(response):
                for sent in parser.feed(chunk):
                    self._failures = 0
                    async for event in self._take(sent, pending):
                        yield event
        finally:
            await response.aclose()

    async def _take(self, sent: ServerSentEvent, pending: list[Event]) -> AsyncIterator[Event]:
        moved = sent.id != self.position
        if sent.event == "message":
            pending.append(_decode(sent.data, Event))
        elif sent.event == "ready":
            self.denied = _decode(sent.data, _Ready).denied
            self.position = sent.id
            return
        elif sent.event == "reset":
            pending.clear()
            yield Event(type="reset", position=self.position)
            return
        if moved and pending:
            # The last one of its transaction: only now has all of it arrived.
            self.position = sent.id
            whole = [msgspec.structs.replace(event, position=sent.id) for event in pending]
            pending.clear()
            for event in whole:
                yield event


class _Ready(Struct):
    tables: list[str]
    denied: list[str]


def _decode(text: str, kind: Any) -> Any:
    try:
        return values.Decoder[Any](kind).decode(text)
    except msgspec.DecodeError as error:
        message = f"the stream sent something that this client does not understand: {error}"
        raise InvalidAnswerError(message) from error


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    except httpx.HTTPError as error:
        message = f"the stream broke: {error or type(error).__name__}"
        raise ConnectionFailedError(message) from error
