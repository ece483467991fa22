"""``GET /openapi.json``: the functions that a caller may call, and the gateway's own paths, as OpenAPI 3.1.

It is made of what calls are checked by: signatures, docstrings, permissions, error codes. Without a token it tells of
public functions alone, because without one nobody learns which functions there are.
"""

from __future__ import annotations

import hashlib
import inspect
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from kontract.core import limits
from kontract.core.errors import Code, HttpError
from kontract.core.fields import without
from kontract.core.perms import READ, WRITE, may_write, name_of
from kontract.gateway import raystream
from kontract.gateway.context import Session
from kontract.gateway.http import JSON, OCTETS, Response, encode_json
from kontract.gateway.routes import Endpoint, Registry
from kontract.gateway.sessions import authorize

PATH = "/openapi.json"

TITLE = "Backend functions"
VERSION = "1"
"""Of the way in which functions are called. What an application calls its own releases is not known here."""

_REFERENCE = "#/components/schemas/"
ERROR = "kontract.Error"
"""The schema of what the gateway answers when a call fails. A struct of the application may be called Error; its schema
has a dot in its name only between its module and itself."""

_SENT = "Input"
"""After the name of a schema as callers send it, where that differs from the one that they are shown."""

_ALWAYS = (
    Code.INVALID_REQUEST,
    Code.NOT_FOUND,
    Code.PAYLOAD_TOO_LARGE,
    Code.RATE_LIMITED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
)


class Documents:
    """The documents of a process. Callers who may call the same get the same one, made once."""

    def __init__(self, registry: Registry) -> None:
        """Tell of the functions of ``registry``."""
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
"""Documents that a process remembers: one for each set of functions that somebody may call."""


def _answer(body: bytes, tag: str, known: str | None) -> Response:
    # What a token may do changes, and another caller sees something else: kept, but asked about every time.
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
    shown, sent, components = _schemas(results, arguments)
    paths: dict[str, Any] = {}
    taken = iter(sent)
    for endpoint, result in zip(endpoints, shown, strict=False):
        schemas = [next(taken) for _ in endpoint.signature.fields]
        paths[f"/rpc/{endpoint.name}"] = {"post": _operation(endpoint, schemas, result)}
    return ({"x-kontract-rows": dict(zip(tables, shown[len(endpoints) :], strict=True))} if rows else {}) | {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": _ABOUT},
        "paths": paths | _own_paths(),
        "components": {
            "schemas": {**dict(sorted(components.items())), ERROR: _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "security": [{"token": []}],
    }


_ABOUT = (
    "Each function is called with POST and the array of its arguments, and is one transaction. A call with an "
    "Idempotency-Key may be repeated: it is applied once."
)

_ERROR = {
    "type": "object",
    "title": "What a call fails with",
    "required": ["error", "message", "request_id"],
    "properties": {
        "error": {"type": "string", "enum": [code.name for code in Code]},
        "message": {"type": "string"},
        "request_id": {"type": "string", "description": "Under which the server's log has the story."},
        "details": {"type": "object"},
    },
}


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


def _operation(endpoint: Endpoint, schemas: list[dict[str, Any]], result: dict[str, Any]) -> dict[str, Any]:
    meta, fields = endpoint.meta, endpoint.signature.fields
    summary, _, description = inspect.cleandoc(endpoint.function.__doc__ or "").partition("\n")
    writes = may_write(meta.perm)
    codes = [*_ALWAYS, *([Code.CONFLICT] if writes else [])]
    codes += [] if meta.public else [Code.UNAUTHORIZED]
    codes += [Code.PERMISSION_DENIED] if meta.ugroup is not None or not meta.public or writes else []
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [meta.egroup or endpoint.function.__module__.rpartition(".")[2]],
        "summary": summary or endpoint.name,
        "parameters": [_idempotency(public=meta.public)] if writes else [],
        "requestBody": {
            "required": endpoint.signature.required > 0,
            "content": {JSON: {"schema": _body(fields, schemas, endpoint.signature.required)}},
        },
        "responses": _success(endpoint, result, writes=writes) | _failures(codes),
        "x-kontract-perm": name_of(meta.perm),
    }
    if description.strip():
        operation["description"] = description.strip()
    if meta.ugroup is not None:
        operation["x-kontract-ugroup"] = meta.ugroup
    if meta.public:
        operation["security"] = [{}, {"token": []}]
    return operation


def _idempotency(*, public: bool) -> dict[str, Any]:
    words = "Calls with the same key are applied once, and answered alike for 24 hours."
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


def _body(fields: Iterable[tuple[str, Any, Any]], schemas: list[dict[str, Any]], required: int) -> dict[str, Any]:
    items = []
    for (name, _, default), schema in zip(fields, schemas, strict=True):
        item = {"title": name, **({"allOf": [schema]} if "$ref" in schema else schema)}
        if default is not inspect.Parameter.empty:
            try:
                item["default"] = msgspec.to_builtins(default)
            except (TypeError, ValueError):
                item["description"] = "Optional."
        items.append(item)
    body: dict[str, Any] = {"type": "array", "minItems": required, "maxItems": len(items)}
    if items:
        body |= {"prefixItems": items, "items": False}
        body["description"] = "The arguments in their order. One that is no array may stand by itself."
    return body


def _success(endpoint: Endpoint, result: dict[str, Any], *, writes: bool) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "X-Request-Id": {"schema": {"type": "string"}},
        "Server-Timing": {"schema": {"type": "string"}, "description": "What the call cost: coord, db, handler."},
    }
    if writes:
        headers["X-Kontract-Txid"] = {"schema": {"type": "string"}, "description": "The number of the commit."}
    schema = {"type": "object", "required": ["result"], "properties": {"result": result}}
    content = {JSON: {"schema": schema}}
    if endpoint.result.chooses_status:
        # The function chooses the status itself.
        return {
            "2XX": {"description": "What it answers; 204 without a body.", "headers": headers, "content": content},
            "3XX": {"description": "The answer is elsewhere.", "headers": headers},
        }
    return {"200": {"description": "The result.", "headers": headers, "content": content}}


