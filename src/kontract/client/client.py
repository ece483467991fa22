"""The client: backend functions of a gateway as methods (docs/reference/python-client.md)."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload

import httpx
import msgspec
from msgspec import Raw, Struct

from kontract.client.codec import HttpTransport, Wire
from kontract.client.errors import InvalidAnswerError, RedirectedError, error_of
from kontract.client.retries import Retries, Retrying
from kontract.client.session import Me, OnTokens, Session, Tokens
from kontract.client.stream import SILENCE_SECONDS, Stream
from kontract.client.transport import Answer, Transport
from kontract.core import limits
from kontract.core.model import values
from kontract.core.protocol.idempotency import OF_CLIENT
from kontract.ports import Clock, Randomness
from kontract.server.system import SystemClock, SystemRandomness

T = TypeVar("T")

TIMEOUT = 15.0
"""Seconds for one request. A transaction may take 10; the rest is for connecting and the network."""

FUNCTION_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{limits.FUNCTION_NAME_LENGTH - 1}}}", re.ASCII)

TOKEN = re.compile(rf"[\x21-\x7e]{{1,{limits.TOKEN_BYTES}}}")

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Options(TypedDict, total=False):
    """The options of all ways to create a client: see ``Client``."""

    secure: bool
    server_key: str | None
    retries: Retries
    timeout: float
    on_tokens: OnTokens | None
    http: httpx.AsyncClient | None
    transport: Transport | None
    clock: Clock
    random: Randomness


class _Result(Struct):
    """The body of every answer other than an error."""

    result: Raw


class Client:
    """A gateway and a session: ``async with Client(url, token=...) as api: await api.create_task("x")``.

    Every attribute other than these methods is a backend function: call it with positional arguments and await the
    decoded result. Functions and the methods below raise HttpError and ClientError (:mod:`kontract.client.errors`). Any
    number of tasks of one event loop can use one client at the same time.
    """

    def __init__(
        self,
        url: str,
        token: str | Tokens | None = None,
        *,
        secure: bool = False,
        server_key: str | None = None,
        retries: Retries | None = None,
        timeout: float = TIMEOUT,
        on_tokens: OnTokens | None = None,
        http: httpx.AsyncClient | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        random: Randomness | None = None,
    ) -> None:
        """Create a client without sending anything. Raises ValueError for options that cannot work.

        ``token``: an access token, or the ``Tokens`` of an earlier client, which can be refreshed. ``secure``: calls go
        through raystream, to the holder of ``server_key`` (base64url) or, without one, to any server at ``url``.
        ``timeout``: seconds for one request. ``on_tokens``: a function, sync or async, that stores each new pair of
        tokens; it gets None when the session is over. ``http``: an httpx.AsyncClient for all requests, which stays
        open. ``transport``: sends calls instead of HTTP.
        """
        if not secure and server_key is not None:
            message = "server_key= needs secure=True: without it nothing is encrypted"
            raise ValueError(message)
        if secure and transport is not None:
            message = "transport= and secure=True exclude each other"
            raise ValueError(message)
        self._clock = clock or SystemClock()
        self._random = random or SystemRandomness()
        self._retrying = Retrying(retries or Retries(), self._clock, self._random)
        self._wire = Wire(url, timeout, http)
        if secure:
            # Imported here, so that clients without raystream do not need `cryptography`.
            from kontract.client.raystream import RaystreamTransport
            from kontract.server.crypto import NativeCrypto

            transport = RaystreamTransport(self._wire, NativeCrypto(), self._clock, self._random, server_key)
        self._transport = transport or HttpTransport(self._wire)
        tokens = Tokens(token) if isinstance(token, str) else token
        if tokens is not None and not TOKEN.fullmatch(tokens.token):
            message = "this is not a token: it has invalid characters or is too long"
            raise ValueError(message)
        self._session = Session(self._wire, self._retrying, self._clock, tokens, on_tokens)

    # --- sessions ----------------------------------------------------------------------------------------------------

    @classmethod
    async def anonymous(cls, url: str, **options: Unpack[Options]) -> Self:
        """Return a client with a new anonymous session."""
        return await cls._opened(cls(url, **options), "anonymous", None)

    @classmethod
    async def register(cls, url: str, name: str, password: str, **options: Unpack[Options]) -> Self:
        """Return a client with a session of a new account; raises ConflictError when the name is taken.

        It is not retried when its answer was lost (``maybe_applied``): the first attempt may have taken the name.
        """
        credentials = {"name": name, "password": password}
        return await cls._opened(cls(url, **options), "register", credentials, repeatable=False)

    @classmethod
    async def login(cls, url: str, name: str, password: str, **options: Unpack[Options]) -> Self:
        """Return a client with a new session of an account; raises UnauthorizedError if name or password is wrong."""
        return await cls._opened(cls(url, **options), "login", {"name": name, "password": password})

    async def link(self, name: str, password: str) -> None:
        """Give the anonymous user of this session an account; its rows stay. It is not retried, like ``register``."""
        await self._session.link(name, password)

    async def logout(self) -> None:
        """End the session on all nodes. Later calls are sent without a token."""
        await self._session.logout()

    async def me(self) -> Me:
        """Return who the token belongs to, as the gateway sees it."""
        return await self._session.me()

    @property
    def tokens(self) -> Tokens | None:
        """The current tokens; None without a session."""
        return self._session.tokens

    # --- calls -------------------------------------------------------------------------------------------------------

    @overload
    async def call(self, function: str, /, *args: Any, idempotency_key: str | None = None) -> Any: ...

    @overload
    async def call(self, function: str, /, *args: Any, type: type[T], idempotency_key: str | None = None) -> T: ...

    async def call(
        self,
        function: str,
        /,
        *args: Any,
        type: Any = Any,  # noqa: A002 - the word for it
        idempotency_key: str | None = None,
    ) -> Any:
        """Call a function by its name and return its result.

        ``type``: msgspec converts the result to this type. ``idempotency_key``: all calls of the user with this key are
        applied once; within 24 h repetitions return the first result. Without one, each call gets its own key, so that
        its retries are applied once.
        """
        if not FUNCTION_NAME.fullmatch(function):
            message = f"{function!r:.200} cannot be the name of a function"
            raise ValueError(message)
        headers = {"content-type": "application/json"}
        if idempotency_key is None and self._retrying.policy.attempts != 1:
            idempotency_key = OF_CLIENT + self._random.token(16).hex()
        if idempotency_key is not None:
            if not IDEMPOTENCY_KEY.fullmatch(idempotency_key):
                message = f"an idempotency key is 1 to 255 visible ASCII characters, not {idempotency_key!r:.300}"
                raise ValueError(message)
            headers["idempotency-key"] = idempotency_key
        body = _encode(function, args)

        async def send(bearer: Mapping[str, str]) -> Answer:
            return await self._transport.send(function, {**headers, **bearer}, body)

        async def attempt() -> Any:
            answer = await self._session.authorized(send)
            return self._result(function, answer, type)

        return await self._retrying.run(attempt)

    def __getattr__(self, name: str) -> RemoteFunction:
        """Return the backend function of this name."""
        if name.startswith("_"):
            # Names that copy, pickle and inspect look up are not functions; call such a function as api["_name"].
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message)
        return RemoteFunction(self, name)

    def __getitem__(self, name: str) -> RemoteFunction:
        """Return the backend function of this name, for any name."""
        return RemoteFunction(self, name)

    def stream(self, *tables: str, since: str = "", ids: Iterable[str] = ()) -> Stream:
        """Iterate over the changes of tables as they happen: ``async for event in api.stream("tasks")``.

        It reconnects on its own and resumes where it was: each event comes once, in whole transactions, in commit
        order. ``since``: the ``position`` of an earlier event, to resume after it. ``ids``: only changes of these rows.
        Raises HttpError for what a retry would not change, for example a missing token.
        """
        return Stream(tables, ids, since, self._open_stream, self._clock, self._random)

    async def _open_stream(self, path: str, last_id: str) -> httpx.Response | Answer:
        opened: list[httpx.Response] = []

        async def send(bearer: Mapping[str, str]) -> Answer:
            headers = {"accept": "text/event-stream", **bearer, **({"last-event-id": last_id} if last_id else {})}
            response = await self._wire.open(path, headers, SILENCE_SECONDS)
            if response.status_code == 200:
                opened.append(response)
                return Answer(200, {}, b"")
            try:
                return Answer(response.status_code, dict(response.headers), await response.aread())
            finally:
                await response.aclose()

        answer = await self._session.authorized(send)
        return opened[0] if opened else answer

    # --- its end -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections. The session stays valid: end it with ``logout``."""
        await self._session.aclose()
        await self._wire.aclose()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    # --- what comes back ---------------------------------------------------------------------------------------------

    async def _opened(self, way: str, credentials: dict[str, str] | None, *, repeatable: bool = True) -> Self:
        try:
            await self._session.open(way, credentials, repeatable=repeatable)
        except BaseException:
            await self.aclose()
            raise
        return self

    def _result(self, function: str, answer: Answer, wanted: Any) -> Any:
        if 300 <= answer.status < 400:
            location = answer.headers.get("location", "")
            redirected = RedirectedError(f"{function}: the answer is at {location or 'another URL'}")
            redirected.status, redirected.location = answer.status, location
            raise redirected
        if not 200 <= answer.status < 300:
            raise error_of(answer, self._clock.now())
        try:
            result = msgspec.json.decode(answer.body, type=_Result).result if answer.body else Raw(b"null")
            return values.Decoder[Any](wanted).decode(bytes(result))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"{function}: the result does not match the requested type: {error}"
            raise InvalidAnswerError(message) from error


def _encode(function: str, args: tuple[Any, ...]) -> bytes:
    body = msgspec.json.encode(args, enc_hook=values.hook)
    if b"null" in body:
        try:
            values.check_finite(args)
        except ValueError as error:
            message = f"{function}: JSON has neither NaN nor infinity; send None or a string"
            raise ValueError(message) from error
    return body


class RemoteFunction:
    """A backend function, ready to be called."""

    __slots__ = ("_client", "_name")

    def __init__(self, client: Client, name: str) -> None:
        """``name``: as in the URL."""
        self._client = client
        self._name = name

    def __call__(self, *args: Any, **named: Any) -> Coroutine[Any, Any, Any]:
        """Call the function; await the result. Raises TypeError at once for arguments by name."""
        if named:
            message = (
                f"{self._name}: {', '.join(f'{name}=' for name in named)} cannot be passed by name: pass arguments by "
                "position, in the order of the function's parameters"
            )
            raise TypeError(message)
        return self._client.call(self._name, *args)

    def __repr__(self) -> str:
        """Name the function."""
        return f"<backend function {self._name}>"
