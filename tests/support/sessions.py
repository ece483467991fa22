"""Tokens for tests, made as `kontract token` makes them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kontract.cli.toolchain.wrangler import DevServer
from kontract.core.model.perms import ALL
from kontract.core.security import keys
from kontract.gateway.context import Session
from kontract.gateway.tokens import Kind, Tokens
from kontract.server import env_file
from kontract.server.system import SystemRandomness

SECRET = "5ee1f7a9c04b2d86e3319a7c55d0f4b8127e6c9da38b40f1d6c2975e0b84a13f"
OWNER = "tenant-1"
USER = "developer"
ENVIRONMENT = {"KONTRACT_SECRET": SECRET, "KONTRACT_OWNER": OWNER, "KONTRACT_SIGN_UP": "anonymous register"}


def token(
    secret: str = SECRET,
    *,
    user: str = USER,
    owner: str = OWNER,
    ugroups: Iterable[str] = (),
    perm: int = ALL,
    anonymous: bool = False,
    sid: str | None = None,
    seconds: int = 3600,
) -> str:
    """An access token."""
    session = Session(sid or SystemRandomness().token(8).hex(), owner, user, anonymous, frozenset(ugroups), perm)
    now = time.time_ns() // 1_000_000
    return Tokens(keys.ring(bytes.fromhex(secret))).make(session, Kind.ACCESS, now, seconds, SystemRandomness())


def bearer(secret: str = SECRET, **who) -> dict[str, str]:
    """The header of a request; names of headers are in lower case, as the gateway has them."""
    return {"authorization": f"Bearer {token(secret, **who)}"}


def bearer_for(server: DevServer, **who) -> dict[str, str]:
    """The same for a Worker that runs with a secret of its own."""
    assert server.env_file is not None
    return bearer(env_file.parse(server.env_file.read_text())["KONTRACT_SECRET"], **who)
