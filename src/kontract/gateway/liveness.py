"""Which sessions have not been ended, as far as this process knows, and since when.

The owner's coordinator knows whether a session has ended, and rejects a begin, a prepare or a check of an ended one.
This process trusts such an answer for SESSION_TRUST_MS, counted from when the question was sent. So a function that
does not ask the coordinator can be rejected before it runs, at the cost of one question in that time instead of one
per call.

A process that ends a session trusts nothing about it from then on, and asks each time.
"""

from __future__ import annotations

from collections import OrderedDict

from kontract.core import limits
from kontract.core.messages import (
    Answer,
    Began,
    Begin,
    CheckSession,
    EndSession,
    Prepare,
    Prepared,
    Replayed,
    Request,
    SessionAlive,
    SessionEnded,
)

_Session = tuple[str, str]  # owner, sid


class LiveSessions:
    """What one process (an isolate, a server worker) knows of sessions."""

    def __init__(self) -> None:
        """Know nothing."""
        self._asked_at: OrderedDict[_Session, float] = OrderedDict()
        self._ended: OrderedDict[_Session, None] = OrderedDict()

    def is_live(self, owner: str, sid: str, now: float) -> bool:
        """Whether nobody had ended the session a moment ago; ``now``: ms of a clock that never goes back."""
        asked_at = self._asked_at.get((owner, sid))
        return asked_at is not None and now - asked_at < limits.SESSION_TRUST_MS

    def asking(self, owner: str, request: Request) -> None:
        """Take that ``request`` is about to be sent to the coordinator of ``owner``."""
        if type(request) is EndSession:
            self.forget(owner, request.session)

    def heard(self, owner: str, request: Request, answer: Answer, asked_at: float) -> None:
        """Take what the coordinator of ``owner`` has answered, as far as it says something about a session."""
        if not isinstance(request, (Begin, Prepare, CheckSession)) or not request.session:
            return
        if isinstance(answer, (Began, Prepared, Replayed, SessionAlive)):
            self.found_live(owner, request.session, asked_at)
        elif isinstance(answer, SessionEnded):
            self.forget(owner, request.session)

    def found_live(self, owner: str, sid: str, asked_at: float) -> None:
        """Take that a question sent at ``asked_at`` found the session not ended."""
        key = (owner, sid)
        if key in self._ended:
            return  # the question overtook the end, or somebody here is about to end it
        self._asked_at[key] = max(asked_at, self._asked_at.pop(key, asked_at))
        _bound(self._asked_at)

    def forget(self, owner: str, sid: str) -> None:
        """Take that the session was ended, or that this process is about to end it."""
        key = (owner, sid)
        self._asked_at.pop(key, None)
        self._ended[key] = None
        self._ended.move_to_end(key)
        _bound(self._ended)


def _bound(remembered: OrderedDict[_Session, float] | OrderedDict[_Session, None]) -> None:
    while len(remembered) > limits.SESSIONS_REMEMBERED:
        remembered.popitem(last=False)
