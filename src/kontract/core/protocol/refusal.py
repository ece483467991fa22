"""Errors for callers when the coordinator refuses and no other attempt can change that."""

from __future__ import annotations

from kontract.core.errors import Code, HttpError, UnauthorizedError, UnavailableError
from kontract.core.messages import Answer, Fenced, SessionEnded, Unready, WentBack


def refusal(answer: Answer) -> HttpError:
    """Return the error for an answer that no retry of this attempt can change."""
    if isinstance(answer, SessionEnded):
        return _session_ended()
    if isinstance(answer, WentBack):
        return went_back()
    if isinstance(answer, Fenced):
        message = (
            f"another deployment coordinates this owner's tables now (its epoch is {answer.epoch}); send calls there, "
            "or stop it and restart this one (`make dev`, `make serve`, "
            "`kontract serve`; for a Worker on Cloudflare see the FAQ)"
        )
        return UnavailableError(message, code=Code.FENCED)
    reason = answer.reason if isinstance(answer, Unready) else f"unexpected answer {type(answer).__name__}"
    return UnavailableError(f"the coordinator is unavailable: {reason}", headers={"Retry-After": "1"})


def went_back() -> HttpError:
    """Return the error for a call that met a database that has lost acknowledged commits."""
    message = (
        "the database has gone back to an earlier state and acknowledged commits are lost. This call wrote nothing. "
        "Read again what it depends on, then repeat it; operators find details with: kontract doctor"
    )
    return UnavailableError(message, code=Code.DATABASE_WENT_BACK)


def _session_ended() -> HttpError:
    """Return the error for a call in an ended session: the same as for an invalid token."""
    return UnauthorizedError("the token is not valid", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
