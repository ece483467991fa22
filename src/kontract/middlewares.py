"""Middleware that comes with Kontract.

Apply it with ``middleware`` in a module of the application::

    from kontract import middleware
    from kontract.middlewares import rate_limit

    limit = middleware(egroup="api-v1")(rate_limit(100, per=60))
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from kontract.core.errors import ForbiddenError, HttpError, RateLimitedError
from kontract.gateway.addresses import subscriber
from kontract.gateway.context import Context

CallNext = Callable[[], Awaitable[Any]]
Middleware = Callable[[Context, CallNext], Awaitable[Any]]


def rate_limit(calls: int, per: float = 60.0, *, by: Callable[[Context], str] | None = None) -> Middleware:
    """Let each caller make at most ``calls`` calls of a function within ``per`` seconds, counted from the first.

    Callers are counted by user, and without a token by address; ``by`` may return another key from the context. Above
    the limit calls get 429 with ``Retry-After``. All nodes count together, which costs one message to the owner's
    coordinator per call. When that does not answer, each process counts on its own.
    """

    async def limit(ctx: Context, call_next: CallNext) -> Any:
        who = by(ctx) if by is not None else (f"user/{ctx.user}" if ctx.sid else f"address/{subscriber(ctx.client)}")
        # A digest, because keys have a limited length and two callers must not meet.
        key = hashlib.sha256(who.encode(errors="backslashreplace")).hexdigest()[:32]
        count, seconds = await ctx.counters.count_within(f"rate/{ctx.route}/{key}", per)
        if count > calls:
            message = f"{ctx.route} may be called {calls} times in {per:g} seconds; wait before calling it again"
            raise RateLimitedError(message, headers={"Retry-After": str(max(1, round(seconds)))})
        return await call_next()

    return limit


def require_group(*groups: str) -> Middleware:
    """Let only members of one of ``groups`` pass; others get 403."""

    async def check(ctx: Context, call_next: CallNext) -> Any:
        if not ctx.ugroups.intersection(groups):
            message = f"{ctx.route} is for members of {' or '.join(sorted(groups))}"
            raise ForbiddenError(message)
        return await call_next()

    return check


def log(event: str = "call") -> Middleware:
    """Log a line for each call: caller, function, outcome and time. It has no arguments or results."""

    async def write(ctx: Context, call_next: CallNext) -> Any:
        outcome = "error"
        try:
            result = await call_next()
        except HttpError as error:
            outcome = error.error_code.name
            raise
        else:
            outcome = "ok"
            return result
        finally:
            ctx.log(
                "info",
                event,
                request_id=ctx.request_id,
                function=ctx.route,
                owner=ctx.owner,
                user=ctx.user,
                outcome=outcome,
            )

    return write
