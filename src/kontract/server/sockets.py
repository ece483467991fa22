"""The socket under a connection that granian serves, found by its addresses.

RSGI says neither how much of a stream a client has taken, nor does it bound what a WebSocket's client may send, nor
close one with a code, nor cut a connection. The operating system can do that: this process has the socket, only its
number is not told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
from pathlib import Path

_FOLDERS = ("/proc/self/fd", "/dev/fd")

_BYTES_ACKED = 120
"""Where ``tcpi_bytes_acked`` lies in ``struct tcp_info`` (linux/tcp.h, since Linux 4.1), an unsigned 64-bit number."""


class PeerSocket:
    """A second descriptor of a connection. It must be closed, or the connection stays open."""

    def __init__(self, sock: socket.socket) -> None:
        """Own ``sock``."""
        sock.setblocking(False)  # as it is: the two descriptors have that in common
        self._socket = sock

    def acknowledged(self) -> int | None:
        """Return how many bytes of this connection the client's side has received; None where that is not known."""
        if sys.platform != "linux":
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        except OSError:
            return None
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0]) if len(info) == _BYTES_ACKED + 8 else None

    def keep_little(self, size: int) -> None:
        """Let the system buffer about ``size`` received bytes; more stay with the client."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    async def receive(self, at_most: int) -> bytes:
        """Wait for bytes; none at the end of the connection. Raises OSError."""
        return await asyncio.get_running_loop().sock_recv(self._socket, at_most)

    async def send(self, data: bytes) -> None:
        """Send, and wait until the system has taken all; raises OSError."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    def end(self) -> None:
        """Say that nothing more comes; what the client sends can still be read."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End the connection in both directions, with what is still to be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back; the connection goes on.

        In the loop's next turn: it still watches the number of what was cancelled in this one.
        """
        asyncio.get_running_loop().call_soon(self._socket.close)


class PeerSockets:
    """Finds the sockets of a process's connections."""

    def __init__(self, port: int) -> None:
        """Look among the connections to ``port``."""
        self._port = port
        self._folder = next((folder for folder in _FOLDERS if Path(folder).is_dir()), None)
        self._known: set[int] = set()  # second descriptors, which need not be looked at

    @property
    def can_find(self) -> bool:
        """Whether this system shows a process its open files; Windows does not."""
        return self._folder is not None

    def find(self, peer: str) -> PeerSocket | None:
        """Return the socket of the client at "host:port"; None where that cannot be known."""
        host, _, port = peer.rpartition(":")
        if self._folder is None or not port.isdigit():
            return None
        wanted = (host.strip("[]"), int(port))
        try:
            numbers = list(map(int, os.listdir(self._folder)))  # noqa: PTH208 - faster
        except OSError:  # no more files can be opened
            return None
        for number in sorted(numbers, reverse=True):  # the newest connections have the highest, more or less
            if number not in self._known and _is(number, wanted, self._port):
                return self._second(number, wanted)
        return None

    def forget(self, found: PeerSocket) -> None:
        """Close a socket that was found."""
        self._known.discard(found._socket.fileno())  # noqa: SLF001 - the two belong together
        found.close()

    def _second(self, number: int, wanted: tuple[str, int]) -> PeerSocket | None:
        try:
            copy = os.dup(number)
        except OSError:
            return None
        if not _is(copy, wanted, self._port):  # it was closed, and its number given to another one
            os.close(copy)
            return None
        self._known.add(copy)
        return PeerSocket(socket.socket(fileno=copy))


def _is(number: int, wanted: tuple[str, int], port: int) -> bool:
    """Whether a descriptor is a connection from ``wanted`` to ``port``."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        sock = socket.socket(fileno=number)
    except OSError:
        return False
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        return bool(sock.getpeername()[:2] == wanted and sock.getsockname()[1] == port)
    except OSError:
        return False
    finally:
        sock.detach()
