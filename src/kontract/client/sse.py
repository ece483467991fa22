"""A parser of server-sent events, as the standard says (WHATWG HTML, section 9.2.6). No I/O."""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. ``id``: the last id in the stream so far, of this event or an earlier one."""

    event: str
    data: str
    id: str


class Parser:
    """Takes bytes in pieces of any size and returns events. ``retry``: the server's wish, in ms."""

    def __init__(self, last_id: str = "") -> None:
        """``last_id``: of the previous connection; valid until the server sends another."""
        self.retry: int | None = None
        self.last_id = last_id
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._line = ""
        self._begins = True
        self._after_cr = False
        self._id = last_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take a piece of the stream and return the events that it completes. An incomplete event is never returned."""
        text = self._decode(chunk)
        if self._begins and text:
            self._begins = False
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        events: list[ServerSentEvent] = []
        start = 0
        for position, character in enumerate(text):
            if character not in "\r\n" or position < start:
                continue
            self._line += text[start:position]
            start = position + 1
            if character == "\r":
                if start < len(text):
                    start += text[start] == "\n"
                else:
                    self._after_cr = True
            event = self._take(self._line)
            self._line = ""
            if event is not None:
                events.append(event)
        self._line += text[start:]
        return events

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value[:9])
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_id = self._id
        data, name = self._data, self._event
        self._data, self._event = [], ""
        return ServerSentEvent(name or "message", "\n".join(data), self.last_id) if data else None
