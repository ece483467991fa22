"""The gateway's settings from the environment: variables and secrets, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from kontract.core.security import keys
from kontract.core.security.keys import KeyRing

SECRET = re.compile(r"[0-9a-fA-F]{64}")

OWNER = re.compile(r"[A-Za-z0-9.-][A-Za-z0-9_.-]{0,63}")
"""Names of tenants. Names that begin with an underscore belong to the gateway."""

WAYS_IN = frozenset({"anonymous", "register"})


SECRETS = ("KONTRACT_SECRET", "KONTRACT_SECRET_PREVIOUS", "DATABASE_URL")

OWN = re.compile(r"KONTRACT_|DATABASE_URL$|TIKV_|PG[A-Z]|CLOUDFLARE_|WRANGLER_|MINIFLARE_")
"""Names of variables that belong to the gateway, its database or its tools."""


class ConfigurationError(Exception):
    """The environment is incomplete or wrong; the message says what to do and holds no secret."""


class Config(Struct, frozen=True):
    """Checked settings.

    ``owner``: the tenant of callers who sign up here, or who call public functions without a token; empty for none.
    ``sign_up``: the enabled ways, "anonymous" and "register". ``show_errors``: callers see the message of an
    application's exception and where it was raised; only for development. ``application``: the content of ``ctx.env``.
    """

    owner: str
    sign_up: frozenset[str]
    cors_origins: frozenset[str]
    keys: KeyRing
    show_errors: bool = False
    application: Mapping[str, str] = {}


def read_keys(environment: Mapping[str, str]) -> KeyRing:
    """Return the keys of KONTRACT_SECRET and, if it is set, KONTRACT_SECRET_PREVIOUS; raises ConfigurationError."""
    secret = environment.get("KONTRACT_SECRET", "")
    if not secret:
        message = "KONTRACT_SECRET is not set; run: wrangler secret put KONTRACT_SECRET (kontract keygen prints one)"
        raise ConfigurationError(message)
    previous = environment.get("KONTRACT_SECRET_PREVIOUS", "")
    for name, value in [("KONTRACT_SECRET", secret), ("KONTRACT_SECRET_PREVIOUS", previous or secret)]:
        if not SECRET.fullmatch(value):
            message = f"{name} must be 64 hexadecimal digits (32 bytes); kontract keygen prints one"
            raise ConfigurationError(message)
        if keys.is_guessable(bytes.fromhex(value)):
            message = f"{name} is a guessable pattern, not a secret; kontract keygen prints one"
            raise ConfigurationError(message)
    if previous.lower() == secret.lower():
        message = (
            "KONTRACT_SECRET_PREVIOUS is the same as KONTRACT_SECRET: set KONTRACT_SECRET to the output of kontract "
            "keygen, or remove KONTRACT_SECRET_PREVIOUS"
        )
        raise ConfigurationError(message)
    return keys.ring(bytes.fromhex(secret), bytes.fromhex(previous) if previous else None)


def read(environment: Mapping[str, str]) -> Config:
    """Read and check all settings; raises ConfigurationError."""
    ring = read_keys(environment)
    owner = environment.get("KONTRACT_OWNER", "")
    if owner and not OWNER.fullmatch(owner):
        message = (
            "KONTRACT_OWNER must name the tenant of callers who sign up here, for example tenant-1: up to 64 "
            "letters, digits, dots, dashes and underscores, not beginning with an underscore"
        )
        raise ConfigurationError(message)
    sign_up = frozenset(environment.get("KONTRACT_SIGN_UP", "").replace(",", " ").split())
    if sign_up - WAYS_IN:
        message = f"KONTRACT_SIGN_UP takes {' and '.join(sorted(WAYS_IN))}, one of them, or nothing"
        raise ConfigurationError(message)
    origins = frozenset(environment.get("KONTRACT_CORS_ORIGINS", "").replace(",", " ").split())
    for origin in origins:
        if not re.fullmatch(r"https?://[^/*\s]+", origin):
            message = (
                f"KONTRACT_CORS_ORIGINS has {origin!r}; it takes exact origins separated by commas, for example "
                "https://app.example.com, without a path and without *"
            )
            raise ConfigurationError(message)
    show_errors = environment.get("KONTRACT_SHOW_ERRORS", "").strip()
    if show_errors not in ("", "0", "1"):
        message = f"KONTRACT_SHOW_ERRORS cannot be {show_errors!r:.40}; use 1 (only for development) or 0"
        raise ConfigurationError(message)
    return Config(owner, sign_up, origins, ring, show_errors == "1", application(environment))


def application(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that functions may see: none of the gateway's, and no copy of its secrets.

    Copies under other names are removed, too: platforms pass one database URL under several names.
    """
    secrets = {environment.get(name, "") for name in SECRETS} - {""}
    seen = {
        name: value
        for name, value in environment.items()
        if not OWN.match(name) and not any(secret in value for secret in secrets)
    }
    return MappingProxyType(seen)
