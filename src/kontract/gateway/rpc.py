"""``POST /call/<function>`` and ``/rpc/<function>``: decode, run as a transaction within the middleware, encode."""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

import msgspec

from kontract.core import headers as header_fields
from kontract.core import limits
from kontract.core.errors import Code, HttpError, InternalError, InvalidRequestError, NotFoundError
from kontract.core.model import values
from kontract.core.model.perms import may_write
from kontract.core.model.signatures import Passing
from kontract.core.protocol import idempotency
from kontract.core.transaction.attempts import Repeated
from kontract.core.transaction.storage import Storage
from kontract.core.transaction.transaction import Call, Transaction
from kontract.core.types import Isolation
from kontract.gateway.context import Context, Session
from kontract.gateway.http import HttpResp, Request, Response, encode_json
from kontract.gateway.routes import Endpoint
from kontract.gateway.scope import Scope
from kontract.gateway.sessions import authorize, ensure_live, is_live, public_session, required
from kontract.gateway.transact import Transactor

PREFIX = "/rpc/"
"""Before the name of a function whose arguments are an array."""

NAMED = "/call/"
"""Before the name of a function whose arguments are an object, by their names."""

PREFIXES = (NAMED, PREFIX)

FUNCTION_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{limits.FUNCTION_NAME_LENGTH - 1}}}", re.ASCII)

IDEMPOTENCY_KEY = re.compile(rf"[\x21-\x7e]{{1,{limits.KEY_LENGTH}}}")


_decode_digits = msgspec.json.Decoder(float_hook=msgspec.Raw).decode
"""Floats that differ in a digit are different arguments, and a text of the same digits is another one."""


class _Envelope(msgspec.Struct):
    """The stored answer of an idempotent call. ``digest``: of its arguments; old entries have none."""

    status: int
    headers: dict[str, str]
    body: str
    digest: str = ""


class _Made(NamedTuple):
    """What one attempt made: the function's value, and the answer that it is encoded as."""

    value: Any
    response: Response


class _Committed(NamedTuple):
    """How the transaction ended: what middleware sees of it, and the answer unless that changes it."""

    value: Any
    response: Response
    txid: int | None
    replayed: bool = False


def function_name(path: str) -> str:
    """Return the name in ``/call/<name>`` or ``/rpc/<name>``; raises NotFoundError for anything that cannot be one."""
    prefix = NAMED if path.startswith(NAMED) else PREFIX
    name = path.removeprefix(prefix)
    if not FUNCTION_NAME.fullmatch(name):
        message = f"there is no such function; call functions with POST {prefix}<function>"
        raise NotFoundError(message)
    return name


async def call_function(
    scope: Scope, session: Session | None, name: str, request: Request, call_id: str | None = None
) -> Response:
    """Call a backend function on behalf of a session, None for a caller without a token.

    ``request`` is the call's own: with raystream it is not the HTTP request. ``call_id``: the same for every copy of
    the request, so that it is applied once. Raises HttpError and whatever the function raises.
    """
    deployment = scope.deployment
    if deployment.broken:
        told = deployment.broken if deployment.config.show_errors else ""
        raise InternalError(f"the application was not built. {told}".strip())
    endpoint = deployment.registry.endpoint(name)
    if session is None and endpoint is not None and endpoint.meta.public:
        session = public_session(deployment.config)
    # Without a token callers do not learn which functions exist.
    session = required(session)
    scope.line.of(session)
    if endpoint is None:
        message = f"there is no function {name!r}"
        raise NotFoundError(message)
    authorize(session, name, endpoint.meta)
    return await RpcCall(scope, session, endpoint, request, call_id).run()


