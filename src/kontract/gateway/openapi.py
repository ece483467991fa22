"""``GET /openapi.json``: the functions that a caller may call, and the gateway's own paths, as OpenAPI 3.1.

It is generated from signatures, docstrings, permissions and error codes. Without a token it shows only public
functions, because a token is needed to learn which functions exist.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import msgspec

from kontract.core import limits
from kontract.core.errors import Code, HttpError
from kontract.core.model.perms import may_write, name_of
from kontract.gateway import own_operations, rpc
from kontract.gateway.context import Session
from kontract.gateway.http import JSON, Response, encode_json
from kontract.gateway.own_operations import failures
from kontract.gateway.routes import Endpoint, Registry
from kontract.gateway.schemas import describe, no_array
from kontract.gateway.sessions import authorize

TITLE = "Backend functions"
VERSION = "1"
"""The version of the calling convention, not of the application."""

_ALWAYS = (
    Code.INVALID_REQUEST,
    Code.UNAUTHORIZED,
    Code.NOT_FOUND,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.RATE_LIMITED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
)


class Documents:
    """The documents of a process. Callers with the same functions share one, which is built once."""

    def __init__(self, registry: Registry) -> None:
        """Describe the functions of ``registry``."""
        self._registry = registry
        self._made: dict[tuple[str, ...], tuple[bytes, str]] = {}

    def respond(self, session: Session | None, known: str | None) -> Response:
        """Return the document for a caller; 304 when ``known`` (If-None-Match) names it already."""
        which = tuple(endpoint.name for endpoint in _callable(self._registry, session))
        if which not in self._made:
            if len(self._made) >= _KEPT:
                self._made.clear()
            body = encode_json(document(self._registry, session))
            self._made[which] = (body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        return _answer(*self._made[which], known)


_KEPT = 16
"""Documents that a process caches: one for each set of functions that some caller may call."""


def _answer(body: bytes, tag: str, known: str | None) -> Response:
    # Permissions change, and callers differ: caches must revalidate every time.
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    if known is not None and tag in known:
        return Response(304, b"", headers)
    return Response(200, body, {"Content-Type": JSON, **headers})


def document(registry: Registry, session: Session | None, *, rows: bool = False) -> dict[str, Any]:
    """Return the document as plain JSON values; the same application and caller always give the same one.

    ``rows``: with ``x-kontract-rows``, the schema of a row of each table whose changes may be listened to.
    """
    endpoints = _callable(registry, session)
    arguments = [hint for endpoint in endpoints for _, hint, _ in endpoint.signature.fields]
    tables = {name: found.struct for name in sorted(registry.tables()) if rows and (found := registry.streamed(name))}
    results = [*(endpoint.result.hint for endpoint in endpoints), *tables.values()]
    shown, sent, components = describe(results, arguments)
    named: dict[str, Any] = {}
    positional: dict[str, Any] = {}
    taken = iter(sent)
    for endpoint, result in zip(endpoints, shown, strict=False):
        fields = _fields(endpoint, [next(taken) for _ in endpoint.signature.fields])
        required = endpoint.signature.required
        operation = _operation(endpoint, result)
        group = endpoint.meta.egroup or endpoint.function.__module__.rpartition(".")[2]
        by_name = {"operationId": endpoint.name, "tags": [group]}
        named[f"{rpc.NAMED}{endpoint.name}"] = {
            "post": by_name | operation | _sent(_object(fields, required), required)
        }
        array = _array(fields, required, components)
        positional[f"{rpc.PREFIX}{endpoint.name}"] = {
            "post": {"tags": [BY_POSITION]} | operation | _sent(array, required)
        }
    return ({"x-kontract-rows": dict(zip(tables, shown[len(endpoints) :], strict=True))} if rows else {}) | {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": _ABOUT},
        "paths": named | positional | own_operations.paths(),
        "components": {
            "schemas": {**dict(sorted(components.items())), own_operations.ERROR: own_operations.ERROR_SCHEMA},
            "securitySchemes": own_operations.SCHEMES,
        },
        "security": [{own_operations.BEARER: []}],
    }


BY_POSITION = "by position"
"""The tag of calls with an array of arguments: the same functions a second time."""

_ABOUT = (
    "Functions are called with POST: at /call with an object of arguments by name, or at /rpc with an array of "
    "arguments. Each call is one transaction. A call with an Idempotency-Key may be repeated: it is applied once. "
    "Text in a body must not contain NUL characters or unpaired surrogates."
)


def _callable(registry: Registry, session: Session | None) -> list[Endpoint]:
    loaded = [registry.endpoint(name) for name in sorted(registry.names())]
    return [endpoint for endpoint in loaded if endpoint is not None and _may_call(endpoint, session)]


def _may_call(endpoint: Endpoint, session: Session | None) -> bool:
    if endpoint.meta.public or session is None:
        return endpoint.meta.public
    try:
        authorize(session, endpoint.name, endpoint.meta)
    except HttpError:
        return False
    return True


# --- operations ------------------------------------------------------------------------------------------------------


def _operation(endpoint: Endpoint, result: dict[str, Any]) -> dict[str, Any]:
    """Return the common part of both ways to call a function."""
    meta = endpoint.meta
    summary, _, description = inspect.cleandoc(endpoint.function.__doc__ or "").partition("\n")
    writes = may_write(meta.perm)
    codes = [*_ALWAYS, *([Code.CONFLICT, Code.KEY_REUSED] if writes else [])]
    codes += [Code.PERMISSION_DENIED] if meta.ugroup is not None or not meta.public or writes else []
    operation: dict[str, Any] = {
        "summary": summary or endpoint.name,
        "parameters": [_idempotency(public=meta.public)] if writes else [],
        "responses": _success(endpoint, result, writes=writes) | failures(codes),
        "x-kontract-perm": name_of(meta.perm),
    }
    if description.strip():
        operation["description"] = description.strip()
    if meta.ugroup is not None:
        operation["x-kontract-ugroup"] = meta.ugroup
    if meta.public:
        operation["security"] = [{}, {own_operations.BEARER: []}]
    return operation


def _sent(schema: dict[str, Any], required: int) -> dict[str, Any]:
    return {"requestBody": {"required": required > 0, "content": {JSON: {"schema": schema}}}}


def _idempotency(*, public: bool) -> dict[str, Any]:
    words = "Calls with the same key are applied once, and get the same answer for 24 hours."
    if public:
        words += f" Random; with a token it may be shorter than {limits.PUBLIC_KEY_LEAST} characters."
    least = limits.PUBLIC_KEY_LEAST if public else 1
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": words,
        "schema": {"type": "string", "minLength": least, "maxLength": limits.KEY_LENGTH, "pattern": "^[!-~]*$"},
    }


def _fields(endpoint: Endpoint, schemas: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the arguments by their names, each with its default."""
    fields: dict[str, dict[str, Any]] = {}
    for (name, _, default), schema in zip(endpoint.signature.fields, schemas, strict=True):
        field = fields[name] = {"allOf": [schema]} if "$ref" in schema else dict(schema)
        if default is not inspect.Parameter.empty:
            try:
                field["default"] = msgspec.to_builtins(default)
            except (TypeError, ValueError):
                field["description"] = "Optional."
    return fields


