"""Errors of calls: the gateway's errors by code, and the client's own errors without such an answer.

::

    kontract.HttpError          the gateway answered with an error: ConflictError, NotFoundError, ...
      UnknownCodeError          with a code unknown to this version, or a proxy answered instead
    ClientError                 there is no usable answer from the gateway
      ConnectionFailedError     no connection, or it was lost before the answer arrived
      UnsealedAnswerError       raystream: what came back was not sealed by the server
      ServerKeyError            raystream: the server does not hold the expected key
      RedirectedError           the answer is at another URL
      InvalidAnswerError        the answer is not the expected one

All of them have ``maybe_applied``: the outcome of some attempt of the call is unknown.
"""

from __future__ import annotations

import email.utils
from typing import Any

import msgspec
from msgspec import Struct

from kontract.client.transport import Answer
from kontract.core.errors import (
    Code,
    ConflictError,
    DeadlineExceededError,
    ForbiddenError,
    HttpError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)

CLASSES: dict[Code, type[HttpError]] = {
    Code.INVALID_REQUEST: InvalidRequestError,
    Code.UNAUTHORIZED: UnauthorizedError,
    Code.FORBIDDEN: ForbiddenError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.NOT_FOUND: NotFoundError,
    Code.METHOD_NOT_ALLOWED: HttpError,
    Code.CONFLICT: ConflictError,
    Code.ALREADY_EXISTS: ConflictError,
    Code.ALREADY_APPLIED: ConflictError,
    Code.PAYLOAD_TOO_LARGE: PayloadTooLargeError,
    Code.UNSUPPORTED_MEDIA_TYPE: HttpError,
    Code.KEY_REUSED: HttpError,
    Code.RATE_LIMITED: RateLimitedError,
    Code.INTERNAL: InternalError,
    Code.UNAVAILABLE: UnavailableError,
    Code.BUSY: UnavailableError,
    Code.COMMIT_UNKNOWN: UnavailableError,
    Code.FENCED: UnavailableError,
    Code.DATABASE_WENT_BACK: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
}
"""The class of each code; ``error_code`` tells codes of one class apart."""

UNREACHED = frozenset({502, 503, 504, *range(520, 528), 530})
"""Statuses with which a proxy says that it did not reach the server, or lost it (those from 520 are Cloudflare's)."""


class ClientError(Exception):
    """There is no usable answer from the gateway."""

    maybe_applied: bool = False


class ConnectionFailedError(ClientError):
    """No connection, or it was lost before the answer arrived."""


class UnsealedAnswerError(ClientError):
    """The server did not seal the answer to an encrypted call: anybody on the network may have written it."""

    maybe_applied = True
    status: int = 200


class ServerKeyError(ClientError):
    """The server does not hold the private key of ``server_key``: it is another server, or the pin is outdated."""


class RedirectedError(ClientError):
    """The answer is at ``location``. The client does not follow: it would send the token there."""

    status: int = 303
    location: str = ""


class InvalidAnswerError(ClientError):
    """The answer is not the expected one. The call may have been applied."""

    maybe_applied = True


class UnknownCodeError(HttpError):
    """An error whose code this version does not know, or, with an empty ``code_name``, the answer of a proxy."""

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 500,
        code_name: str = "",
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """``status``: needed here, because no code tells it."""
        super().__init__(message, details=details, headers=headers)
        self.code_name = code_name
        self._status = status

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return self._status


class _Body(Struct):
    """The body of every answer that is an error (the gateway's ErrorBody)."""

    error: str
    message: str
    request_id: str = ""
    details: dict[str, Any] | None = None


def error_of(answer: Answer, now: int) -> HttpError:
    """Return the error for an answer. ``now``: milliseconds since the Unix epoch, for a Retry-After with a date."""
    headers = dict(answer.headers)
    try:
        body = msgspec.json.decode(answer.body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = _Body("", f"HTTP status {answer.status}, without a message")
    error: HttpError
    code = Code.__members__.get(body.error)
    if code is not None:
        error = CLASSES[code](body.message, code=code, details=body.details, headers=headers)
        error.maybe_applied = code is Code.COMMIT_UNKNOWN
    else:
        error = UnknownCodeError(
            body.message, status=answer.status, code_name=body.error, details=body.details, headers=headers
        )
        error.maybe_applied = answer.status >= 500
    error.request_id = body.request_id or headers.get("x-request-id", "")
    error.retry_after = _retry_after(headers.get("retry-after", ""), now)
    return error


def _retry_after(value: str, now: int) -> float | None:
    """Read seconds or a date (RFC 9110, section 10.2.3); None for anything else."""
    if value.isdecimal() and value.isascii():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now / 1000)
