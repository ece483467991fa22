"""A client of a WebSocket that keeps to nothing: it writes frames byte by byte, and reads what comes back."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(data: bytes, opcode: int = TEXT, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """A frame as clients send them (RFC 6455, section 5.2)."""
    return header(len(data), opcode, fin=fin, masked=masked, rsv=rsv) + data  # the mask is zero


def header(length: int, opcode: int = TEXT, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """The header of a frame, whatever follows."""
    first, mask = (0x80 if fin else 0) | rsv << 4 | opcode, 0x80 if masked else 0
    if length < 126:
        written = struct.pack("!BB", first, mask | length)
    elif length < 1 << 16:
        written = struct.pack("!BBH", first, mask | 126, length)
    else:
        written = struct.pack("!BBQ", first, mask | 127, length)
    return written + (bytes(4) if masked else b"")


class RawSocket:
    """A connection that was upgraded. ``status``: of the answer; 101 when it was."""

    def __init__(self, port: int, headers: Mapping[str, str], path: str = "/stream?table=tasks") -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        given = {
            "Host": f"127.0.0.1:{port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        } | dict(headers)
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        self.connection.sendall("\r\n".join(lines).encode("latin-1"))
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            more = self.connection.recv(65536)
            assert more, self._data
            self._data += more
        self.head, _, self._data = self._data.partition(b"\r\n\r\n")
        self.status = int(self.head.split(b" ", 2)[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes) -> bool:
        """Send; False when the other side has hung up."""
        try:
            self.connection.sendall(data)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[int, bytes]:
        """The next frame: its opcode and its data; raises EOFError at the end of the connection."""
        first, second = self._take(2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        return first & 0x0F, self._take(length)

    def until(self, opcode: int) -> bytes:
        """The data of the next frame of a kind."""
        while True:
            kind, data = self.receive()
            if kind == opcode:
                return data

    def closed(self) -> int:
        """Wait for the end, and return the code of the close frame; 1006 when there was none."""
        try:
            data = self.until(CLOSE)
        except (EOFError, ConnectionError):
            return 1006
        return int.from_bytes(data[:2], "big") if data else 1005

    def ends_within(self, seconds: float) -> bool:
        """Whether the other side hangs up within so many seconds."""
        self.connection.settimeout(0.2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if not self.connection.recv(65536):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            more = self.connection.recv(65536)
            if not more:
                raise EOFError
            self._data += more
        taken, self._data = self._data[:count], self._data[count:]
        return taken


def resident_mib(pid: int) -> float:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
