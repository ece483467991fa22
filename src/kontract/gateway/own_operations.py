"""What the OpenAPI document says of ``/auth``, ``/stream`` and the other paths that are not the application's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kontract.core import limits
from kontract.core.errors import Code
from kontract.gateway import auth, raystream, stream
from kontract.gateway.http import JSON, OCTETS
from kontract.gateway.schemas import REFERENCE

ERROR = "kontract.Error"
"""The schema of what the gateway answers when a call fails. A struct of the application may be called Error; its schema
has a dot in its name only between its module and itself."""

BEARER = "token"
"""The security scheme of ``Authorization: Bearer <token>``."""

SCHEMES = {
    BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "The answer of POST /stream/ticket."},
}

ERROR_SCHEMA = {
    "type": "object",
    "title": "KontractError",
    "description": "Why the call failed.",
    "required": ["error", "message", "request_id"],
    "properties": {
        "error": {"type": "string", "enum": [code.name for code in Code]},
        "message": {"type": "string"},
        "request_id": {"type": "string", "description": "The id under which the server's log has details."},
        "details": {"type": "object"},
    },
}

_PUBLIC: list[dict[str, Any]] = [{}]
_FOR_ALL: list[dict[str, Any]] = [{}, {BEARER: []}]
_EVER = (Code.INTERNAL, Code.UNAVAILABLE)
_GUARDED = (Code.UNAUTHORIZED, Code.DEADLINE_EXCEEDED, *_EVER)
_BODY = (Code.INVALID_REQUEST, Code.PAYLOAD_TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE)
_ENTRY = (Code.FORBIDDEN, Code.RATE_LIMITED, Code.DEADLINE_EXCEEDED, *_EVER)


def paths() -> dict[str, Any]:
    """Return the path items."""
    tokens = _object(
        token=_TEXT,
        expires_in={"type": "integer", "description": "Seconds."},
        refresh_token=_TEXT,
        owner=_TEXT,
        user=_TEXT,
    )
    account = _body(
        name={"type": "string", "maxLength": limits.NAME_LENGTH, "pattern": auth.NAME_SENT},
        password={
            "type": "string",
            "format": "password",
            "minLength": limits.PASSWORD_LEAST,
            "maxLength": limits.PASSWORD_BYTES,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
            "description": (
                "Only visible characters count; consecutive spaces count as one. It must differ from the name."
            ),
        },
    )
    login = _body(name=_TEXT, password={"type": "string", "format": "password"})
    refresh = _body(refresh_token=_TEXT)
    taken = (Code.ALREADY_EXISTS, *_ENTRY)
    me = _object(
        owner=_TEXT,
        user=_TEXT,
        anonymous={"type": "boolean"},
        ugroups={"type": "array", "items": _TEXT},
        perm={"type": "integer"},
        sid=_TEXT,
        expires_at={"type": "integer", "description": "Seconds since the Unix epoch."},
    )
    ticket = _object(ticket=_TEXT, expires_in={"type": "integer", "description": "Seconds."})
    return {
        "/auth/anonymous": _post("Sign up without an account", (201, tokens), _ENTRY, security=_PUBLIC),
        "/auth/register": _post("Sign up with an account", (201, tokens), taken, account, _PUBLIC),
        "/auth/login": _post("Get a token for an account", (200, tokens), (Code.UNAUTHORIZED, *_ENTRY), login, _PUBLIC),
        "/auth/link": _post(
            "Turn an anonymous user into an account", (200, tokens), (Code.UNAUTHORIZED, *taken), account
        ),
        "/auth/refresh": _post("Get new tokens", (200, tokens), _GUARDED, refresh, _PUBLIC),
        "/auth/logout": _post("End the session", (204, None), _GUARDED),
        "/auth/me": _get("Who the token belongs to", me, _GUARDED),
        stream.PATH: _stream(),
        stream.TICKET: _post("Get a ticket for EventSource, which cannot send a token", (201, ticket), _GUARDED),
        raystream.WELL_KNOWN: _get("Keys and paths of raystream", _object(raystream=_ANY), _EVER, _PUBLIC),
        raystream.HANDSHAKE: _sealed("Begin a raystream session, for encrypted calls", limits.RAYSTREAM_HELLO_BYTES),
        raystream.RPC: _sealed("Call a function through raystream", limits.RAYSTREAM_REQUEST_BYTES),
        "/openapi.json": _get("This document", _ANY, _GUARDED, _FOR_ALL),
        "/health": _get("Whether the gateway answers", _STATUS, _EVER, _PUBLIC),
        "/ready": _get("Whether its database answers, too", _STATUS, (Code.DEADLINE_EXCEEDED, *_EVER), _PUBLIC),
    }


def failures(codes: Iterable[Code]) -> dict[str, Any]:
    """Return the responses for errors by status, each with all codes of that status."""
    named: dict[int, list[str]] = {}
    for code in codes:
        named.setdefault(code.status, []).append(code.name)
    for code in Code:
        if code.status in named and code.name not in named[code.status]:
            named[code.status].append(code.name)
    reference = {JSON: {"schema": {"$ref": f"{REFERENCE}{ERROR}"}}}
    return {
        str(status): {"description": ", ".join(names), "content": reference} for status, names in sorted(named.items())
    }


def _operation(summary: str, success: dict[str, Any], codes: Iterable[Code], security: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {"tags": ["gateway"], "summary": summary, "responses": success | failures(codes)}
    if security is not None:
        operation["security"] = security
    return operation


def _answer(status: int, schema: dict[str, Any] | None) -> dict[str, Any]:
    content = {} if schema is None else {"content": {JSON: {"schema": schema}}}
    return {str(status): {"description": "Done.", **content}}


def _get(summary: str, schema: dict[str, Any], codes: Iterable[Code], security: Any = None) -> dict[str, Any]:
    return {"get": _operation(summary, _answer(200, schema), codes, security)}


def _post(
    summary: str,
    success: tuple[int, dict[str, Any] | None],
    codes: Iterable[Code],
    body: dict[str, Any] | None = None,
    security: Any = None,
) -> dict[str, Any]:
    codes = (*codes, *_BODY) if body else codes
    operation = _operation(summary, _answer(*success), codes, security)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    return {"post": operation}


def _sealed(summary: str, most: int) -> dict[str, Any]:
    """Return a path whose messages are sealed by raystream; the token, if any, is inside."""
    success = {"200": {"description": "Sealed, too.", "content": {OCTETS: {"schema": _BYTES}}}}
    operation = _operation(summary, success, (Code.UNAUTHORIZED, *_BODY, *_EVER), _PUBLIC)
    operation["requestBody"] = {"required": True, "content": {OCTETS: {"schema": _BYTES | {"maxLength": most}}}}
    return {"post": operation}


def _stream() -> dict[str, Any]:
    success = {
        "200": {
            "description": "The changes, as server-sent events.",
            "content": {"text/event-stream": {"schema": _TEXT}},
        },
        "101": {"description": "The changes through a WebSocket, for a request with Upgrade: websocket."},
    }
    codes = (Code.INVALID_REQUEST, Code.RATE_LIMITED, *_GUARDED)
    operation = _operation("Changes of tables", success, codes, [{BEARER: []}, {"ticket": []}])
    names = {"type": "array", "items": {"type": "string", "minLength": 1}}
    operation["parameters"] = [
        _parameter("table", "query", names | {"minItems": 1, "maxItems": limits.STREAM_TABLES}, required=True),
        _parameter("id", "query", names, words="Only changes of these rows."),
        _parameter("since", "query", _TEXT, words="Where to resume: the id of the last event."),
        _parameter("Last-Event-ID", "header", _TEXT, words="Where to resume, as EventSource sends it."),
    ]
    return {"get": operation}


def _parameter(
    name: str, place: str, schema: dict[str, Any], *, required: bool = False, words: str = ""
) -> dict[str, Any]:
    described = {"description": words} if words else {}
    return {"name": name, "in": place, "required": required, "schema": schema, **described}


def _body(**properties: dict[str, Any]) -> dict[str, Any]:
    return _object(**properties) | {"additionalProperties": False}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_TEXT = {"type": "string"}
_ANY = {"type": "object"}
_BYTES = {"type": "string", "format": "binary"}
_STATUS = _object(status=_TEXT, routes={"type": "integer"})
