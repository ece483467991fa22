"""Which failures are tried again, how often, and after which pauses."""

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
"""Codes of errors after which a call is repeated, under its idempotency key.

Not the same as ``Code.passes``: COMMIT_UNKNOWN is repeated to learn the outcome.

Not FENCED: it lasts until an operator acts. Not RATE_LIMITED, though it passes: a window may take minutes, and whether
to wait for its end or to do less is the caller's business; ``retry_after`` says how long it takes.
"""


class Retries(Struct, frozen=True, kw_only=True):
    """How persistent a call is.

    ``seconds``: no attempt begins later than this after the first, and one does begin then if a pause would end later.
    A restart, a deployment or a fail-over takes seconds; a transaction in doubt is settled within 10 s, so 30 leave
    time to learn how it ended; and it is half of the 60 s within which a session whose refresh got no answer can still
    be refreshed.

    ``attempts``: at most so many requests; None for as many as the time allows, which with these pauses are about ten.

    ``first_pause``, ``longest_pause``: seconds. Pauses double from the first to the longest and are jittered over
    their full length, so that callers who failed together do not come back together. What the server asks for with
    Retry-After comes on top.
    """

    attempts: int | None = None
    seconds: float = 30.0
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what would never try, or never pause."""
        fewest = 1 if self.attempts is None else self.attempts
        if fewest < 1 or self.seconds < 0 or self.first_pause <= 0 or self.longest_pause < self.first_pause:
            message = f"{self} makes no sense: at least one attempt, and pauses above 0 that do not shrink"
            raise ValueError(message)

    @classmethod
    def none(cls) -> Retries:
        """One attempt, whatever becomes of it. Calls then carry no Idempotency-Key unless they are given one."""
        return cls(attempts=1)


class Retrying:
    """Runs calls as ``Retries`` says."""

    def __init__(self, policy: Retries, clock: Clock, random: Randomness) -> None:
        """Wait by ``clock``, roll dice with ``random``."""
        self.policy = policy
        self._clock = clock
        self._random = random

    async def run(self, attempt: Callable[[], Awaitable[T]], *, repeatable: bool = True) -> T:
        """Await ``attempt()`` until it succeeds or there is no point in another.

        ``repeatable``: whether it may be repeated when it may have been applied. Raises the error of the last attempt;
        its ``maybe_applied`` is about all of them.
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
        """Seconds before attempt ``number + 1``, beyond what the server asked for."""
        # The exponent is bounded only so that the power is a float, however many attempts there are.
        longest = min(self.policy.longest_pause, self.policy.first_pause * 2.0 ** min(number - 1, 64))
        return longest * self._random.uniform()


def passes(error: ClientError | HttpError) -> bool:
    """Whether an error may pass by itself."""
    match error:
        case ConnectionFailedError():
            return True
        case UnsealedAnswerError():
            # Status 200 around something else is a message that was damaged.
            return error.status == 200 or error.status in UNREACHED
        case UnknownCodeError():
            return error.status in UNREACHED
        case HttpError():
            return error.error_code in RETRIED
        case _:
            return False
