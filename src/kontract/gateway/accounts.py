"""Accounts and sessions of all tenants: two tables of the owner ``__system``, changed in transactions like any others.

``__users``: a row an account, under its name; its ``user`` is who it acts as, in which tenant. ``__sessions``: a row a
session that was refreshed or ended; one that was neither has none, so that an anonymous session costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from functools import cache
from typing import Annotated, TypeVar

from msgspec import Struct

from kontract.core import limits
from kontract.core.declare import primkey, table
from kontract.core.errors import Code, ConflictError
from kontract.core.rows import RowType, row_type
from kontract.core.storage import Storage
from kontract.core.transaction import Call, Transaction
from kontract.gateway.context import Session
from kontract.gateway.scope import Scope
from kontract.gateway.tokens import SYSTEM, Claims, invalid_token
from kontract.gateway.transact import Transactor

T = TypeVar("T")


@table("__users")
class Account(Struct):
    """An account. ``password``: PHC string. ``created_at``: ms since the Unix epoch."""

    id: Annotated[str, primkey]
    password: str
    owner: str
    user: str
    ugroups: list[str] = []
    created_at: int = 0


@table("__sessions")
class SessionRow(Struct):
    """A session's refresh tokens: the number of the newest, when it was given, and whether it is over."""

    id: Annotated[str, primkey]
    user: str
    generation: int = 0
    refreshed_at: int = 0
    ended: bool = False


class Refreshed(Enum):
    """What became of a refresh token."""

    RENEWED = "renewed"
    STOLEN = "stolen"  # used a second time: somebody else has it, too, and nobody knows who of the two it is
    ENDED = "ended"


@cache
def _row_type(name: str) -> RowType:
    struct: type[Struct] = Account if name == "__users" else SessionRow
    return row_type(struct)


class Accounts:
    """Reads and changes both tables, for one request."""

    def __init__(self, scope: Scope) -> None:
        """Nothing is opened yet."""
        self._scope = scope

    async def find(self, name: str) -> Account | None:
        """Return an account, or None."""

        async def work(storage: Storage) -> Account | None:
            account: Account | None = await storage["__users"].get(name)
            return account

        return await self._run("login", work, read_only=True)

    async def add(self, account: Account, ending: Session | None = None) -> None:
        """Create an account and, with it, end a session; raises ConflictError when the name is taken.

        Raises UnauthorizedError when that session has been ended already: it can be turned into one account only.
        """

        async def work(storage: Storage) -> None:
            if ending is not None and not await _end(storage, ending.sid, ending.user):
                raise invalid_token()
            if await storage["__users"].get(account.id) is not None:
                message = f"the name {account.id!r} is taken"
                raise ConflictError(message, code=Code.ALREADY_EXISTS)
            await storage["__users"].insert(account.id, account)

        await self._run("register", work)

    async def refresh(self, claims: Claims, now: int) -> tuple[Refreshed, Account | None, int]:
        """Use a refresh token: what became of it, its account if it has one, and the number of the next."""

        async def work(storage: Storage) -> tuple[Refreshed, Account | None, int]:
            account: Account | None = None
            if claims.account:
                account = await storage["__users"].get(claims.account)
                if account is None or account.user != claims.sub:
                    return Refreshed.ENDED, None, 0
            sessions = storage["__sessions"]
            row = await sessions.get(claims.sid) or SessionRow(claims.sid, claims.sub)
            if row.ended:
                return Refreshed.ENDED, None, 0
            again = claims.gen == row.generation - 1 and now - row.refreshed_at < limits.REFRESH_GRACE_MS
            if claims.gen != row.generation and not again:
                await sessions.set(row.id, SessionRow(row.id, row.user, row.generation, row.refreshed_at, ended=True))
                return Refreshed.STOLEN, None, 0
            if not again:
                row = SessionRow(row.id, row.user, row.generation + 1, now)
                await sessions.set(row.id, row)
            return Refreshed.RENEWED, account, row.generation

        return await self._run("refresh", work)

    async def end(self, session: Session) -> None:
        """Let no refresh token of a session be used any more."""

        async def work(storage: Storage) -> None:
            await _end(storage, session.sid, session.user)

        await self._run("logout", work)

    async def _run(self, name: str, work: Callable[[Storage], Awaitable[T]], *, read_only: bool = False) -> T:
        scope = self._scope
        answer: list[T] = []

        async def attempt(_transaction: Transaction, storage: Storage) -> str:
            answer[:] = [await work(storage)]
            return ""

        call = Call(id=scope.platform.random.token(16).hex(), owner=SYSTEM, user=SYSTEM, read_only=read_only)
        async with Transactor(scope, _row_type) as transactor:
            await transactor.run(call, attempt, name, max_attempts=limits.MAX_ATTEMPTS)
        return answer[0]


async def _end(storage: Storage, sid: str, user: str) -> bool:
    """Mark a session as ended; False when it was."""
    sessions = storage["__sessions"]
    row = await sessions.get(sid) or SessionRow(sid, user)
    if row.ended:
        return False
    await sessions.set(sid, SessionRow(sid, row.user, row.generation, row.refreshed_at, ended=True))
    return True
