"""Tokens for tests, made as `kontract token` makes them."""

from __future__ import annotations

from collections.abc import Iterable

from kontract.core.model.perms import ALL
from kontract.gateway.config import read_keys
from kontract.gateway.context import Session
from kontract.gateway.tokens import Kind, Tokens
from kontract.server.system import SystemRandomness

VALID_SECONDS = 3600


def token(
    secret: str,
    now: int,
    user: str,
    *,
    owner: str,
    groups: Iterable[str] = (),
    perm: int = ALL,
    anonymous: bool = False,
) -> str:
    """Return an access token of a new session, valid for an hour from ``now`` (milliseconds)."""
    random = SystemRandomness()
    session = Session(random.token(8).hex(), owner, user, anonymous, frozenset(groups), perm)
    return Tokens(read_keys({"KONTRACT_SECRET": secret})).make(session, Kind.ACCESS, now, VALID_SECONDS, random)
