"""The methods that each path of the gateway accepts."""

from __future__ import annotations

from kontract.core.errors import Code, HttpError
from kontract.gateway import auth, raystream, rpc, stream

_READ = ("GET", "HEAD")
_CALL = ("POST",)

_METHODS: dict[str, tuple[str, ...]] = {
    **{f"{auth.PREFIX}{name}": _CALL for name in ("anonymous", "register", "login", "link", "refresh", "logout")},
    f"{auth.PREFIX}me": ("GET",),
    stream.PATH: ("GET",),
    stream.TICKET: _CALL,
    raystream.WELL_KNOWN: _READ,
    raystream.HANDSHAKE: _CALL,
    raystream.RPC: _CALL,
    "/openapi.json": _READ,
    "/health": _READ,
    "/ready": _READ,
}


def check(method: str, path: str) -> None:
    """Raise HttpError (405) for a method that a path of the gateway does not accept; other paths pass."""
    takes = _taken(path)
    if takes and method not in takes:
        raise HttpError(f"use {takes[0]} here", code=Code.METHOD_NOT_ALLOWED, headers={"Allow": allow(path)})


def allow(path: str) -> str:
    """Return the value of ``Allow`` (RFC 9110, section 10.2.1)."""
    return ", ".join((*_taken(path), "OPTIONS"))


def _taken(path: str) -> tuple[str, ...]:
    return _CALL if path.startswith(rpc.PREFIXES) else _METHODS.get(path, ())