class RpcCall:
    """One call of one backend function."""

    def __init__(
        self, scope: Scope, session: Session, endpoint: Endpoint, request: Request, call_id: str | None = None
    ) -> None:
        """Bind the call to its request."""
        self._scope = scope
        self._platform = scope.platform
        self._session = session
        self._endpoint = endpoint
        self._request = request
        self._call_id = call_id
        self._context = self._make_context()

    async def run(self) -> Response:
        """Run the middleware and within it the function until it commits; return the answer."""
        endpoint = self._endpoint
        if not endpoint.is_wrapped:
            alone = await self._transact()
            return self._respond(alone.value, alone)
        await ensure_live(self._scope, self._session)
        called = False
        committed: _Committed | None = None

        async def last() -> Any:
            """Run the function as a transaction: the innermost step of the chain."""
            nonlocal called, committed
            if called:
                message = "call_next was awaited twice; a call is one transaction"
                raise RuntimeError(message)
            called = True
            committed = await self._transact()
            return committed.value

        return self._respond(await endpoint.chain(self._context, last), committed)

    def _respond(self, value: Any, committed: _Committed | None) -> Response:
        """Return the answer for what the middleware returned; ``committed``: None if it has not called the function."""
        if committed is None:
            return self._endpoint.result.middleware_response(value)
        response = committed.response
        # The function's own answer was encoded before the commit; middleware may have changed the object since.
        if self._endpoint.is_wrapped:
            same = value is committed.value and not committed.replayed  # the stored answer has no hidden fields
            result = self._endpoint.result
            response = result.response(value) if same else result.middleware_response(value)
        if committed.replayed:
            header_fields.put(response.headers, "Idempotency-Replayed", "true")
        if committed.txid is not None and may_write(self._endpoint.meta.perm):
            header_fields.put(response.headers, "X-Kontract-Txid", str(committed.txid))
        return response

    async def _transact(self) -> _Committed:
        body = await self._request.read()
        # Mistakes are reported before anything is opened.
        arguments = self._endpoint.signature.read(body, self._passing)
        deployment, call, meta = self._scope.deployment, self._call(), self._endpoint.meta
        digest = self._digest_of(body) if call.idempotent else ""

        async def work(transaction: Transaction, storage: Storage) -> _Made:
            self._context.start_attempt(transaction, storage)
            value = await self._endpoint.function(**arguments.take(self._context))
            return _Made(value, self._endpoint.result.response(value))

        def kept(made: _Made) -> str:
            response = made.response
            return encode_json(_Envelope(response.status, response.headers, response.body.decode(), digest)).decode()

        async with Transactor(self._scope, deployment.registry.row_type) as transactor:
            outcome = await transactor.run(
                call, work, self._endpoint.name, max_attempts=meta.max_attempts, perm=meta.perm, kept=kept
            )
        if isinstance(outcome, Repeated):
            return _replayed(outcome, digest)
        if self._context.has_plans():
            self._platform.spawn(self._context.committed(self._action_failed))
        return _Committed(outcome.result.value, outcome.result.response, outcome.txid)

    @property
    def _passing(self) -> Passing:
        return Passing.BY_NAME if self._request.path.startswith(NAMED) else Passing.BY_POSITION

    def _digest_of(self, body: bytes) -> str:
        """Return a digest of the arguments, to recognize a repeated call.

        White space, the order of names, and whether arguments come by name or by position make no difference.
        """
        try:
            given = _decode_digits(body) if body.strip() else []
            if self._passing is Passing.BY_POSITION:
                given = given if isinstance(given, list) else [given]
                given = dict(zip(self._endpoint.signature.parameters, given, strict=False))
            canonical = msgspec.json.encode(given or {}, order="sorted")
        except (msgspec.DecodeError, OverflowError):  # an integer beyond 64 bits, which only a function takes
            canonical = body
        return hashlib.sha256(canonical).hexdigest()[:32]

    def _call(self) -> Call:
        key = self._request.headers.get("idempotency-key")
        meta = self._endpoint.meta
        read_only = not may_write(meta.perm)
        brief = key is not None and key.startswith(idempotency.OF_CLIENT)
        idempotent = remembered = True
        if key is not None:
            call_id = idempotent_call_id(self._session, self._endpoint.name, key)
            # A sealed request can be replayed after it was answered.
            remembered = not brief or self._call_id is not None
            idempotent = not (brief and read_only)  # nothing can be applied twice
        elif self._call_id is not None and not read_only:
            call_id = self._call_id
        else:
            call_id = self._platform.random.token(16).hex()
            idempotent = False
        return Call(
            id=call_id,
            owner=self._session.owner,
            user=self._session.user,
            session=self._session.sid,
            read_only=read_only,
            isolation=Isolation(meta.isolation),
            idempotent=idempotent,
            begins=not is_live(self._scope, self._session),
            remembered=remembered,
        )

    def _make_context(self) -> Context:
        return Context(
            session=self._session,
            method=self._request.method,
            path=self._request.path,
            headers=self._request.headers,
            route=self._endpoint.name,
            request_id=self._scope.request_id,
            perm=self._endpoint.meta.perm,
            env=self._scope.deployment.config.application,
            client=self._scope.request.client,
            log=self._platform.log,
            _scope=self._scope,
        )

    def _action_failed(self, error: Exception) -> None:
        self._platform.log(
            "error", "after_commit", request_id=self._scope.request_id, function=self._endpoint.name, error=repr(error)
        )


def _replayed(repeated: Repeated, digest: str) -> _Committed:
    """Return what the first call answered; middleware sees it as it would have seen that, as plain JSON."""
    envelope = msgspec.json.decode(repeated.kept, type=_Envelope)
    if envelope.digest not in ("", digest):
        message = (
            "this Idempotency-Key was used for a call with other arguments; repeat a call with the same arguments, "
            "and use a new key for a new call"
        )
        raise HttpError(message, code=Code.KEY_REUSED)
    body = envelope.body.encode()
    value = values.decode(body)["result"] if body else None
    headers = {name: value for name, value in envelope.headers.items() if name != "Content-Type"}
    if envelope.status != 200 or headers:
        value = HttpResp(envelope.status, value, headers)
    return _Committed(value, Response(envelope.status, body, envelope.headers), repeated.txid, replayed=True)


def idempotent_call_id(session: Session, function: str, key: str) -> str:
    """Return the transaction id that all repetitions of a call share; raises InvalidRequestError.

    Keys belong to a user, so two users may choose the same. All callers without a token share the empty user: one who
    guesses another's key gets the answer of that call, and the guessed call does not run. Their keys are still
    accepted, because a caller that lost an answer has no other way to be sure. But they must be too long to guess, as
    are those that the clients make (128 random bits). No token has an empty user, so these keys never meet those of
    users.
    """
    if not IDEMPOTENCY_KEY.fullmatch(key):
        message = f"Idempotency-Key must be 1 to {limits.KEY_LENGTH} visible ASCII characters"
        raise InvalidRequestError(message)
    if not session.sid and len(key) < limits.PUBLIC_KEY_LEAST:
        message = (
            f"without a token an Idempotency-Key must be random and have at least {limits.PUBLIC_KEY_LEAST} "
            "characters, so that nobody can guess it; or get a token with POST /auth/anonymous"
        )
        raise InvalidRequestError(message)
    user = session.user if session.sid else ""
    parts = f"{session.owner}\x00{user}\x00{function}\x00{key}"
    kind = idempotency.BRIEFLY_KEYED if key.startswith(idempotency.OF_CLIENT) else idempotency.KEYED
    return f"{kind}{hashlib.sha256(parts.encode()).hexdigest()[:40]}"
