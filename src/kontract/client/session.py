"""The client's session: its tokens, and how it gets new ones (``/auth/*``)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from copy import copy
from typing import TypeVar

import msgspec
from msgspec import Struct

from kontract.client.codec import Wire
from kontract.client.errors import ClientError, InvalidAnswerError, error_of
from kontract.client.retries import Retrying
from kontract.client.transport import Answer
from kontract.core.errors import HttpError, UnauthorizedError
from kontract.ports import Clock

T = TypeVar("T")

REFRESH_BEFORE_MS = 60_000
"""A token that expires within this time is refreshed before use: calls take less, and clocks drift less than that."""


class Tokens(Struct, frozen=True):
    """The tokens of a session; store them to continue the session later.

    ``expires_at``: when ``token`` expires, in milliseconds since the Unix epoch by this machine's clock; 0 if unknown.
    ``refresh_token`` is empty if there is none; each can be used once, by one client.
    """

    token: str
    refresh_token: str = ""
    expires_at: int = 0
    owner: str = ""
    user: str = ""


class Me(Struct):
    """Who a token belongs to. ``perm``: permission bits; ``expires_at``: seconds since the Unix epoch."""

    owner: str
    user: str
    anonymous: bool
    ugroups: list[str]
    perm: int
    sid: str
    expires_at: int


OnTokens = Callable[[Tokens | None], Awaitable[None] | None]
"""Gets each new pair of tokens at once; None: the session is over. Its exceptions reach the caller."""


class _Granted(Struct):
    """The gateway's answer that grants a session; ``expires_in`` in seconds."""

    token: str
    expires_in: int
    refresh_token: str
    owner: str
    user: str


