"""Kontract: serializable backend functions on Cloudflare Workers or your own servers, over your own PostgreSQL."""

from kontract.core.errors import (
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
from kontract.core.model.declare import RowId, backend, middleware, perm, primkey, table
from kontract.core.model.page import Page
from kontract.core.model.perms import perms
from kontract.gateway.context import Context
from kontract.gateway.http import HttpResp

__all__ = [
    "ConflictError",
    "Context",
    "DeadlineExceededError",
    "ForbiddenError",
    "HttpError",
    "HttpResp",
    "InternalError",
    "InvalidRequestError",
    "NotFoundError",
    "Page",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RowId",
    "UnauthorizedError",
    "UnavailableError",
    "backend",
    "middleware",
    "perm",
    "perms",
    "primkey",
    "table",
]
