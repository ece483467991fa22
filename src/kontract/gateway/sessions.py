"""Who is calling? Until tokens exist, development answers as one fixed tenant, and nothing else answers at all."""

from __future__ import annotations

from kontract.core.errors import UnauthorizedError
from kontract.gateway.config import Config
from kontract.gateway.context import Session
from kontract.gateway.http import Request

DEVELOPER = "developer"


def authenticate(request: Request, config: Config) -> Session:
    """Return the caller's session; raises UnauthorizedError.

    The owner never comes from a header or an argument: a caller could name anybody's.
    """
    del request
    if config.development:
        return Session(sid="development", owner=config.owner, user=DEVELOPER, is_anonymous=True)
    message = "this deployment takes calls with a token only"
    raise UnauthorizedError(message, headers={"WWW-Authenticate": "Bearer"})
