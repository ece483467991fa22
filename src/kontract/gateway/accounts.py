"""Accounts and sessions of all tenants: two tables of the owner ``__system``, changed in transactions like any others.

``__users``: one row per account, under its name; ``user`` is the user that it acts as. ``__sessions``: one row per
session that was refreshed or ended; others have none, so that an anonymous session costs nothing. The row is removed
when the last refresh token of the session has expired.

An ended session is stored here first, then reported to its owner's coordinator: a coordinator that has lost its
memory reads it from here (:meth:`kontract.core.transaction.store.SqlStore.ended_sessions`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, TypeVar

from msgspec import Struct

from kontract.core import limits
from kontract.core.errors import Code, ConflictError
from kontract.core.model.declare import primkey, table
from kontract.core.model.rows import RowType, row_type
from kontract.core.transaction.attempts import Done
from kontract.core.transaction.storage import Storage
from kontract.core.transaction.store import SYSTEM, SqlStore
from kontract.core.transaction.transaction import Call, Transaction
from kontract.gateway.context import Session
from kontract.gateway.scope import Scope
from kontract.gateway.tokens import Claims, invalid_token
from kontract.gateway.transact import Transactor

T = TypeVar("T")


@table("__users")
class Account(Struct):
    """An account. ``password``: PHC string. ``created_at``: ms since the Unix epoch.

    ``places``: digests of the addresses from which it was logged in to last, the newest last.
    """

    id: Annotated[str, primkey]
    password: str
    owner: str
    user: str
    ugroups: list[str] = []
    created_at: int = 0
    places: list[str] = []


@table("__sessions")
class SessionRow(Struct, kw_only=True):
    """A session of the tenant ``owner``: its refresh tokens, and whether it is over.

    ``generation``: the number of the newest refresh token; ``refreshed_at``: when it was given, in ms since the Unix
    epoch; ``place``: where from, see :meth:`kontract.gateway.auth.Auth`. ``until``: when the last access token of a
    session that is over expires, likewise in ms.
    """

    id: Annotated[str, primkey]
    user: str
    owner: str = ""
    generation: int = 0
    refreshed_at: int = 0
    place: str = ""
    ended: bool = False
    until: int = 0


class Refreshed(Enum):
    """The outcome of using a refresh token."""

    RENEWED = "renewed"
    STOLEN = "stolen"  # used a second time: two parties have it, and either may be the thief
    ENDED = "ended"


@cache
def _row_type(name: str) -> RowType:
    struct: type[Struct] = Account if name == "__users" else SessionRow
    return row_type(struct)


class Accounts:
    """Reads and changes both tables, for one request."""

    def __init__(self, scope: Scope) -> None:
        """Open nothing yet."""
        self._scope = scope

    async def find(self, name: str) -> Account | None:
        """Return an account, or None."""

        async def work(storage: Storage) -> Account | None:
            account: Account | None = await storage["__users"].get(name)
            return account

        return await self._run("login", work, read_only=True)

    async def add(self, account: Account, ending: Session | None = None, until: int = 0) -> None:
        """Create an account and, with it, end a session, see :meth:`end`; raises ConflictError when the name is taken.

        Raises UnauthorizedError when that session has already ended: it can become only one account.
        """

        async def work(storage: Storage) -> None:
            if ending is not None and not await _end(storage, ending, until):
                raise invalid_token()
            if await storage["__users"].get(account.id) is not None:
                message = f"the name {account.id!r} is taken"
                raise ConflictError(message, code=Code.ALREADY_EXISTS)
            await storage["__users"].insert(account.id, account)

        await self._run("register", work)

    async def remember(self, name: str, place: str) -> None:
        """Remember a place from which a user logged in to an account."""

        async def work(storage: Storage) -> None:
            account: Account | None = await storage["__users"].get(name)
            if account is not None and place not in account.places:
                account.places = [*account.places, place][-limits.KNOWN_PLACES :]
                await storage["__users"].set(name, account)

        await self._run("remember", work)

    async def refresh(
        self, claims: Claims, now: int, places: Sequence[str], until: int
    ) -> tuple[Refreshed, Account | None, int]:
        """Use a refresh token; return the outcome, its account if it has one, and the number of the next token.

        ``places``: where the request came from; the first is stored, all are recognized; empty if unknown.
        ``until``: see :meth:`end`, for a session that is over with this.
        """

        async def work(storage: Storage) -> tuple[Refreshed, Account | None, int]:
            account: Account | None = None
            if claims.account:
                account = await storage["__users"].get(claims.account)
                if account is None or account.user != claims.sub:
                    await _end(storage, claims.session, until)
                    return Refreshed.ENDED, None, 0
            sessions = storage["__sessions"]
            row = await sessions.get(claims.sid) or SessionRow(id=claims.sid, user=claims.sub)
            if row.ended:
                return Refreshed.ENDED, None, 0
            # Its answer was lost, or two tabs of one browser used it at the same moment.
            again = (
                claims.gen == row.generation - 1
                and now - row.refreshed_at < limits.REFRESH_GRACE_MS
                and row.place in places
            )
            if claims.gen != row.generation and not again:
                await _end(storage, claims.session, until)
                return Refreshed.STOLEN, None, 0
            if not again:
                row = SessionRow(
                    id=row.id,
                    user=row.user,
                    owner=claims.owner,
                    generation=row.generation + 1,
                    refreshed_at=now,
                    place=places[0] if places else "",
                )
                await sessions.set(row.id, row)
            return Refreshed.RENEWED, account, row.generation

        return await self._run("refresh", work)

    async def end(self, session: Session, until: int) -> None:
        """Reject all refresh tokens of a session from now on. ``until``: when its last access token expires, in ms."""

        async def work(storage: Storage) -> None:
            await _end(storage, session, until)

        await self._run("logout", work)

    async def collect(self) -> int:
        """Remove sessions of all tenants whose last refresh token has expired, at most COLLECT_ROWS; return how many.

        They are deleted outside transactions: no valid token refers to them any more.
        """
        platform = self._scope.platform
        store = SqlStore(platform.open_database())
        try:
            return await store.collect_sessions(platform.clock.now())
        finally:
            await store.aclose()

    async def _run(self, name: str, work: Callable[[Storage], Awaitable[T]], *, read_only: bool = False) -> T:
        scope = self._scope

        async def attempt(_transaction: Transaction, storage: Storage) -> T:
            return await work(storage)

        call = Call(id=scope.platform.random.token(16).hex(), owner=SYSTEM, user=SYSTEM, read_only=read_only)
        async with Transactor(scope, _row_type) as transactor:
            outcome = await transactor.run(call, attempt, name, max_attempts=limits.MAX_ATTEMPTS)
        assert isinstance(outcome, Done), "a call without a key is none that was made before"
        return outcome.result


async def _end(storage: Storage, session: Session, until: int) -> bool:
    """Mark a session as ended; False when it was."""
    sessions = storage["__sessions"]
    row = await sessions.get(session.sid) or SessionRow(id=session.sid, user=session.user)
    if row.ended:
        return False
    row.owner, row.ended, row.until = session.owner, True, until
    await sessions.set(session.sid, row)
    return True
