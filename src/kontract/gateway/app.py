"""The gateway's front: routing, authentication, CORS, errors, and one log line a request."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any

from kontract.core import headers as header_fields
from kontract.core import trace
from kontract.core.errors import Fault, HttpError, InternalError, NotFoundError, UnavailableError
from kontract.core.transaction import sqlstates
from kontract.core.transaction.catalog import Catalog
from kontract.core.transaction.store import SqlStore, TableMissingError
from kontract.gateway import auth, methods, raystream, rpc, stream
from kontract.gateway import config as configuration
from kontract.gateway.auth import Auth
from kontract.gateway.config import ConfigurationError
from kontract.gateway.http import JSON, OCTETS, Request, Response, encode_json, error_response, shortened
from kontract.gateway.log_line import LogLine
from kontract.gateway.meter import Meter, MeteredDatabase
from kontract.gateway.raystream import Raystream
from kontract.gateway.routes import Registry
from kontract.gateway.rpc import call_function, function_name
from kontract.gateway.scope import Deployment, Scope
from kontract.gateway.sessions import authenticate, ensure_live
from kontract.gateway.tokens import Tokens
from kontract.ports import CoordinatorUnavailableError, DatabaseError, DatabaseUnavailableError, RuntimeAdapter

if TYPE_CHECKING:
    from kontract.gateway.openapi import Documents

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, traceparent, tracestate"
_OF_THE_GATEWAY = frozenset({"Content-Type", "X-Kontract-Txid"})
"""All headers of most answers."""

EXPOSED_HEADERS = "X-Request-Id, X-Kontract-Txid, Server-Timing, Retry-After, Idempotency-Replayed"


DATA_LOST = (
    "the database has gone back to an earlier state and acknowledged commits are lost; kontract doctor shows which "
    "tenants are affected and what to do"
)


class Gateway:
    """All requests of one process (an isolate, a server worker)."""

    def __init__(self, registry: Registry, broken: str = "") -> None:
        """Serve the functions of ``registry``. ``broken``: why there are none, returned to callers."""
        self._registry = registry
        self._broken = broken
        self._deployment: Deployment | None = None
        self._raystream: Raystream | None = None
        self._documents: Documents | None = None

    async def handle(self, request: Request, platform: RuntimeAdapter) -> Response:
        """Answer one request. Never raises: every failure becomes an error body and a log line."""
        started = platform.clock.elapsed()
        meter = Meter()
        request_id = request.headers.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = platform.random.token(12).hex()
        span = trace.begin(request.headers.get("traceparent"), platform.random.token(trace.IDS_BYTES))
        if span.sampled:
            meter.comment = f" /*traceparent='{span.traceparent}'*/"
        line = LogLine(request_id, request.method, request.path[:200])
        origins: frozenset[str] = frozenset()
        try:
            deployment = self._deploy(platform)
            origins = deployment.config.cors_origins
            response = await self._route(Scope(deployment, platform, request, line, meter))
        except Exception as error:  # noqa: BLE001 - the outermost frame: no exception may reach the platform
            response = self._failed(error, line)
        self._finish(request, response, request_id, meter, origins)
        if line.status is None:
            line.status, line.txid = response.status, response.headers.get("X-Kontract-Txid")
        platform.log(line.level, "request", **line.fields(meter, span, platform.clock.elapsed() - started))
        return response

    def _deploy(self, platform: RuntimeAdapter) -> Deployment:
        """Read the configuration with the first request: a Worker has no environment before that."""
        if self._deployment is None:
            try:
                config = configuration.read(platform.environment)
            except ConfigurationError as error:
                message = f"this deployment is not configured: {error}"
                raise UnavailableError(message) from error
            tokens, catalog = Tokens(config.keys), Catalog(platform.clock)
            self._deployment = Deployment(self._registry, config, tokens, catalog, broken=self._broken)
        return self._deployment

    async def _route(self, scope: Scope) -> Response:
        request = scope.request
        request.check_headers()
        if request.method == "OPTIONS":
            return Response(204, headers={"Allow": methods.allow(request.path)})
        if request.path.startswith(rpc.PREFIXES):
            name = scope.line.function = function_name(request.path)
            methods.check(request.method, request.path)
            session = authenticate(request, scope.deployment.tokens, scope.platform.clock.now())
            return await call_function(scope, session, name, request)
        methods.check(request.method, request.path)
        if request.path.startswith(auth.PREFIX):
            return await Auth(scope).handle()
        if request.path in (stream.PATH, stream.TICKET):
            return await stream.handle(scope)
        if request.path in raystream.PATHS:
            if self._raystream is None:
                self._raystream = Raystream(scope.platform.crypto, scope.deployment.config.keys)
            return await self._raystream.handle(scope, self._failed)
        if request.path == "/openapi.json":
            session = authenticate(request, scope.deployment.tokens, scope.platform.clock.now())
            await ensure_live(scope, session)
            if self._documents is None:
                from kontract.gateway.openapi import Documents  # used rarely: not imported at the start

                self._documents = Documents(self._registry)
            return self._documents.respond(session, request.headers.get("if-none-match"))
        if request.path in ("/health", "/ready"):
            lost = await self._ask_database(scope) if request.path == "/ready" else None
            status = {"status": "ok" if lost is None else "data_lost", "routes": len(self._registry)}
            # Still 200: this gateway serves, and replacing it would not help.
            return _json(status if lost is None else status | {"since": lost, "message": DATA_LOST})
        message = "not found; call functions with POST /call/<function> or POST /rpc/<function>"
        raise NotFoundError(message)

    def _failed(self, error: Exception, line: LogLine) -> Response:
        if self._deployment is not None and self._deployment.config.show_errors and to_http_error(error) is not error:
            line.exception = "".join(traceback.format_exception(error))
            if isinstance(to_http_error(error), InternalError):
                error = InternalError(_of_the_application(error))
        return _failed(error, line)

    async def _ask_database(self, scope: Scope) -> int | None:
        """Check the database; return when it was last found to have gone back in time (ms), None for never."""
        store = SqlStore(MeteredDatabase(scope.platform.open_database(), scope.meter, scope.platform.clock))
        try:
            await store.ready()
            return await store.newest_loss()
        finally:
            scope.platform.spawn(store.aclose())

    @staticmethod
    def _finish(request: Request, response: Response, request_id: str, meter: Meter, origins: frozenset[str]) -> None:
        headers = response.headers
        if headers.keys() <= _OF_THE_GATEWAY:
            headers |= {"X-Request-Id": request_id, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        else:  # a function may have named them, in whatever case
            header_fields.put(headers, "X-Request-Id", request_id)
            header_fields.put_default(headers, "Cache-Control", "no-store")
            header_fields.put(headers, "X-Content-Type-Options", "nosniff")
        if meter.attempts and headers.get("Content-Type") != OCTETS:  # sealed messages have it inside
            header_fields.add(headers, "Server-Timing", meter.server_timing())
        if origins:
            header_fields.add(headers, "Vary", "Origin")
        origin = request.headers.get("origin")
        if origin in origins:
            header_fields.put(headers, "Access-Control-Allow-Origin", origin)
            header_fields.add(headers, "Access-Control-Expose-Headers", EXPOSED_HEADERS)
            if request.method == "OPTIONS":
                headers["Access-Control-Allow-Methods"] = "GET, POST"
                headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
                headers["Access-Control-Max-Age"] = "86400"


def _failed(error: Exception, line: LogLine) -> Response:
    """Return the error as the caller sees it, and add the details to the log line."""
    known = to_http_error(error)
    try:
        header_fields.check(known.headers)
        response = error_response(known, line.request_id)
    except Exception as unfit:  # noqa: BLE001 - the application's: its details cannot be sent
        error, known = unfit, _internal()
        response = error_response(known, line.request_id)
    line.error, line.reason = known.error_code.name, shortened(known.message)
    if known.error_code.fault is Fault.SERVER:
        line.level = "error"
        line.exception = line.exception or "".join(traceback.format_exception(error))
    elif known.error_code.fault is Fault.CONTENTION:
        line.level = "warning"
    return response


def _of_the_application(error: Exception) -> str:
    """Return the message of an exception, after the last line of the application in its traceback."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    ours = [f"src/app/{path.rpartition('/app/')[2]}:{line}: " for path, line in places if "/app/" in path]
    place = ours[-1] if ours else ""
    return f"{place}{''.join(traceback.format_exception_only(error)).strip()}"


def to_http_error(error: Exception) -> HttpError:
    """Return the error as the caller sees it: HttpError as it is, everything else without details."""
    match error:
        case HttpError():
            return error
        case CoordinatorUnavailableError():
            return UnavailableError("the coordinator does not answer", headers={"Retry-After": "1"})
        case DatabaseUnavailableError():
            return UnavailableError("the database does not answer", headers={"Retry-After": "1"})
        case DatabaseError():
            # Commits report rejected values themselves; elsewhere our statement is wrong.
            refused = sqlstates.meaning(error.sqlstate).fix is sqlstates.Fix.CALLER
            return _internal() if refused else sqlstates.to_http_error(error.sqlstate)
        case TableMissingError():
            return UnavailableError("a table of this application cannot be used; run: kontract doctor")
        case _:
            return _internal()


def _internal() -> InternalError:
    return InternalError("unexpected error; the log has the details under this request id")


def _json(value: Any) -> Response:
    return Response(200, encode_json(value), {"Content-Type": JSON})
