"""``/auth/*``: how callers get a session, and how it ends.

=============================  ==================================  ====================================================
``POST /auth/anonymous``       nothing                             201, a new user of ``KONTRACT_OWNER``
``POST /auth/register``        ``{"name", "password"}``            201, the same with an account
``POST /auth/login``           ``{"name", "password"}``            200
``POST /auth/link``            the same, and an anonymous token    200, the same user, now with an account
``POST /auth/refresh``         ``{"refresh_token"}``               200, two new tokens
``POST /auth/logout``          a token                             204; every node refuses the session from now on
``GET /auth/me``               a token                             200, who that is
=============================  ==================================  ====================================================

The answer of the first five is ``{"token", "expires_in", "refresh_token", "owner", "user"}``. Logging in takes as long
and says the same whether or not there is such an account, and is throttled per account and per address.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from msgspec import Struct

from kontract.core import incoming, limits, passwords
from kontract.core.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)
from kontract.core.messages import CheckSession, EndSession, SessionAlive, SessionEnded
from kontract.core.transaction import refusal
from kontract.gateway.accounts import Account, Accounts, Refreshed
from kontract.gateway.addresses import subscriber
from kontract.gateway.context import Session
from kontract.gateway.http import JSON, Response, encode_json
from kontract.gateway.scope import Scope
from kontract.gateway.sessions import authenticate, ensure_live, required
from kontract.gateway.shared import SharedStorage
from kontract.gateway.tokens import SYSTEM, Kind, invalid_token
from kontract.gateway.transact import uuid7
from kontract.ports import CoordinatorUnavailableError

PREFIX = "/auth/"

NAME = re.compile(rf"[a-z0-9][a-z0-9._@+-]{{0,{limits.NAME_LENGTH - 1}}}", re.ASCII)

WRONG = "the name or the password is wrong"


class Credentials(Struct, forbid_unknown_fields=True):
    """The body of register, login and link."""

    name: str
    password: str


class RefreshBody(Struct, forbid_unknown_fields=True):
    """The body of refresh."""

    refresh_token: str


class Granted(Struct):
    """The answer to whoever gets a session. ``expires_in``: seconds until ``token`` has to be refreshed."""

    token: str
    expires_in: int
    refresh_token: str
    owner: str
    user: str


class Auth:
    """Answers the requests below ``/auth/``; one instance a request."""

    def __init__(self, scope: Scope) -> None:
        """Bind to a request."""
        self._scope = scope
        self._platform = scope.platform
        self._config = scope.deployment.config
        self._tokens = scope.deployment.tokens
        self._accounts = Accounts(scope)

    async def handle(self) -> Response:
        """Answer; raises HttpError."""
        routes = {
            "anonymous": self._anonymous,
            "register": self._register,
            "login": self._login,
            "link": self._link,
            "refresh": self._refresh,
            "logout": self._logout,
            "me": self._me,
        }
        name = self._scope.request.path.removeprefix(PREFIX)
        answer = routes.get(name)
        if answer is None:
            message = f"there is nothing here; {PREFIX} has {', '.join(routes)}"
            raise NotFoundError(message)
        return await answer()

    # --- getting a session -------------------------------------------------------------------------------------------

    async def _anonymous(self) -> Response:
        owner = self._open("anonymous")
        await self._throttle(("sign-up", self._address(), limits.SIGN_UPS_PER_ADDRESS))
        return self._grant(201, self._new_session(owner, anonymous=True))

    async def _register(self) -> Response:
        owner = self._open("register")
        name, password = await self._credentials()
        await self._throttle(("sign-up", self._address(), limits.SIGN_UPS_PER_ADDRESS))
        session = self._new_session(owner, anonymous=False)
        await self._accounts.add(await self._account(name, password, session))
        return self._grant(201, session, account=name)

    async def _link(self) -> Response:
        self._open("register")
        before = self._caller()
        await ensure_live(self._scope, before)
        if not before.is_anonymous:
            message = "this session has an account already; only an anonymous one can be linked to a new account"
            raise ForbiddenError(message)
        name, password = await self._credentials()
        await self._throttle(("sign-up", self._address(), limits.SIGN_UPS_PER_ADDRESS))
        session = Session(self._new_id(), before.owner, before.user, is_anonymous=False)
        await self._accounts.add(await self._account(name, password, session), ending=before)
        await self._end(before)
        return self._grant(200, session, account=name)

    async def _login(self) -> Response:
        body = await self._body(Credentials)
        name = body.name.strip().lower()
        address = self._address()
        # Whatever was sent as a name, and however long it is. Names are kept no longer than needed, and not here.
        whose = hashlib.sha256(name.encode()).hexdigest()[:32]
        # Before the password's hash: what is throttled must not cost what is throttled. The address first: the other
        # two make a counter for each name that somebody thinks of, and there is room for so many.
        await self._throttle(
            ("login-address", address, limits.LOGINS_PER_ADDRESS),
            ("login-pair", f"{whose}/{address}" if address else "", limits.LOGINS_PER_PAIR),
            ("login-account", whose, limits.LOGINS_PER_ACCOUNT),
        )
        account = await self._accounts.find(name) if NAME.fullmatch(name) else None
        stored = account.password if account is not None else None
        if not await passwords.matches(self._platform.crypto, body.password, stored) or account is None:
            raise UnauthorizedError(WRONG)
        groups = frozenset(account.ugroups)
        session = Session(self._new_id(), account.owner, account.user, is_anonymous=False, ugroups=groups)
        return self._grant(200, session, account=name)

    async def _refresh(self) -> Response:
        body = await self._body(RefreshBody)
        now = self._platform.clock.now()
        claims = self._tokens.read(body.refresh_token, Kind.REFRESH, now)
        outcome, account, generation = await self._accounts.refresh(claims, now)
        if outcome is not Refreshed.RENEWED:
            # Also when it had ended: perhaps the coordinator could not be told at the time.
            await self._end(claims.session)
            raise invalid_token()
        session = claims.session
        if account is not None:
            session = Session(
                session.sid, account.owner, account.user, is_anonymous=False, ugroups=frozenset(account.ugroups)
            )
        return self._grant(200, session, generation, claims.account)

    # --- having one --------------------------------------------------------------------------------------------------

    async def _logout(self) -> Response:
        session = self._caller()
        await self._accounts.end(session)
        await self._end(session)
        return Response(204)

    async def _me(self) -> Response:
        session = self._caller()
        answer = await self._scope.coordinator(session.owner).ask(CheckSession(session.sid))
        if not isinstance(answer, SessionAlive):
            raise refusal(answer)
        said = {
            "owner": session.owner,
            "user": session.user,
            "anonymous": session.is_anonymous,
            "ugroups": sorted(session.ugroups),
            "perm": session.perm,
            "sid": session.sid,
            "expires_at": session.expires_at,
        }
        return Response(200, encode_json(said), {"Content-Type": JSON})

    # --- small steps -------------------------------------------------------------------------------------------------

    def _open(self, way: str) -> str:
        if not self._config.owner or way not in self._config.sign_up:
            message = f"{way}: nobody can sign up here in this way; ask whoever runs this for a token"
            raise ForbiddenError(message)
        return self._config.owner

    def _caller(self) -> Session:
        return required(authenticate(self._scope.request, self._tokens, self._platform.clock.now()))

    async def _end(self, session: Session) -> None:
        """Have the owner's coordinator refuse the session until its last access token has expired."""
        until = self._platform.clock.now() + (limits.ACCESS_SECONDS + limits.TOKEN_LEEWAY_SECONDS) * 1000
        try:
            answer = await self._scope.coordinator(session.owner).ask(
                EndSession(session.sid, max(until, session.expires_at * 1000))
            )
        except CoordinatorUnavailableError as error:
            message = "the session cannot be ended now; try again"
            raise UnavailableError(message, headers={"Retry-After": "1"}) from error
        if not isinstance(answer, SessionEnded):
            raise refusal(answer)

    async def _account(self, name: str, password: str, session: Session) -> Account:
        salt = self._platform.random.token(passwords.SALT_BYTES)
        stored = await passwords.make(self._platform.crypto, password, salt)
        return Account(name, stored, session.owner, session.user, [], self._platform.clock.now())

    async def _credentials(self) -> tuple[str, str]:
        body = await self._body(Credentials)
        name = body.name.strip().lower()
        if not NAME.fullmatch(name):
            message = (
                f"name must be 1 to {limits.NAME_LENGTH} letters, digits or one of . _ @ + -, and begin with a letter "
                "or a digit; an e-mail address will do"
            )
            raise InvalidRequestError(message)
        return name, passwords.check(body.password)

    async def _body(self, kind: type[Any]) -> Any:
        raw = await self._scope.request.read()
        try:
            return incoming.decode(raw, msgspec.json.Decoder(kind).decode)
        except msgspec.ValidationError as error:
            fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
            message = f"the request body must be an object with {fields}: {error}"
            raise InvalidRequestError(message) from None

    def _new_id(self) -> str:
        return uuid7(self._platform.clock, self._platform.random)

    def _new_session(self, owner: str, *, anonymous: bool) -> Session:
        return Session(self._new_id(), owner, self._new_id(), is_anonymous=anonymous)

    def _grant(self, status: int, session: Session, generation: int = 0, account: str = "") -> Response:
        now, random = self._platform.clock.now(), self._platform.random
        make = self._tokens.make
        granted = Granted(
            token=make(session, Kind.ACCESS, now, limits.ACCESS_SECONDS, random),
            expires_in=limits.ACCESS_SECONDS,
            refresh_token=make(session, Kind.REFRESH, now, limits.REFRESH_SECONDS, random, generation, account),
            owner=session.owner,
            user=session.user,
        )
        self._scope.log["owner"], self._scope.log["user"] = session.owner, session.user
        return Response(status, encode_json(granted), {"Content-Type": JSON})

    def _address(self) -> str:
        return subscriber(self._scope.request.client)

    async def _throttle(self, *counters: tuple[str, str, int]) -> None:
        """Count an attempt for each (what, whose, how many may be); raises RateLimitedError beyond one of them."""
        shared = SharedStorage(self._platform.shared(SYSTEM), prefix="auth/")
        for what, whose, most in counters:
            if not whose:
                continue  # the platform does not know the address: there is nothing to count by
            count, seconds = await shared.count_within(f"{what}/{whose}", limits.LOGIN_WINDOW_SECONDS)
            if count > most:
                message = "too many attempts; wait before you try again"
                raise RateLimitedError(message, headers={"Retry-After": str(max(1, round(seconds)))})