def _failures(codes: Iterable[Code]) -> dict[str, Any]:
    named: dict[int, list[str]] = {}
    for code in codes:
        named.setdefault(code.status, []).append(code.name)
    for code in Code:
        if code.status in named and code.name not in named[code.status]:
            named[code.status].append(code.name)
    reference = {JSON: {"schema": {"$ref": f"{_REFERENCE}{ERROR}"}}}
    return {
        str(status): {"description": ", ".join(names), "content": reference} for status, names in sorted(named.items())
    }


# --- types -----------------------------------------------------------------------------------------------------------


def _schemas(shown: list[Any], sent: list[Any]) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return the schemas of results, those of arguments, and the components that both refer to.

    A component as callers send it lacks the fields that they may not write; as they are shown it, those that they may
    not read. Where the two differ, the first one is called ``...Input``, and so is everything that refers to it.
    """
    hints = [hint if _is_described(hint) else Any for hint in (*shown, *sent)]
    # All in one: structs of the same name, from different modules, must not be taken for one another.
    schemas, components = msgspec.json.schema_components(hints, ref_template=_REFERENCE + "{name}")
    names = _names(hints)
    readable, writable = (_without(components, names, bit) for bit in (READ, WRITE))
    differing = {name for name in components if readable[name] != writable[name]}
    while more := {n for n in components if n not in differing and _refers(components[n], differing)}:
        differing |= more
    asked = _reached(schemas[len(shown) :], writable)
    inputs = {f"{name}{_SENT}": _renamed(writable[name], differing) for name in differing & asked}
    results = _reached(schemas[: len(shown)], readable) | (asked - differing)
    return (
        list(schemas[: len(shown)]),
        [_renamed(schema, differing) for schema in schemas[len(shown) :]],
        {name: readable[name] for name in results} | inputs,
    )


def _names(hints: list[Any]) -> dict[str, type]:
    """Return the classes by the names of their components: of two that are called alike, msgspec says the module."""
    kinds = list(_structs(hints))
    references = msgspec.json.schema_components([*hints, *kinds], ref_template="{name}")[0][len(hints) :]
    return {
        reference["$ref"]: typing.get_origin(kind) or kind
        for kind, reference in zip(kinds, references, strict=True)
        if "$ref" in reference
    }


def _without(components: dict[str, Any], names: dict[str, type], bit: int) -> dict[str, Any]:
    """Return the components without the fields whose permission lacks ``bit``."""
    made = dict(components)
    for name, struct in names.items():
        hidden = without(struct, bit)
        component = made[name]
        if "properties" not in component:
            if bit == READ and hidden:
                made[name] = component | {"prefixItems": _nulled(component["prefixItems"], struct, hidden)}
            continue
        properties = {field: kind for field, kind in component["properties"].items() if field not in hidden}
        required = [field for field in component.get("required", []) if field not in hidden]
        if bit == READ and issubclass(struct, msgspec.Struct) and not struct.__struct_config__.omit_defaults:
            # What is shown is whole, whatever may be left out when it is sent.
            maybe = {field.encode_name for field in msgspec.structs.fields(struct) if field.default is msgspec.UNSET}
            required = [field for field in properties if field not in maybe]
        made[name] = component | {"properties": properties, "required": required}
    return made


def _nulled(items: list[Any], struct: type, hidden: frozenset[str]) -> list[Any]:
    """Return the items of a struct that is an array; what is hidden in it is null."""
    names = [field.encode_name for field in msgspec.structs.fields(struct)]
    names = [""] * (len(items) - len(names)) + names  # a tag comes first
    return [{"type": "null"} if name in hidden else item for name, item in zip(names, items, strict=True)]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item.removeprefix(_REFERENCE)
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _refers(value: Any, names: set[str]) -> bool:
    return any(name in names for name in _references(value))


def _reached(schemas: Iterable[Any], components: dict[str, Any]) -> set[str]:
    """Return the names of all components that the schemas refer to, also by others."""
    found: set[str] = set()
    waiting = [name for schema in schemas for name in _references(schema)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(components[name])
    return found


def _renamed(value: Any, names: set[str]) -> Any:
    """Return the value with references to ``names`` as callers send them."""
    if isinstance(value, dict):
        return {
            key: f"{item}{_SENT}" if key == "$ref" and item.removeprefix(_REFERENCE) in names else _renamed(item, names)
            for key, item in value.items()
        }
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value


def _is_described(hint: Any) -> bool:
    """Whether msgspec can tell the schema of a type: results may be of types that it can only write."""
    try:
        msgspec.json.schema(hint)
    except (TypeError, NotImplementedError):
        return False
    return True


def _structs(hints: Iterable[Any]) -> Iterator[Any]:
    """Every struct and dataclass within the types, once; of a generic one, as it is used."""
    seen: set[int] = set()
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(hints))
    while waiting:
        kind = waiting.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, (msgspec.inspect.StructType, msgspec.inspect.DataclassType)):
            yield kind.cls
        for name in getattr(kind, "__struct_fields__", ()):
            part = getattr(kind, name)
            parts = part if isinstance(part, tuple) else (part,)
            waiting += [getattr(one, "type", one) for one in parts if isinstance(one, msgspec.Struct)]


# --- the gateway's own paths -----------------------------------------------------------------------------------------


def _own_paths() -> dict[str, Any]:
    credentials = _object(name={"type": "string"}, password={"type": "string", "format": "password"})
    tokens = _object(
        token={"type": "string"},
        expires_in={"type": "integer", "description": "Seconds."},
        refresh_token={"type": "string"},
        owner={"type": "string"},
        user={"type": "string"},
    )
    refused = (Code.INVALID_REQUEST, Code.UNAUTHORIZED, Code.RATE_LIMITED, Code.UNAVAILABLE)
    return {
        "/auth/anonymous": _own("post", "Sign up without an account", 201, tokens, refused, public=True),
        "/auth/register": _own("post", "Sign up with an account", 201, tokens, refused, credentials, public=True),
        "/auth/login": _own("post", "Get a token for an account", 200, tokens, refused, credentials, public=True),
        "/auth/link": _own("post", "Give an anonymous user an account", 200, tokens, refused, credentials),
        "/auth/refresh": _own(
            "post", "Get the next token", 200, tokens, refused, _object(refresh_token={"type": "string"}), public=True
        ),
        "/auth/logout": _own("post", "End the session", 204, None, refused),
        "/auth/me": _own("get", "Who the token stands for", 200, {"type": "object"}, refused),
        "/stream": _own("get", "Changes of tables, as server-sent events or through a WebSocket", 200, None, refused),
        "/stream/ticket": _own(
            "post", "A ticket for EventSource, which cannot send a token", 200, {"type": "object"}, refused
        ),
        raystream.WELL_KNOWN: _own("get", "Raystream's keys and paths", 200, {"type": "object"}, (), public=True),
        raystream.HANDSHAKE: _sealed("Begin with raystream, the encrypted way to call", limits.RAYSTREAM_HELLO_BYTES),
        raystream.RPC: _sealed("Call a function through raystream", limits.RAYSTREAM_REQUEST_BYTES),
        PATH: _own("get", "This document", 200, {"type": "object"}, (Code.UNAUTHORIZED,)),
        "/health": _own("get", "Whether the gateway answers", 200, {"type": "object"}, (), public=True),
        "/ready": _own("get", "Whether its database does, too", 200, {"type": "object"}, refused[3:], public=True),
    }


def _own(
    method: str,
    summary: str,
    status: int,
    answer: dict[str, Any] | None,
    codes: Iterable[Code],
    body: dict[str, Any] | None = None,
    *,
    public: bool = False,
) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done."}
    if answer is not None:
        success["content"] = {JSON: {"schema": answer}}
    operation: dict[str, Any] = {
        "tags": ["gateway"],
        "summary": summary,
        "responses": {str(status): success} | _failures(codes),
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    if public:
        operation["security"] = [{}]
    return {method: operation}


def _sealed(summary: str, most: int) -> dict[str, Any]:
    """A path whose messages are bytes that raystream has sealed; the token, if there is one, is inside."""
    message = {OCTETS: {"schema": _BYTES | {"maxLength": most}}}
    codes = (Code.UNAUTHORIZED, Code.PAYLOAD_TOO_LARGE, Code.UNAVAILABLE)
    made = _own("post", summary, 200, None, codes, public=True)
    made["post"]["requestBody"] = {"required": True, "content": message}
    made["post"]["responses"]["200"] = {"description": "Sealed, too.", "content": {OCTETS: {"schema": _BYTES}}}
    return made


_BYTES = {"type": "string", "format": "binary"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}
