"""Who calls, and may they? The owner and the user come from a verified token alone."""

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
    """Return the session of the request's bearer token, None when it brings none; raises UnauthorizedError."""
    header = request.headers.get("authorization")
    return None if header is None else tokens.session(header, now)


async def ensure_live(scope: Scope, session: Session | None) -> None:
    """Raise UnauthorizedError when the session was ended; what is known is at most SESSION_TRUST_MS old.

    Raises UnavailableError when that cannot be found out. A caller without a token has no session that could end.
    """
    if session is None or is_live(scope, session):
        return
    answer = await scope.coordinator(session.owner).ask(CheckSession(session.sid))
    if not isinstance(answer, SessionAlive):
        raise refusal(answer)


def is_live(scope: Scope, session: Session) -> bool:
    """Whether it is known here that the session was not ended: nothing has to be asked."""
    known = scope.deployment.sessions
    return not session.sid or known.is_live(session.owner, session.sid, scope.platform.clock.elapsed())


def required(session: Session | None) -> Session:
    """Return the session; raises UnauthorizedError when there is none."""
    if session is None:
        message = "this takes a token: send the header Authorization: Bearer <token>; POST /auth/anonymous gives one"
        raise UnauthorizedError(message, headers={"WWW-Authenticate": "Bearer"})
    return session


def public_session(config: Config) -> Session | None:
    """Return the session that callers without a token have in public functions; None where there is no owner."""
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
        message = f"{name} needs the permission {name_of(meta.perm)}, and this token has {name_of(session.perm)}"
        raise PermissionDeniedError(message)
