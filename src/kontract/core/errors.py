"""One error class, one enum of codes, and the named errors that applications raise.

A code has its HTTP status, whether the same call may succeed later, and whose fault it is. Messages of these errors are
for callers: they never contain SQL, stack traces or secrets.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Self


class Fault(Enum):
    """Whose fault an error is; decides the log level."""

    CALLER = "caller"
    CONTENTION = "contention"
    SERVER = "server"


class Code(Enum):
    """Every error code that can reach a caller: (HTTP status, passes, fault).

    ``passes``: whether the cause is temporary, so that a stream may be opened again. Which *calls* clients retry is
    another question, because a call may have been applied: ``kontract.client.retries.RETRIED``.
    """

    INVALID_REQUEST = (400, False, Fault.CALLER)
    UNAUTHORIZED = (401, False, Fault.CALLER)
    FORBIDDEN = (403, False, Fault.CALLER)
    PERMISSION_DENIED = (403, False, Fault.CALLER)
    NOT_FOUND = (404, False, Fault.CALLER)
    METHOD_NOT_ALLOWED = (405, False, Fault.CALLER)
    CONFLICT = (409, True, Fault.CONTENTION)
    ALREADY_EXISTS = (409, False, Fault.CALLER)
    ALREADY_APPLIED = (409, False, Fault.CALLER)
    PAYLOAD_TOO_LARGE = (413, False, Fault.CALLER)
    UNSUPPORTED_MEDIA_TYPE = (415, False, Fault.CALLER)
    KEY_REUSED = (422, False, Fault.CALLER)
    RATE_LIMITED = (429, True, Fault.CALLER)
    INTERNAL = (500, False, Fault.SERVER)
    UNAVAILABLE = (503, True, Fault.SERVER)
    BUSY = (503, True, Fault.CONTENTION)
    COMMIT_UNKNOWN = (503, False, Fault.SERVER)
    FENCED = (503, False, Fault.SERVER)
    DATABASE_WENT_BACK = (503, False, Fault.SERVER)
    DEADLINE_EXCEEDED = (504, True, Fault.SERVER)

    def __new__(cls, status: int, passes: bool, fault: Fault) -> Self:  # noqa: FBT001 - the row of a table
        """Give members with equal rows distinct values: Enum would make them aliases."""
        member = object.__new__(cls)
        member._value_ = len(cls.__members__)
        member.status = status
        member.passes = passes
        member.fault = fault
        return member

    status: int
    passes: bool
    fault: Fault


class HttpError(Exception):
    """An error for the caller: raise it (or a subclass) from a backend function or middleware.

    The caller sees ``message``. ``details`` is a JSON object that is added to the body. ``headers`` are added to the
    response. An error in a backend function aborts its transaction: none of its writes are kept.

    ``kontract.client`` raises the same classes, with three more attributes. ``request_id``: the id of the request in
    the server's log. ``retry_after``: how many seconds the server asks to wait. ``maybe_applied``: True if the outcome
    of some attempt is unknown, so that the call may have been applied, or may yet be.
    """

    code: ClassVar[Code] = Code.INTERNAL

    request_id: str = ""
    retry_after: float | None = None
    maybe_applied: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        code: Code | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.error_code = code or self.code
        self.message = message or self.error_code.name.replace("_", " ").lower()
        self.details = details
        self.headers = headers or {}
        super().__init__(self.message)

    @property
    def status(self) -> int:
        """The HTTP status this error becomes."""
        return self.error_code.status


class InvalidRequestError(HttpError):
    """400: the request is malformed or has invalid values."""

    code = Code.INVALID_REQUEST


class UnauthorizedError(HttpError):
    """401: no valid token."""

    code = Code.UNAUTHORIZED


class ForbiddenError(HttpError):
    """403: the caller is known but not allowed to do this."""

    code = Code.FORBIDDEN


class PermissionDeniedError(HttpError):
    """403: the function, the table or the token lacks a permission bit."""

    code = Code.PERMISSION_DENIED


class NotFoundError(HttpError):
    """404: no such function or row."""

    code = Code.NOT_FOUND


class ConflictError(HttpError):
    """409: lost against concurrent transactions, or the row already exists."""

    code = Code.CONFLICT


class PayloadTooLargeError(HttpError):
    """413: a request, a row or a transaction is over its limit."""

    code = Code.PAYLOAD_TOO_LARGE


class RateLimitedError(HttpError):
    """429: too many requests; ``Retry-After`` says when to retry."""

    code = Code.RATE_LIMITED


class InternalError(HttpError):
    """500: a defect; the log line with the request id has the details."""

    code = Code.INTERNAL


class UnavailableError(HttpError):
    """503: the database or the coordinator does not answer."""

    code = Code.UNAVAILABLE


class ReadOnlyError(UnavailableError):
    """503: the database accepts no writes at the moment. This call wrote nothing."""


class DeadlineExceededError(HttpError):
    """504: the transaction took longer than it may."""

    code = Code.DEADLINE_EXCEEDED
