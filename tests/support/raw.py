"""HTTP/1.1 by hand: bytes on a socket, for what no HTTP library sends."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

SECONDS = 120.0  # a busy machine gets its time; what is answered is answered sooner


@dataclass
class Answered:
    """What came back: the final answers, in order, as far as they are HTTP; none if the connection was just closed."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Of the first answer, 0 without any."""
        return self.answers[0].status if self.answers else 0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_ours(self) -> bool:
        """Whether the gateway has written it: whatever stands before it does not know request ids."""
        return "x-request-id" in self.headers


def exchange(port: int, data: bytes, *, ends: bool = False) -> Answered:
    """Send bytes and read until the other side closes. ``ends``: say that no more is to come."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as line:
        got = b""
        # The other side may close as soon as it has seen enough, while something is still being sent. That the line
        # is not connected any more (ENOTCONN) is none of Python's ConnectionErrors.
        with contextlib.suppress(OSError):
            line.sendall(data)
            if ends:
                line.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while chunk := line.recv(1 << 16):
                got += chunk
    return Answered(_parsed(got))


def _parsed(data: bytes) -> list[Answer]:
    answers = []
    while data.startswith(b"HTTP/"):
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status < 200:
            continue  # "100 Continue" announces the answer
        if "chunked" in headers.get("transfer-encoding", ""):
            body, data = _chunks(data)
        else:
            length = int(headers.get("content-length", len(data)))
            body, data = data[:length], data[length:]
        answers.append(Answer(status, headers, body))
    return answers


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            return body, data.partition(b"\r\n")[2]
        body, data = body + data[:length], data[length + 2 :]
    return body, data