class Session:
    """Keeps tokens and renews them, one renewal at a time."""

    def __init__(
        self, wire: Wire, retrying: Retrying, clock: Clock, tokens: Tokens | None, on_tokens: OnTokens | None
    ) -> None:
        """Begin with ``tokens``; None without a session."""
        self._wire = wire
        self._retrying = retrying
        self._clock = clock
        self._on_tokens = on_tokens
        self._renewal: asyncio.Task[ClientError | HttpError | None] | None = None
        self.tokens = tokens

    async def authorized(self, send: Callable[[dict[str, str]], Awaitable[Answer]]) -> Answer:
        """Await ``send(headers)`` with a valid token, and once more with a new one if it is rejected.

        Raises what ``send`` raises, and the errors of a refresh.
        """
        tokens = self.tokens
        if tokens is not None and tokens.expires_at and tokens.expires_at - self._clock.now() < REFRESH_BEFORE_MS:
            await self._renew(tokens)
            tokens = self.tokens
        answer = await send(_bearer(tokens))
        if tokens is None or not _invalid_token(answer):
            return answer
        await self._renew(tokens)
        if self.tokens is tokens:
            return answer
        return await send(_bearer(self.tokens))

    async def open(self, way: str, credentials: dict[str, str] | None, *, repeatable: bool) -> None:
        """Get a session with ``POST /auth/<way>``: anonymous, register, login; raises HttpError and ClientError."""
        body = b"" if credentials is None else msgspec.json.encode(credentials)
        await self._retrying.run(lambda: self._granted(lambda: self._post(way, {}, body), None), repeatable=repeatable)

    async def link(self, name: str, password: str) -> None:
        """Give an anonymous session an account; raises HttpError and ClientError."""
        body = msgspec.json.encode({"name": name, "password": password})
        await self._retrying.run(
            lambda: self._granted(lambda: self.authorized(lambda headers: self._post("link", headers, body)), None),
            # The second of two calls would find a session that the first has ended.
            repeatable=False,
        )

    async def logout(self) -> None:
        """End the session everywhere; raises HttpError and ClientError."""

        async def attempt() -> None:
            answer = await self.authorized(lambda headers: self._post("logout", headers, b""))
            if not 200 <= answer.status < 300:
                raise error_of(answer, self._clock.now())

        await self._retrying.run(attempt)
        await self._keep(None)

    async def me(self) -> Me:
        """Return who the token belongs to; raises HttpError and ClientError."""

        async def attempt() -> Me:
            answer = await self.authorized(lambda headers: self._wire.request("GET", "/auth/me", headers))
            return _decode(answer, Me, self._clock.now())

        return await self._retrying.run(attempt)

    async def aclose(self) -> None:
        """Wait for a running renewal: its tokens would be lost."""
        if self._renewal is not None:
            await asyncio.wait({self._renewal})

    # --- renewal -----------------------------------------------------------------------------------------------------

    async def _renew(self, tokens: Tokens) -> None:
        """Refresh ``tokens``, unless another task has done so; raises HttpError and ClientError.

        It runs in its own task: a caller that is cancelled meanwhile would leave the session with a used refresh token,
        and using it again a minute later would end the session.
        """
        if self.tokens is not tokens or not tokens.refresh_token:
            return
        if self._renewal is None:
            self._renewal = asyncio.ensure_future(self._renewed(tokens))
            self._renewal.add_done_callback(self._forget_renewal)
        failed = await asyncio.shield(self._renewal)
        if failed is not None:
            # One copy for each caller: it records the attempts of that call.
            mine = copy(failed)
            mine.maybe_applied = False  # it is about the caller's call, which has not been sent
            raise mine from failed

    def _forget_renewal(self, done: asyncio.Task[ClientError | HttpError | None]) -> None:
        self._renewal = None
        if not done.cancelled():
            done.exception()  # of ``on_tokens``: perhaps nobody waits for it any more

    async def _renewed(self, tokens: Tokens) -> ClientError | HttpError | None:
        body = msgspec.json.encode({"refresh_token": tokens.refresh_token})
        try:
            await self._granted(lambda: self._post("refresh", {}, body), tokens)
        except UnauthorizedError as error:
            if self.tokens is tokens:
                # The token stays: without it, calls of public functions would continue as another user.
                self.tokens = msgspec.structs.replace(tokens, refresh_token="", expires_at=0)
                await self._tell(None)
            return error
        except (ClientError, HttpError) as error:
            return error
        return None

    # --- asking, and keeping the answer ------------------------------------------------------------------------------

    async def _granted(self, send: Callable[[], Awaitable[Answer]], instead_of: Tokens | None) -> None:
        """Keep the tokens of an answer, unless ``instead_of`` has been replaced meanwhile."""
        answer = await send()
        granted = _decode(answer, _Granted, self._clock.now())
        if instead_of is None or self.tokens is instead_of:
            expires_at = self._clock.now() + granted.expires_in * 1000
            await self._keep(Tokens(granted.token, granted.refresh_token, expires_at, granted.owner, granted.user))

    async def _post(self, way: str, headers: dict[str, str], body: bytes) -> Answer:
        return await self._wire.request("POST", f"/auth/{way}", {"content-type": "application/json", **headers}, body)

    async def _keep(self, tokens: Tokens | None) -> None:
        self.tokens = tokens
        await self._tell(tokens)

    async def _tell(self, tokens: Tokens | None) -> None:
        if self._on_tokens is not None:
            done = self._on_tokens(tokens)
            if inspect.isawaitable(done):
                await done


def _bearer(tokens: Tokens | None) -> dict[str, str]:
    return {} if tokens is None else {"authorization": f"Bearer {tokens.token}"}


def _invalid_token(answer: Answer) -> bool:
    """Return whether the token was rejected (RFC 6750, section 3.1), and not the request."""
    return answer.status == 401 and "invalid_token" in answer.headers.get("www-authenticate", "")


def _decode(answer: Answer, kind: type[T], now: int) -> T:
    if not 200 <= answer.status < 300:
        raise error_of(answer, now)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"this is not the answer of a Kontract gateway: {error}"
        raise InvalidAnswerError(message) from error
