"""What is inside: the call and the reply, as bytes before they are sealed.

::

    call     = elapsed (4) || function length (1) || function || headers || body
    reply    = status (2) || headers || body
    headers  = count (1) || count times: name length (1) || name || value length (2) || value
    verdict  = 0x01 || lifetime (4) || ticket     the token was accepted
             | 0x02 || reply                      it was not

Numbers are big-endian; the body is the rest. Both are what ``POST /rpc/<function>`` takes and answers. Names of headers
are in lower case and come once each; values are what HTTP allows (RFC 9110, section 5.5), in ISO 8859-1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from kontract.core import headers as header_fields
from kontract.core import limits
from kontract.core.security.raystream.suites import RaystreamError

_FUNCTION = re.compile(rb"[A-Za-z_][A-Za-z0-9_.-]*")


class SealedCall(Struct, frozen=True):
    """A request: the function, what accompanies it, its arguments, and how old the session is.

    ``elapsed``: milliseconds since the client received its ticket, by the client's clock. The server refuses a call
    that is far from where it should be, so that a recorded one is soon worth nothing.
    """

    function: str
    headers: Mapping[str, str]
    body: bytes
    elapsed: int


class Reply(Struct, frozen=True):
    """A response: what HTTP would have carried."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class SealedGrant(Struct, frozen=True):
    """The answer to a handshake whose token was accepted. ``lifetime``: the ticket's, in milliseconds from now."""

    lifetime: int
    ticket: bytes


Verdict = SealedGrant | Reply
"""The payload of a handshake's answer: a ticket, or what HTTP would have answered to that token."""

_GRANTED = 0x01
_DENIED = 0x02


class _Reader:
    """Reads from the front; raises RaystreamError where there is not enough."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        end = self._at + size
        if end > len(self._data):
            raise RaystreamError
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        """The next number."""
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        """Everything else."""
        return self.take(len(self._data) - self._at)


def encode_call(call: SealedCall) -> bytes:
    """Return a call's bytes; ValueError for one that cannot be sent."""
    name = call.function.encode("ascii", "replace")
    if not _FUNCTION.fullmatch(name) or len(name) > limits.FUNCTION_NAME_LENGTH:
        message = f"{call.function!r:.200} cannot be the name of a function"
        raise ValueError(message)
    return b"".join((call.elapsed.to_bytes(4, "big"), bytes([len(name)]), name, _headers(call.headers), call.body))


def decode_call(data: bytes) -> SealedCall:
    """Return the call; raises RaystreamError."""
    reader = _Reader(data)
    elapsed = reader.number(4)
    name = reader.take(reader.number(1))
    if not _FUNCTION.fullmatch(name) or len(name) > limits.FUNCTION_NAME_LENGTH:
        raise RaystreamError
    headers = _read_headers(reader)
    return SealedCall(name.decode("ascii"), headers, reader.rest(), elapsed)


def encode_reply(reply: Reply) -> bytes:
    """Return a reply's bytes; ValueError for one that cannot be sent."""
    if not 100 <= reply.status <= 599:
        message = f"{reply.status} is not a valid status"
        raise ValueError(message)
    return b"".join((reply.status.to_bytes(2, "big"), _headers(reply.headers), reply.body))


def decode_reply(data: bytes) -> Reply:
    """Return the reply; raises RaystreamError."""
    reader = _Reader(data)
    status = reader.number(2)
    if not 100 <= status <= 599:
        raise RaystreamError
    headers = _read_headers(reader)
    return Reply(status, headers, reader.rest())


def encode_verdict(verdict: Verdict) -> bytes:
    """Return the payload of a handshake's answer; ValueError for one that cannot be sent."""
    if isinstance(verdict, Reply):
        return bytes([_DENIED]) + encode_reply(verdict)
    return bytes([_GRANTED]) + verdict.lifetime.to_bytes(4, "big") + verdict.ticket


def decode_verdict(data: bytes) -> Verdict:
    """Return the payload of a handshake's answer; raises RaystreamError."""
    reader = _Reader(data)
    kind = reader.number(1)
    if kind == _DENIED:
        return decode_reply(reader.rest())
    if kind != _GRANTED:
        raise RaystreamError
    lifetime = reader.number(4)
    ticket = reader.rest()
    if not 0 < len(ticket) <= limits.RAYSTREAM_TICKET_BYTES:
        raise RaystreamError
    return SealedGrant(lifetime, ticket)


def _headers(headers: Mapping[str, str]) -> bytes:
    if len(headers) > limits.RAYSTREAM_HEADERS:
        message = f"{len(headers)} headers are more than the limit of {limits.RAYSTREAM_HEADERS}"
        raise ValueError(message)
    parts = [bytes([len(headers)])]
    names = set()
    for key, text in headers.items():
        name, value = header_fields.encode(key, text)
        if name in names:
            message = f"the header {key!r:.100} cannot be sent twice"
            raise ValueError(message)
        names.add(name)
        parts += (bytes([len(name)]), name, len(value).to_bytes(2, "big"), value)
    return b"".join(parts)


def _read_headers(reader: _Reader) -> dict[str, str]:
    count = reader.number(1)
    if count > limits.RAYSTREAM_HEADERS:
        raise RaystreamError
    headers: dict[str, str] = {}
    for _ in range(count):
        name = reader.take(reader.number(1))
        value = reader.take(reader.number(2))
        if not header_fields.fits(name, value) or name.decode("ascii") in headers:
            raise RaystreamError
        headers[name.decode("ascii")] = value.decode("iso-8859-1")
    return headers
