"""Which failures are retried, how often, and after which pauses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import Struct

from kontract.client.errors import (
    UNREACHED,
    ClientError,
    ConnectionFailedError,
    UnknownCodeError,
    UnsealedAnswerError,
)
from kontract.core.errors import Code, HttpError
from kontract.ports import Clock, Randomness

T = TypeVar("T")

RETRIED = frozenset({Code.CONFLICT, Code.UNAVAILABLE, Code.BUSY, Code.COMMIT_UNKNOWN, Code.DEADLINE_EXCEEDED})
"""Codes of errors after which a call is retried, under its idempotency key.

This differs from ``Code.passes``: COMMIT_UNKNOWN is retried to learn the outcome.

FENCED is not retried: it lasts until an operator acts. Nor is RATE_LIMITED: a window may take minutes, and the caller
decides whether to wait or to send less; ``retry_after`` says how long it takes.
"""


class Retries(Struct, frozen=True, kw_only=True):
    """How persistent a call is.

    ``seconds``: no attempt begins later than this after the first; if a pause would end later, the last attempt begins
    exactly then. A restart, a deployment or a fail-over takes seconds; a transaction in doubt is settled within 10 s,
    so 30 leave time to learn its outcome; and it is half of the 60 s within which a refresh whose answer was lost can
    be repeated.

    ``attempts``: the most requests; None for as many as the time allows, about ten with these pauses.

    ``first_pause``, ``longest_pause``: seconds. Pauses double from the first to the longest and are jittered over
    their full length, so that callers that failed together do not retry together. The server's Retry-After is added.
    """

    attempts: int | None = None
    seconds: float = 30.0
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        """Check the numbers; raises ValueError."""
        fewest = 1 if self.attempts is None else self.attempts
        if fewest < 1 or self.seconds < 0 or self.first_pause <= 0 or self.longest_pause < self.first_pause:
            message = f"{self} is invalid: it needs at least one attempt, and pauses above 0 that do not shrink"
            raise ValueError(message)

    @classmethod
    def none(cls) -> Retries:
        """Return a policy of one attempt. Calls then have no Idempotency-Key unless given one."""
        return cls(attempts=1)


class Retrying:
    """Runs calls with a ``Retries`` policy."""

    def __init__(self, policy: Retries, clock: Clock, random: Randomness) -> None:
        """``clock`` and ``random``: for the pauses."""
        self.policy = policy
        self._clock = clock
        self._random = random

    async def run(self, attempt: Callable[[], Awaitable[T]], *, repeatable: bool = True) -> T:
        """Await ``attempt()`` until it succeeds or a retry is pointless.

        ``repeatable``: whether to retry a call that may have been applied. Raises the error of the last attempt; its
        ``maybe_applied`` is about all attempts.
        """
        started = self._clock.elapsed()
        maybe_applied = False
        number = 0
        while True:
            number += 1
            try:
                return await attempt()
            except (ClientError, HttpError) as error:
                error.maybe_applied = maybe_applied = maybe_applied or error.maybe_applied
                if number == self.policy.attempts or not passes(error) or (maybe_applied and not repeatable):
                    raise
                left = self.policy.seconds - (self._clock.elapsed() - started) / 1000
                asked = (error.retry_after if isinstance(error, HttpError) else None) or 0.0
                if left <= 0 or asked > left:
                    raise
                pause = min(asked + self._jittered(number), left)
            await self._clock.sleep(pause * 1000)

    def _jittered(self, number: int) -> float:
        """Return the seconds before attempt ``number + 1``, without the server's Retry-After."""
        # The exponent is bounded only so that the power is a float, however many attempts there are.
        longest = min(self.policy.longest_pause, self.policy.first_pause * 2.0 ** min(number - 1, 64))
        return longest * self._random.uniform()


def passes(error: ClientError | HttpError) -> bool:
    """Return whether an error is temporary."""
    match error:
        case ConnectionFailedError():
            return True
        case UnsealedAnswerError():
            # Status 200 with other content is a damaged message.
            return error.status == 200 or error.status in UNREACHED
        case UnknownCodeError():
            return error.status in UNREACHED
        case HttpError():
            return error.error_code in RETRIED
        case _:
            return False
