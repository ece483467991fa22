"""``POST /rpc/<function>``: decode, run as a transaction, encode."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from kontract.core import documents, limits
from kontract.core.attempts import Attempts
from kontract.core.catalog import Catalog
from kontract.core.errors import Code, HttpError, InvalidRequestError, NotFoundError
from kontract.core.perms import may_write
from kontract.core.storage import Storage
from kontract.core.store import SqlStore
from kontract.core.transaction import Call, Transaction
from kontract.core.types import Isolation
from kontract.gateway.context import Context, Session
from kontract.gateway.http import JSON, HttpResp, Request, Response, encode_json
from kontract.gateway.meter import Meter, MeteredCoordinator, MeteredDatabase
from kontract.gateway.routes import Endpoint, Registry
from kontract.ports import RuntimeAdapter

PREFIX = "/rpc/"

FUNCTION_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{limits.FUNCTION_NAME_LENGTH - 1}}}", re.ASCII)

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class _Envelope(msgspec.Struct):
    """The whole answer of an idempotent call, as the coordinator keeps it."""

    status: int
    headers: dict[str, str]
    body: str


def function_name(path: str) -> str:
    """Return the name in ``/rpc/<name>``; raises NotFoundError for anything that cannot be one."""
    name = path.removeprefix(PREFIX)
    if not FUNCTION_NAME.fullmatch(name):
        message = "there is no such function; calls go to POST /rpc/<function>"
        raise NotFoundError(message)
    return name


def decode_arguments(body: bytes) -> list[Any]:
    """Return the arguments in a request body: its array, or its one value in an array; none when it is empty."""
    if not body.strip():
        return []
    documents.check_depth(body, "the request body")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the request body is not valid JSON: {error}"
        raise InvalidRequestError(message) from None
    arguments = value if isinstance(value, list) else [value]
    documents.check(arguments, "arguments")
    return arguments


class RpcCall:
    """One call of one backend function."""

    def __init__(
        self,
        platform: RuntimeAdapter,
        registry: Registry,
        catalog: Catalog,
        session: Session,
        request: Request,
        request_id: str,
        meter: Meter,
    ) -> None:
        """Bind the call to its request."""
        self._platform = platform
        self._registry = registry
        self._catalog = catalog
        self._session = session
        self._request = request
        self._request_id = request_id
        self._meter = meter
        self._ids = 0

    async def run(self, endpoint: Endpoint) -> Response:
        """Decode the arguments, run the function until it commits, and return its answer."""
        body = await self._request.read()
        context = self._context(endpoint)
        endpoint.signature.bind(decode_arguments(body), context)  # what is wrong is said before anything is opened
        database = MeteredDatabase(self._platform.open_database(), self._meter, self._platform.clock)
        try:
            return await self._transact(endpoint, context, body, SqlStore(database))
        finally:
            # Closing a connection takes a network turn that the caller need not wait for.
            self._platform.spawn(database.aclose())

    async def _transact(self, endpoint: Endpoint, context: Context, body: bytes, store: SqlStore) -> Response:
        coordinator = MeteredCoordinator(
            self._platform.coordinator(self._session.owner), self._meter, self._platform.clock
        )
        call = self._call(endpoint)
        response = Response(200)

        async def handle(transaction: Transaction) -> str:
            nonlocal response
            if attempts.last_loss is not None and not attempts.last_loss.table:
                # Not a conflict: perhaps a table has moved or changed its kind, and this attempt must know.
                self._catalog.forget(self._session.owner)
            storage = Storage(transaction, store, self._catalog, self._registry.row_type, self._new_id)
            context.start_attempt(transaction, storage)
            # Decoded anew for each attempt: the function may have changed what it was given.
            bound = endpoint.signature.bind(decode_arguments(body), context)
            response = to_response(await endpoint.function(**bound), endpoint.name)
            if not call.idempotent:
                return ""
            return encode_json(_Envelope(response.status, response.headers, response.body.decode())).decode()

        attempts = Attempts(call, self._platform, coordinator, store, endpoint.meta.max_attempts)
        try:
            outcome = await attempts.run(handle, endpoint.name)
        finally:
            self._meter.attempts = attempts.number
            if attempts.last_loss is not None:
                # It may have lost because a table has moved or changed its kind.
                self._catalog.forget(self._session.owner)
        self._meter.handler_ms = outcome.handler_ms
        if outcome.replayed:
            kept = msgspec.json.decode(outcome.result, type=_Envelope)
            response = Response(kept.status, kept.body.encode(), {**kept.headers, "Idempotency-Replayed": "true"})
        elif context.has_plans():
            self._platform.spawn(context.committed(self._action_failed))
        if outcome.txid is not None:
            response.headers["X-Kontract-Txid"] = str(outcome.txid)
        return response

    def _call(self, endpoint: Endpoint) -> Call:
        key = self._request.headers.get("idempotency-key")
        if key is None:
            call_id = self._platform.random.token(16).hex()
        else:
            call_id = idempotent_call_id(self._session, endpoint.name, key)
        return Call(
            id=call_id,
            owner=self._session.owner,
            user=self._session.user,
            read_only=not may_write(endpoint.meta.perm),
            isolation=Isolation(endpoint.meta.isolation),
            idempotent=key is not None,
        )

    def _context(self, endpoint: Endpoint) -> Context:
        return Context(
            session=self._session,
            method=self._request.method,
            path=self._request.path,
            headers=self._request.headers,
            route=endpoint.name,
            request_id=self._request_id,
            perm=endpoint.meta.perm,
            env=self._platform.environment,
            _spawn=self._platform.spawn,
        )

    def _new_id(self) -> str:
        """Return a UUID version 7 (RFC 9562): time in milliseconds, a counter within this call, random bits."""
        self._ids += 1
        random = int.from_bytes(self._platform.random.token(8), "big") & ((1 << 62) - 1)
        number = (self._platform.clock.now() & ((1 << 48) - 1)) << 80
        number |= 0x7 << 76 | (self._ids & 0xFFF) << 64 | 0b10 << 62 | random
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _action_failed(self, error: Exception) -> None:
        self._platform.log(
            "error", "after_commit", request_id=self._request_id, function=self._request.path, error=repr(error)
        )


def idempotent_call_id(session: Session, function: str, key: str) -> str:
    """Return the transaction id that every repetition of a call has (design: in doubt)."""
    if not IDEMPOTENCY_KEY.fullmatch(key):
        message = "Idempotency-Key must be 1 to 255 visible ASCII characters"
        raise InvalidRequestError(message)
    parts = f"{session.owner}\x00{session.user}\x00{function}\x00{key}"
    return f"idem-{hashlib.sha256(parts.encode()).hexdigest()[:40]}"


def to_response(value: Any, function: str) -> Response:
    """Encode what a backend function returned. Done before the commit: a result that cannot be sent aborts it."""
    answer = value if isinstance(value, HttpResp) else HttpResp.ok(value)
    try:
        body = answer.body()
    except (TypeError, ValueError, OverflowError) as error:
        message = f"{function} returned something that JSON cannot hold: {error}"
        raise TypeError(message) from error
    headers = dict(answer.headers)
    if body:
        headers["Content-Type"] = JSON
    return Response(answer.status, body, headers)


def method_not_allowed(allowed: str) -> HttpError:
    """Return the error for a wrong method."""
    return HttpError(f"use {allowed} here", code=Code.METHOD_NOT_ALLOWED, headers={"Allow": allowed})
