"""HTTP as the gateway sees it: plain values, the same for every server and Worker."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw

from kontract.core import limits
from kontract.core.errors import Code, HttpError, InvalidRequestError, PayloadTooLargeError
from kontract.core.headers import put
from kontract.core.model import values
from kontract.core.model.fields import redact
from kontract.ports import Outlet, Socket

V = TypeVar("V")

JSON = "application/json"
OCTETS = "application/octet-stream"

encode_json = msgspec.json.Encoder(enc_hook=values.hook).encode


READ_HEADERS = frozenset(
    (
        "authorization",
        "cf-connecting-ip",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "if-none-match",
        "last-event-id",
        "origin",
        "traceparent",
        "upgrade",
        "x-forwarded-for",
        "x-kontract-arguments",
        "x-request-id",
    )
)
"""Request headers that the gateway reads, on every platform."""

UNREADABLE = "\ufffd"
"""Stands for a header's value that the platform does not show."""

_VALUE = re.compile(r"[\t\x20-\x7e]*")


def _nothing() -> None:
    """Nobody wants to know."""


class Request(msgspec.Struct, frozen=True):
    """One request. Header names are in lower case; ``body`` reads at most the given number of bytes and one more.

    ``client``: the caller's network address as the platform knows it, empty if it does not; never
    taken from a header that a caller can set. ``commits``: called when the request begins to commit. From then on its
    work is not ended when its caller leaves.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Callable[[int], Awaitable[bytes]]
    query: str = ""
    client: str = ""
    commits: Callable[[], None] = _nothing

    def check_headers(self) -> None:
        """Raise InvalidRequestError for a value that is not visible ASCII, of a header that the gateway reads.

        Servers and proxies differ in what they make of other bytes: one drops the header, the next takes them for
        Latin-1 or UTF-8. A call without the key, or from another address, must not be what its sender gets.
        """
        for name, value in self.headers.items():
            if (value.isascii() and value.isprintable()) or name not in READ_HEADERS:
                continue
            if not _VALUE.fullmatch(value):  # a tab may be there
                message = f"the header {name} has a character that is not visible ASCII; remove or encode it"
                raise InvalidRequestError(message)

    @property
    def has_body(self) -> bool:
        """Whether the request has a body; its length may be unknown."""
        return self.headers.get("content-length", "0").strip("0") != "" or "transfer-encoding" in self.headers

    async def read(self, at_most: int = limits.BODY_BYTES) -> bytes:
        """Return the body.

        Raises PayloadTooLargeError above the limit, and HttpError (415) when it is compressed: a small compressed body
        may be large when decompressed.
        """
        coding = self.headers.get("content-encoding", "").strip()
        if coding.lower() not in ("", "identity"):
            raise _encoded(coding)
        length = self.headers.get("content-length", "")
        # Python refuses to read numbers of thousands of digits.
        if length.isdecimal() and (len(length) > 20 or int(length) > at_most):
            raise _too_large(at_most)
        body = await self.body(at_most)
        if len(body) > at_most:
            raise _too_large(at_most)
        return body


def _encoded(coding: str) -> HttpError:
    # RFC 9110, section 15.5.16: the header says what would have been acceptable.
    message = f"the request body has the Content-Encoding {coding!r:.100}; send it without compression"
    return HttpError(message, code=Code.UNSUPPORTED_MEDIA_TYPE, headers={"Accept-Encoding": "identity"})


def _too_large(at_most: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the request body is larger than {at_most} bytes")


@dataclass(slots=True)
class Response:
    """One response, ready to be sent. ``stream``: writes the body while it is sent, in place of ``body``.

    ``websocket``: with status 101, speaks with the client when the connection has been upgraded.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Callable[[Outlet], Awaitable[None]] | None = None
    websocket: Callable[[Socket], Awaitable[None]] | None = None


class HttpResp(Generic[V]):
    """What a backend function returns for a status other than 200: see the class methods.

    ``-> HttpResp[Task]`` declares the type of its value, for the gateway, which checks it, and for typed clients.
    """

    def __init__(self, status: int, value: V | None = None, headers: dict[str, str] | None = None) -> None:
        """Answer with ``status``; ``value`` is sent as ``{"result": value}``."""
        self.status = status
        self.value = value
        self.headers = headers or {}

    @classmethod
    def ok(cls, value: V | None = None) -> HttpResp[V]:
        """200."""
        return HttpResp(200, value)

    @classmethod
    def created(cls, value: V | None = None, location: str | None = None) -> HttpResp[V]:
        """201; ``location`` is the URL of the new resource."""
        return HttpResp(201, value, {"Location": location} if location else None)

    @classmethod
    def no_content(cls) -> HttpResp[V]:
        """204, without a body."""
        return HttpResp(204)

    @classmethod
    def redirect(cls, location: str, status: int = 303) -> HttpResp[V]:
        """303 by default: the client fetches the answer from ``location`` with GET."""
        return HttpResp(status, None, {"Location": location})

    @property
    def has_body(self) -> bool:
        """Whether a response with this status has a body."""
        return self.status not in (204, 205) and not 300 <= self.status < 400


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """The body of every answer that is an error."""

    error: str
    message: str
    request_id: str
    details: Raw | None = None


def shortened(message: str) -> str:
    """Return a message, or the beginning of a long one."""
    if len(message) <= limits.ERROR_MESSAGE:
        return message
    return message[: limits.ERROR_MESSAGE - 3] + "..."


def error_response(error: HttpError, request_id: str) -> Response:
    """Return the response for an error that the caller may see."""
    # Rows may have fields that callers may not read, in errors as well.
    details = Raw(encode_json(redact(error.details))) if error.details is not None else None
    if details is not None and len(bytes(details)) > limits.ANSWER_BYTES:
        message = f"the details of an error are larger than {limits.ANSWER_BYTES} bytes"
        raise ValueError(message)
    body = ErrorBody(error.error_code.name, shortened(error.message), request_id, details)
    headers = dict(error.headers)
    put(headers, "Content-Type", JSON)
    return Response(error.status, encode_json(body), headers)
