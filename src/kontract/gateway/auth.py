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

The first five return ``{"token", "expires_in", "refresh_token", "owner", "user"}``. A login takes the same time and
returns the same error whether or not the account exists. :mod:`kontract.gateway.throttles` limits how often callers
may try, :mod:`kontract.gateway.hashing` how many at the same time.
"""

from __future__ import annotations

import hmac
import re
from typing import Any

import msgspec
from msgspec import Struct

from kontract.core import incoming, limits
from kontract.core.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from kontract.core.messages import CheckSession, EndSession, SessionAlive, SessionEnded
from kontract.core.protocol.refusal import refusal
from kontract.core.security import passwords
from kontract.gateway.accounts import Account, Accounts, Refreshed
from kontract.gateway.addresses import subscriber
from kontract.gateway.context import Session
from kontract.gateway.hashing import HashPlace
from kontract.gateway.http import JSON, Response, encode_json
from kontract.gateway.scope import Scope
from kontract.gateway.sessions import authenticate, ensure_live, required
from kontract.gateway.throttles import Throttles
from kontract.gateway.tokens import Kind, invalid_token
from kontract.gateway.transact import uuid7
from kontract.ports import CoordinatorUnavailableError

PREFIX = "/auth/"

NAME = re.compile(rf"[a-z0-9][a-z0-9._@+-]{{0,{limits.NAME_LENGTH - 1}}}", re.ASCII)

NAME_SENT = "^[A-Za-z0-9][A-Za-z0-9._@+-]*$"
"""The same for the OpenAPI document: upper case letters become lower case."""

WRONG = "the name or the password is wrong"


class Credentials(Struct, forbid_unknown_fields=True):
    """The body of register, login and link."""

    name: str
    password: str


class RefreshBody(Struct, forbid_unknown_fields=True):
    """The body of refresh."""

    refresh_token: str


class Granted(Struct):
    """The answer that grants a session. ``expires_in``: seconds until ``token`` has to be refreshed."""

    token: str
    expires_in: int
    refresh_token: str
    owner: str
    user: str


class Auth:
    """Answers the requests below ``/auth/``; one instance per request."""

    def __init__(self, scope: Scope) -> None:
        """Bind to a request."""
        self._scope = scope
        self._platform = scope.platform
        self._config = scope.deployment.config
        self._tokens = scope.deployment.tokens
        self._accounts = Accounts(scope)
        self._throttles = Throttles(scope, self._address())

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
            message = f"not found; {PREFIX} has {', '.join(routes)}"
            raise NotFoundError(message)
        return await answer()

    # --- getting a session -------------------------------------------------------------------------------------------

    async def _anonymous(self) -> Response:
        owner = self._open("anonymous")
        await self._throttles.sign_up("anonymous", "new anonymous sessions")
        return self._grant(201, self._new_session(owner, anonymous=True))

    async def _register(self) -> Response:
        owner = self._open("register")
        name, password = await self._credentials()
        async with self._enter() as place:
            await self._throttles.sign_up("register", "new accounts")
            session = self._new_session(owner, anonymous=False)
            account = await self._account(place, name, password, session)
        await self._accounts.add(account)
        self._tidy()
        return self._grant(201, session, account=name)

    async def _link(self) -> Response:
        self._open("register")
        before = self._caller()
        await ensure_live(self._scope, before)
        if not before.is_anonymous:
            message = "this session already has an account; only an anonymous session can be linked to a new account"
            raise ForbiddenError(message)
        name, password = await self._credentials()
        async with self._enter() as place:
            await self._throttles.link(before.sid)
            session = Session(self._new_id(), before.owner, before.user, is_anonymous=False)
            account = await self._account(place, name, password, session)
        until = self._ends_at(before)
        await self._accounts.add(account, before, until)
        await self._end(before, until)
        return self._grant(200, session, account=name)

    async def _login(self) -> Response:
        body = await self._body(Credentials)
        name = body.name.strip().lower()
        places = self._places(f"account/{name}")
        found: list[Account | None] = []

        async def account_of_that_name() -> Account | None:
            if not found:
                found.append(await self._accounts.find(name) if NAME.fullmatch(name) else None)
            return found[0]

        async def is_known() -> bool:
            account = await account_of_that_name()
            return account is not None and not set(account.places).isdisjoint(places)

        async with self._enter() as place:
            # Before hashing the password: throttled attempts must not cost a hash.
            await self._throttles.login(name, is_known)
            account = await account_of_that_name()
            stored = account.password if account is not None else None
            crypto = self._platform.crypto
            right = await place.hash(lambda: passwords.matches(crypto, body.password, stored))
        if not right or account is None:
            raise UnauthorizedError(WRONG)
        if places and places[0] not in account.places:
            self._platform.spawn(self._remember(name, places[0]))
        self._tidy()
        groups = frozenset(account.ugroups)
        session = Session(self._new_id(), account.owner, account.user, is_anonymous=False, ugroups=groups)
        return self._grant(200, session, account=name)

    async def _refresh(self) -> Response:
        body = await self._body(RefreshBody)
        now = self._platform.clock.now()
        claims = self._tokens.read(body.refresh_token, Kind.REFRESH, now)
        places, until = self._places(f"session/{claims.sid}"), self._ends_at(None)
        outcome, account, generation = await self._accounts.refresh(claims, now, places, until)
        self._tidy()
        if outcome is not Refreshed.RENEWED:
            # Also when it had already ended: the coordinator may not have been reachable then.
            await self._end(claims.session, until)
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
        until = self._ends_at(session)
        await self._accounts.end(session, until)
        await self._end(session, until)
        self._tidy()
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

    # --- what all ways need ------------------------------------------------------------------------------------------

    def _open(self, way: str) -> str:
        if not self._config.owner or way not in self._config.sign_up:
            message = f"{way}: this kind of sign-up is disabled here; ask the operator for a token"
            raise ForbiddenError(message)
        return self._config.owner

    def _caller(self) -> Session:
        return required(authenticate(self._scope.request, self._tokens, self._platform.clock.now()))

    def _ends_at(self, session: Session | None) -> int:
        """Return when the last access token of a session expires that ends now, in ms since the Unix epoch.

        ``session``: that of an access token, which may have been made for longer than usual.
        """
        until = self._platform.clock.now() + (limits.ACCESS_SECONDS + limits.TOKEN_LEEWAY_SECONDS) * 1000
        return until if session is None else max(until, session.expires_at * 1000)

    async def _end(self, session: Session, until: int) -> None:
        """Have the owner's coordinator refuse the session until its last access token has expired."""
        try:
            answer = await self._scope.coordinator(session.owner).ask(EndSession(session.sid, until))
        except CoordinatorUnavailableError as error:
            message = "the session cannot be ended at the moment; try again"
            raise UnavailableError(message, headers={"Retry-After": "1"}) from error
        if not isinstance(answer, SessionEnded):
            raise refusal(answer)

    def _enter(self) -> HashPlace:
        return self._scope.deployment.hashing.enter(self._platform)

    async def _account(self, place: HashPlace, name: str, password: str, session: Session) -> Account:
        salt = self._platform.random.token(passwords.SALT_BYTES)
        stored = await place.hash(lambda: passwords.make(self._platform.crypto, password, salt))
        now, places = self._platform.clock.now(), self._places(f"account/{name}")
        return Account(name, stored, session.owner, session.user, [], now, places[:1])

    async def _remember(self, name: str, place: str) -> None:
        """Remember a place of an account; if that fails, the next login from there tries again."""
        try:
            await self._accounts.remember(name, place)
        except Exception as error:  # noqa: BLE001 - the login has been answered
            self._platform.log("warning", "login_place", request_id=self._scope.request_id, error=repr(error))

    def _tidy(self) -> None:
        """Remove expired sessions after the response, if it is time for that."""
        tidying, now = self._scope.deployment.tidying, self._platform.clock.elapsed()
        if now >= tidying.due:
            tidying.due = now + limits.TIDY_MS
            self._platform.spawn(self._collect())

    async def _collect(self) -> None:
        try:
            removed = await self._accounts.collect()
        except Exception as error:  # noqa: BLE001 - nobody waits for it; it runs again in an hour
            self._platform.log("warning", "session_collection", error=repr(error))
            return
        if removed == limits.COLLECT_ROWS:
            self._scope.deployment.tidying.due = 0.0  # there is more: the next one goes on
        if removed:
            self._platform.log("info", "sessions_collected", rows=removed)

    async def _credentials(self) -> tuple[str, str]:
        body = await self._body(Credentials)
        name = body.name.strip().lower()
        if not NAME.fullmatch(name):
            message = (
                f"name must be 1 to {limits.NAME_LENGTH} letters, digits or one of . _ @ + -, and begin with a letter "
                "or a digit; an e-mail address is fine"
            )
            raise InvalidRequestError(message)
        return name, passwords.check(body.password, name)

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
        self._scope.line.of(session)
        return Response(status, encode_json(granted), {"Content-Type": JSON})

    def _address(self) -> str:
        return subscriber(self._scope.request.client)

    def _places(self, whose: str) -> list[str]:
        """Return the caller's address as it is stored for ``whose``, with the current secret first; empty if unknown.

        It is a keyed digest, with a different key for each account and session: it reveals nobody's location.
        """
        address = self._address()
        if not address:
            return []
        said = f"{whose}\x00{address}".encode(errors="replace")
        return [hmac.digest(keys.place, said, "sha256")[:16].hex() for keys in self._config.keys]
