"""What the gateway is told by its environment: variables and secrets, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from kontract.core import keys
from kontract.core.keys import KeyRing

SECRET = re.compile(r"[0-9a-fA-F]{64}")

OWNER = re.compile(r"[A-Za-z0-9.-][A-Za-z0-9_.-]{0,63}")
"""Names of tenants. Those that begin with an underscore are the gateway's own."""

WAYS_IN = frozenset({"anonymous", "register"})


class ConfigurationError(Exception):
    """The environment is incomplete or wrong; the message says what to do and holds no secret."""


class Config(Struct, frozen=True):
    """Checked settings.

    ``owner``: the tenant that callers join who sign up here, or who call public functions without a token; empty for
    none. ``sign_up``: how they may: "anonymous", "register". ``show_errors``: callers are told what an exception of the
    application says, and where it was raised: for development alone.
    """

    owner: str
    sign_up: frozenset[str]
    cors_origins: frozenset[str]
    keys: KeyRing
    show_errors: bool = False


def read_keys(environment: Mapping[str, str]) -> KeyRing:
    """Return the keys of KONTRACT_SECRET and, if it is set, KONTRACT_SECRET_PREVIOUS; raises ConfigurationError."""
    secret = environment.get("KONTRACT_SECRET", "")
    if not secret:
        message = "KONTRACT_SECRET is not set; run: wrangler secret put KONTRACT_SECRET (kontract keygen makes one)"
        raise ConfigurationError(message)
    previous = environment.get("KONTRACT_SECRET_PREVIOUS", "")
    for name, value in [("KONTRACT_SECRET", secret), ("KONTRACT_SECRET_PREVIOUS", previous or secret)]:
        if not SECRET.fullmatch(value):
            message = f"{name} must be 64 hexadecimal digits (32 bytes); kontract keygen makes one"
            raise ConfigurationError(message)
    return keys.ring(bytes.fromhex(secret), bytes.fromhex(previous) if previous else None)


def read(environment: Mapping[str, str]) -> Config:
    """Check everything; raises ConfigurationError."""
    ring = read_keys(environment)
    owner = environment.get("KONTRACT_OWNER", "")
    if owner and not OWNER.fullmatch(owner):
        message = (
            "KONTRACT_OWNER must name the tenant that callers join who sign up here, for example tenant-1: up to 64 "
            "letters, digits, dots, dashes and underscores, not beginning with an underscore"
        )
        raise ConfigurationError(message)
    sign_up = frozenset(environment.get("KONTRACT_SIGN_UP", "").replace(",", " ").split())
    if sign_up - WAYS_IN:
        message = f"KONTRACT_SIGN_UP takes {' and '.join(sorted(WAYS_IN))}, one of them or nothing"
        raise ConfigurationError(message)
    origins = frozenset(environment.get("KONTRACT_CORS_ORIGINS", "").replace(",", " ").split())
    for origin in origins:
        if not re.fullmatch(r"https?://[^/*\s]+", origin):
            message = (
                f"KONTRACT_CORS_ORIGINS holds {origin!r}; it takes exact origins separated by commas, for example "
                "https://app.example.com, without a path and without *"
            )
            raise ConfigurationError(message)
    return Config(owner, sign_up, origins, ring, environment.get("KONTRACT_SHOW_ERRORS") == "1")
