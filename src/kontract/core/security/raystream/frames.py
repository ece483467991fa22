"""The frame: a header of 16 bytes, which is the associated data of the rest.

=======  =====  ==========  ========================================================================
offset   bytes  field       value
=======  =====  ==========  ========================================================================
0        1      version     0x01
1        1      type        :class:`FrameType`
2        2      flags       0: none is defined
4        4      sequence    0 in the handshake, then 1 to 2^32 - 1, chosen by the client
8        4      length      bytes after the header, all of them
12       4      reserved    0
=======  =====  ==========  ========================================================================

Numbers are big-endian. A frame with any other value is refused: undefined values can be defined later only if
nobody sends them now.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from msgspec import Struct

from kontract.core import limits
from kontract.core.security.raystream.suites import VERSION, RaystreamError

HEADER_BYTES = 16
MAX_SEQUENCE = 2**32 - 1

_HEADER = struct.Struct(">BBHIII")


class FrameType(IntEnum):
    """What a frame is. Each is accepted in one place only."""

    HELLO = 0x01
    WELCOME = 0x02
    REQUEST = 0x03
    RESPONSE = 0x04

    @property
    def numbered(self) -> bool:
        """Whether it carries a sequence number."""
        return self in (FrameType.REQUEST, FrameType.RESPONSE)


TICKET_LENGTH_BYTES = 2


class Frame(Struct, frozen=True):
    """A parsed frame: the header's bytes, its sequence number, and the rest."""

    header: bytes
    sequence: int
    payload: bytes


def header(kind: FrameType, sequence: int, length: int) -> bytes:
    """Return the header of a frame with ``length`` bytes after it."""
    return _HEADER.pack(VERSION, kind, 0, sequence, length, 0)


def parse(message: bytes, kind: FrameType) -> Frame:
    """Parse a frame of the expected type; raises RaystreamError."""
    if len(message) < HEADER_BYTES:
        raise RaystreamError
    version, found, flags, sequence, length, reserved = _HEADER.unpack_from(message)
    if (version, found, flags, reserved) != (VERSION, kind, 0, 0):
        raise RaystreamError
    if length != len(message) - HEADER_BYTES or kind.numbered is (sequence == 0):
        raise RaystreamError
    return Frame(message[:HEADER_BYTES], sequence, message[HEADER_BYTES:])


def attach_ticket(ticket: bytes, frame: bytes) -> bytes:
    """Return what a client sends: the ticket's length, the ticket, the frame."""
    return len(ticket).to_bytes(TICKET_LENGTH_BYTES, "big") + ticket + frame


def detach_ticket(message: bytes) -> tuple[bytes, bytes]:
    """Return ticket and frame; raises RaystreamError."""
    size = int.from_bytes(message[:TICKET_LENGTH_BYTES], "big")
    end = TICKET_LENGTH_BYTES + size
    if size > limits.RAYSTREAM_TICKET_BYTES or len(message) < end:
        raise RaystreamError
    return message[TICKET_LENGTH_BYTES:end], message[end:]
