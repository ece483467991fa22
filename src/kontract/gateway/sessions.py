"""Authentication and authorization. Owner and user come only from a verified token."""

from __future__ import annotations

from kontract.core.errors import ForbiddenError, PermissionDeniedError, UnauthorizedError
from kontract.core.messages import CheckSession, SessionAlive
from kontract.core.model.declare import BackendMeta
from kontract.core.model.perms import name_of
from kontract.core.protocol.refusal import refusal
from kontract.gateway.config import Config
from kontract.gateway.context import Session
from kontract.gateway.http import Request
from kontract.gateway.scope import Scope
from kontract.gateway.tokens import Tokens

PUBLIC_USER = "public"


def authenticate(request: Request, tokens: Tokens, now: int) -> Session | None:
    """Return the session of the request's bearer token, None without a token; raises UnauthorizedError."""
    header = request.headers.get("authorization")
    return None if header is None else tokens.session(header, now)


async def ensure_live(scope: Scope, session: Session | None) -> None:
    """Raise UnauthorizedError when the session has ended; the knowledge is at most SESSION_TRUST_MS old.

    Raises UnavailableError when this cannot be determined. A caller without a token has no session that could end.
    """
    if session is None or is_live(scope, session):
        return
    answer = await scope.coordinator(session.owner).ask(CheckSession(session.sid))
    if not isinstance(answer, SessionAlive):
        raise refusal(answer)


def is_live(scope: Scope, session: Session) -> bool:
    """Whether this process knows that the session is live, without asking."""
    known = scope.deployment.sessions
    return not session.sid or known.is_live(session.owner, session.sid, scope.platform.clock.elapsed())


def required(session: Session | None) -> Session:
    """Return the session; raises UnauthorizedError when there is none."""
    if session is None:
        message = "a token is required: send the header Authorization: Bearer <token>; POST /auth/anonymous returns one"
        raise UnauthorizedError(message, headers={"WWW-Authenticate": "Bearer"})
    return session


def public_session(config: Config) -> Session | None:
    """Return the session of callers without a token in public functions; None without an owner."""
    if not config.owner:
        return None
    return Session("", config.owner, PUBLIC_USER, is_anonymous=True)


def authorize(session: Session, name: str, meta: BackendMeta) -> None:
    """Check that a session may call a function; raises ForbiddenError or PermissionDeniedError."""
    if meta.ugroup is not None and meta.ugroup not in session.ugroups:
        message = f"{name} is for members of the group {meta.ugroup!r}"
        raise ForbiddenError(message)
    missing = meta.perm & ~session.perm
    if missing:
        message = f"{name} needs the permission {name_of(meta.perm)}, but this token has {name_of(session.perm)}"
        raise PermissionDeniedError(message)
