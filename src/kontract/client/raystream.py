"""Calls through raystream: encrypted to the process that runs the functions (docs/reference/raystream.md).

A session with the server begins with the first call and lasts as long as its ticket, an hour at most. It belongs to one
token: a new token, after a refresh or a login, begins a new session. Any number of tasks share it, each call with its
own number; calls do not wait for each other, but all wait for a running handshake.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from kontract.client.codec import Wire
from kontract.client.errors import (
    ClientError,
    InvalidAnswerError,
    ServerKeyError,
    UnsealedAnswerError,
    error_of,
)
from kontract.client.transport import Answer
from kontract.core import limits
from kontract.core.errors import HttpError, PayloadTooLargeError
from kontract.core.protocol.idempotency import OF_CLIENT
from kontract.core.security.raystream.client import ClientHandshake, SealedSession
from kontract.core.security.raystream.payloads import Reply, SealedCall
from kontract.core.security.raystream.suites import KEY_BYTES, VERSION, RaystreamError
from kontract.ports import Clock, Crypto, Randomness

WELL_KNOWN = "/.well-known/kontract"
HANDSHAKE = "/raystream/handshake"
RPC = "/raystream/rpc"

PUBLIC_KEY = re.compile(r"[A-Za-z0-9_-]{43}")

_OCTETS = {"content-type": "application/octet-stream"}


class _Offer(Struct):
    """The part of ``/.well-known/kontract`` that is about raystream."""

    versions: list[int]
    public_keys: list[str]


class _About(Struct):
    raystream: _Offer


class _Line(Struct, frozen=True, eq=False):
    """A session in use: its token, and when its ticket arrived, by this machine's clock in milliseconds."""

    session: SealedSession
    token: str
    since: float


class RaystreamTransport:
    """Seals calls and opens answers."""

    def __init__(self, wire: Wire, crypto: Crypto, clock: Clock, random: Randomness, server_key: str | None) -> None:
        """Create a transport without sending anything. Raises ValueError for an invalid key.

        ``server_key``: the server's public key, base64url. Without one the server is asked, and its
        answer is trusted.
        """
        self._wire = wire
        self._crypto = crypto
        self._clock = clock
        self._random = random
        self._pinned = None if server_key is None else _key(server_key)
        self._line: _Line | None = None
        self._turn = asyncio.Lock()

    async def send(self, function: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a call; after a refusal, for example of an expired ticket, send it once more in a new session.

        Raises ClientError, and HttpError if the server refuses the session.
        """
        if len(body) > limits.BODY_BYTES:
            message = f"the arguments are larger than {limits.BODY_BYTES} bytes"
            raise PayloadTooLargeError(message)
        inner = {name: value for name, value in headers.items() if name != "authorization"}
        # A refusal is not sealed, so anybody on the network may have written it after the call was applied: a repeated
        # call needs a key, even without retries.
        inner.setdefault("idempotency-key", OF_CLIENT + self._random.token(16).hex())
        token = headers.get("authorization", "").removeprefix("Bearer ")
        refused: _Line | None = None
        while True:
            try:
                line = await self._ready(token, refused)
            except (ClientError, HttpError) as error:
                error.maybe_applied = refused is not None
                raise
            if isinstance(line, Reply):
                return Answer(line.status, line.headers, line.body)
            elapsed = int(self._clock.elapsed() - line.since)
            sealed = line.session.seal(SealedCall(function, inner, body, elapsed))
            answer = await self._wire.request("POST", RPC, _OCTETS, sealed.message)
            if _is_refusal(answer) and refused is None:
                refused = line
                continue
            if answer.status == 200:
                try:
                    reply = line.session.open(sealed.sequence, answer.body)
                except RaystreamError:
                    raise _unsealed(answer, "the answer was changed in transit, or is not from the server") from None
                return Answer(reply.status, reply.headers, reply.body)
            raise _unsealed(answer, f"the answer to the call is not encrypted; it has status {answer.status}")

    async def _ready(self, token: str, refused: _Line | None) -> _Line | Reply:
        """Return a session of ``token`` other than the refused one, or the server's error for the token."""
        async with self._turn:
            line = self._line
            if line is None or line is refused or line.token != token or self._is_over(line):
                self._line = None
                session = await self._handshake(token)
                if isinstance(session, Reply):
                    return session
                line = self._line = _Line(session, token, self._clock.elapsed())
            return line

    def _is_over(self, line: _Line) -> bool:
        return line.session.exhausted or self._clock.elapsed() - line.since >= line.session.lifetime

    async def _handshake(self, token: str) -> SealedSession | Reply:
        public = self._pinned or await self._told()
        handshake = ClientHandshake(self._crypto, public, self._random.token(KEY_BYTES))
        answer = await self._wire.request("POST", HANDSHAKE, _OCTETS, handshake.hello(token.encode()))
        if _is_refusal(answer):
            whose = "server_key" if self._pinned else f"the key at {WELL_KNOWN}"
            message = f"{self._wire.url} does not hold the private key of {whose}"
            raise ServerKeyError(message)
        if answer.status != 200:
            raise _unsealed(answer, f"the answer to the handshake is not encrypted; it has status {answer.status}")
        try:
            return handshake.finish(answer.body)
        except RaystreamError:
            whose = "server_key" if self._pinned else f"the key at {WELL_KNOWN}"
            raise _unsealed(answer, f"the answer to the handshake is not from the holder of {whose}") from None

    async def _told(self) -> bytes:
        """Ask the server for its key. This pins nothing: anybody who can answer instead can send another key."""
        answer = await self._wire.request("GET", WELL_KNOWN, {})
        if answer.status != 200:
            raise error_of(answer, self._clock.now())
        try:
            about = msgspec.json.decode(answer.body, type=_About).raystream
            if VERSION not in about.versions:
                message = f"{self._wire.url} does not support version {VERSION} of raystream"
                raise InvalidAnswerError(message)
            return _key(about.public_keys[0])
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, IndexError) as error:
            message = f"{self._wire.url}{WELL_KNOWN} is not that of a Kontract gateway: {error}"
            raise InvalidAnswerError(message) from error


def _key(text: str) -> bytes:
    """Decode a public key: base64url of 32 bytes, without padding; raises ValueError."""
    if not PUBLIC_KEY.fullmatch(text):
        message = f"{text!r:.100} is not a server's public key: base64url of {KEY_BYTES} bytes has 43 characters"
        raise ValueError(message)
    return base64.urlsafe_b64decode(text + "=")


def _is_refusal(answer: Answer) -> bool:
    return answer.status == 401 and answer.headers.get("www-authenticate", "").lower().startswith("raystream")


def _unsealed(answer: Answer, message: str) -> UnsealedAnswerError:
    error = UnsealedAnswerError(message)
    error.status = answer.status
    return error