def _object(fields: dict[str, dict[str, Any]], required: int) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(fields)[:required],
        "properties": fields,
        "additionalProperties": False,
    }


def _array(fields: dict[str, dict[str, Any]], required: int, components: dict[str, Any]) -> dict[str, Any]:
    # Without titles: generators would name classes after them, two alike where two functions name an argument alike.
    items = list(fields.values())
    array: dict[str, Any] = {"type": "array", "minItems": required, "maxItems": len(items)}
    array |= {"prefixItems": items} if items else {"items": dict[str, Any]()}
    words = f"In this order: {', '.join(fields)}." if items else "The function has no arguments."
    single = no_array(items[0], components) if items and required < 2 else None
    if single is None:
        return array | {"description": words}
    return {
        "anyOf": [array, single],
        "description": f"{words} The first alone may be sent without the array, unless it is an array.",
    }


def _success(endpoint: Endpoint, result: dict[str, Any], *, writes: bool) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "X-Request-Id": {"schema": {"type": "string"}},
        "Server-Timing": {"schema": {"type": "string"}, "description": "What the call cost: coord, db, handler."},
    }
    if writes:
        headers["X-Kontract-Txid"] = {"schema": {"type": "string"}, "description": "The txid of the commit."}
    schema = {"type": "object", "required": ["result"], "properties": {"result": result}}
    content = {JSON: {"schema": schema}}
    if endpoint.result.chooses_status:
        # The function chooses the status itself.
        return {
            "2XX": {"description": "The result.", "headers": headers, "content": content},
            "204": {"description": "Success without a body.", "headers": headers},
            "3XX": {"description": "The answer is at the URL in Location.", "headers": headers},
        }
    return {"200": {"description": "The result.", "headers": headers, "content": content}}
