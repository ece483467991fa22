"""``/raystream/*`` and ``/.well-known/kontract``: encrypted calls as requests and responses.

docs/reference/raystream.md is the specification.

A sealed call is a call like any other: the code behind ``/rpc`` answers it, for the session of the handshake's token.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import msgspec

from kontract.core import headers as header_fields
from kontract.core import limits
from kontract.core.errors import InvalidRequestError, UnauthorizedError
from kontract.core.security.keys import KeyRing
from kontract.core.security.raystream.payloads import Reply
from kontract.core.security.raystream.server import HandshakeServer, Randoms
from kontract.core.security.raystream.suites import VERSION, RaystreamError, Suite
from kontract.gateway import rpc
from kontract.gateway.context import Session
from kontract.gateway.http import JSON, OCTETS, Request, Response, encode_json
from kontract.gateway.log_line import LogLine
from kontract.gateway.scope import Scope
from kontract.gateway.sessions import authenticate, ensure_live
from kontract.ports import Crypto

WELL_KNOWN = "/.well-known/kontract"
HANDSHAKE = "/raystream/handshake"
RPC = "/raystream/rpc"
PATHS = frozenset({WELL_KNOWN, HANDSHAKE, RPC})

WELL_KNOWN_CACHE = "public, max-age=300"
"""Keys change only by rotation, and then the previous key is still accepted."""

ARGUMENTS = "x-kontract-arguments"
"""The header of a sealed call that says whether its body is an array of arguments or an object of arguments by name."""

REFUSED = "raystream: this message was refused; begin with a new handshake"

Failed = Callable[[Exception, LogLine], Response]
"""Turns an error into a response, and adds the details to the log line."""

_encode_principal = msgspec.msgpack.Encoder().encode
_decode_principal: Callable[[bytes], Session | None] = msgspec.msgpack.Decoder(Session | None).decode


class Raystream:
    """The server's side in one process. It keeps keys but no state of clients."""

    def __init__(self, crypto: Crypto, keys: KeyRing) -> None:
        """Use the keys of this deployment."""
        self._server = HandshakeServer(crypto, keys)

    async def handle(self, scope: Scope, failed: Failed) -> Response:
        """Answer; raises HttpError. Errors after a message was opened are sealed like an answer."""
        request = scope.request
        if request.path == WELL_KNOWN:
            return self._well_known()
        answer = self._handshake if request.path == HANDSHAKE else self._rpc
        return Response(200, await answer(scope, failed), {"Content-Type": OCTETS})

    def _well_known(self) -> Response:
        """Return what a client needs to begin. A client that distrusts the network pins a key instead."""
        about = {
            "raystream": {
                "versions": [VERSION],
                "suites": [suite.protocol for suite in Suite],
                "public_keys": [base64url(key) for key in self._server.public_keys],
                "handshake": HANDSHAKE,
                "rpc": RPC,
            }
        }
        return Response(200, encode_json(about), {"Content-Type": JSON, "Cache-Control": WELL_KNOWN_CACHE})

    async def _handshake(self, scope: Scope, failed: Failed) -> bytes:
        """Answer a client's first message with a ticket, or with the error for its token; both sealed."""
        message = await scope.request.read(limits.RAYSTREAM_HELLO_BYTES)
        try:
            greeting = self._server.begin(message)
            token = greeting.token.decode("ascii")
        except (RaystreamError, UnicodeDecodeError):
            raise _refused() from None
        random, now = scope.platform.random, scope.platform.clock.now()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            session = authenticate(_inner(scope, HANDSHAKE, headers), scope.deployment.tokens, now)
            await ensure_live(scope, session)
        except Exception as error:  # noqa: BLE001 - it is sealed, and so must not leave this function
            response = failed(error, scope.line)
            return greeting.deny(self._reply(scope, response), random.token(32))
        expires = now + limits.RAYSTREAM_TICKET_MS
        if session is not None:
            scope.line.of(session)
            expires = min(expires, session.expires_at * 1000)
        return greeting.grant(_encode_principal(session), now, expires, Randoms(random.token(32), random.token(32)))

    async def _rpc(self, scope: Scope, failed: Failed) -> bytes:
        """Open a request, run its function, seal the answer."""
        message = await scope.request.read(limits.RAYSTREAM_REQUEST_BYTES)
        try:
            opened = self._server.open(message, scope.platform.clock.now())
            session = _decode_principal(opened.principal)
        except (RaystreamError, msgspec.DecodeError):
            raise _refused() from None
        call = opened.call
        scope.line.function = call.function
        try:
            inner = _inner(scope, f"{_prefix(call.headers)}{call.function}", dict(call.headers), call.body)
            inner.check_headers()
            response = await rpc.call_function(scope, session, call.function, inner, opened.call_id)
        except Exception as error:  # noqa: BLE001 - it is sealed, and so must not leave this function
            response = failed(error, scope.line)
        return opened.reply(self._reply(scope, response), scope.platform.random.token(32))

    @staticmethod
    def _reply(scope: Scope, response: Response) -> Reply:
        """Return what ``/rpc`` would have sent, with the headers that the gateway adds."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        headers["x-request-id"] = scope.request_id
        if scope.meter.attempts:
            header_fields.add(headers, "server-timing", scope.meter.server_timing())
        scope.line.status, scope.line.txid = response.status, headers.get("x-kontract-txid")
        return Reply(response.status, headers, response.body)


def base64url(data: bytes) -> str:
    """Encode without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _refused() -> UnauthorizedError:
    return UnauthorizedError(REFUSED, headers={"WWW-Authenticate": "Raystream"})


def _prefix(headers: Mapping[str, str]) -> str:
    """Return the path prefix of the call; raises InvalidRequestError."""
    passing = headers.get(ARGUMENTS, "by-position")
    if passing not in ("by-position", "by-name"):
        message = f"{ARGUMENTS} must be by-position or by-name, not {passing!r:.100}"
        raise InvalidRequestError(message)
    return rpc.NAMED if passing == "by-name" else rpc.PREFIX


def _inner(scope: Scope, path: str, headers: dict[str, str], content: bytes = b"") -> Request:
    """Return the inner request. Only the network address is taken from the outer one."""

    async def body(at_most: int) -> bytes:
        return content[: at_most + 1]

    return Request("POST", path, headers, body, client=scope.request.client)
