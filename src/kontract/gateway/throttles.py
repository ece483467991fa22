"""Limits on attempts at ``/auth``, counted for all nodes together.

A login is counted by address, by pair of account and address, and by account. An address that was used to log in to
the account before is known to it (``Account.places``) and counts only by its pair, so nobody else can use up its
attempts. When an account's attempts from everywhere are used up, addresses that have not tried yet get one each, from a
second budget. IPv6 is counted by the 64 bits that a subscriber has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from kontract.core import limits
from kontract.core.errors import RateLimitedError
from kontract.core.transaction.store import SYSTEM
from kontract.gateway.scope import Scope

IsKnown = Callable[[], Awaitable[bool]]
"""Returns whether the account knows the address; this needs a look-up, so it is called only when it decides."""


class Throttles:
    """The limits of one request; ``address`` is empty where the platform does not know it."""

    def __init__(self, scope: Scope, address: str) -> None:
        """Count for all tenants together."""
        self._counters = scope.counters(SYSTEM)
        self._address = address
        # In local development all callers share one address, and tests make hundreds of sessions.
        self._counts_sign_ups = not scope.deployment.config.show_errors

    async def sign_up(self, way: str, what: str) -> None:
        """Count a new session (``way``: anonymous) or a new account (register); raises RateLimitedError."""
        if self._address and self._counts_sign_ups:
            most = limits.SIGN_UPS_PER_ADDRESS
            count, seconds = await self._count(f"sign-up/{way}/{self._address}")
            if count > most:
                raise _refused(f"one address may have {most} {what} in {_minutes()}", seconds)

    async def link(self, sid: str) -> None:
        """Count an attempt to give a session an account; raises RateLimitedError."""
        count, seconds = await self._count(f"link/{sid}")
        if count > limits.LINKS_PER_SESSION:
            raise _refused(f"one session may try {limits.LINKS_PER_SESSION} names in {_minutes()}", seconds)

    async def login(self, name: str, is_known: IsKnown) -> None:
        """Count an attempt to log in to the account ``name``; raises RateLimitedError.

        The order keeps an address that is over its limit from filling the counters with invented names.
        """
        # Any name of any length may have been sent. Names themselves are not stored here.
        whose = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:32]
        known: bool | None = None
        first = False
        if self._address:
            count, seconds = await self._count(f"login-address/{self._address}")
            if count > limits.LOGINS_PER_ADDRESS:
                known = await is_known()
                if not known:
                    raise _wait(seconds)
            count, seconds = await self._count(f"login-pair/{whose}/{self._address}")
            if count > limits.LOGINS_PER_PAIR:
                raise _wait(seconds)
            first = count == 1
        count, seconds = await self._count(f"login-account/{whose}")
        if count <= limits.LOGINS_PER_ACCOUNT:
            return
        if known is None and self._address:
            known = await is_known()
        if known:
            return
        if first:
            count, _ = await self._count(f"login-fresh/{whose}")
            if count <= limits.LOGINS_PER_ACCOUNT_FRESH:
                return
        raise _wait(seconds)

    async def _count(self, key: str) -> tuple[int, float]:
        return await self._counters.count_within(f"auth/{key}", limits.LOGIN_WINDOW_SECONDS)


def _wait(seconds: float) -> RateLimitedError:
    # It does not say which limit: that would reveal whether others try the same account.
    return _refused(f"too many attempts to log in; they are counted for {_minutes()}", seconds)


def _refused(what: str, seconds: float) -> RateLimitedError:
    left = max(1, round(seconds))
    return RateLimitedError(f"{what}; wait {left} s before you try again", headers={"Retry-After": str(left)})


def _minutes() -> str:
    return f"{limits.LOGIN_WINDOW_SECONDS // 60} minutes"
