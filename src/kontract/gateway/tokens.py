"""Session tokens: JWT (RFC 7519) with HS256, made and read with PyJWT, under the rules of RFC 8725.

One header is accepted, to the byte: ``{"alg":"HS256","typ":"JWT"}``. So other contents of a header (another algorithm,
``kid``, ``crit``, ``jku``, ``jwk``) are never evaluated. Claims are one object in UTF-8, without duplicates and within
their bounds. Every claim is required; ``typ`` is the kind of a token, and one kind is never accepted for another.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from enum import Enum
from typing import Annotated

import jwt
import msgspec
from msgspec import Meta, Struct

from kontract.core import incoming, limits
from kontract.core.errors import InvalidRequestError, UnauthorizedError
from kontract.core.model.perms import ALL
from kontract.core.security.keys import KeyRing
from kontract.core.transaction.store import SYSTEM
from kontract.gateway.context import Session
from kontract.ports import Randomness

ISSUER = "kontract"
AUDIENCE = "kontract"
ALGORITHM = "HS256"
HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()


class Kind(Enum):
    """What a token is for."""

    ACCESS = "access"
    REFRESH = "refresh"
    STREAM = "stream"


class Claims(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The claims of a token.

    ``gen`` and ``account`` belong to refresh tokens: the number in the sequence, and the account. ``until`` belongs to
    stream tickets: when the token that they were made for expires.
    """

    iss: str
    aud: str
    sub: str
    owner: str
    ugroups: list[str]
    anon: bool
    sid: str
    iat: int
    exp: int
    jti: str
    typ: str
    perm: Annotated[int, Meta(ge=0, le=ALL)] = ALL
    gen: Annotated[int, Meta(ge=0)] = 0
    account: str = ""
    until: Annotated[int, Meta(ge=0)] = 0

    @property
    def session(self) -> Session:
        """Return the session of the token."""
        ends = self.until or self.exp
        return Session(self.sid, self.owner, self.sub, self.anon, frozenset(self.ugroups), self.perm, ends)


class _Valid(Struct, frozen=True):
    """A session, and the start and end of its access token's validity (ms since the Unix epoch)."""

    session: Session
    since: int
    until: int


class Tokens:
    """Makes and reads the tokens of a deployment."""

    def __init__(self, keys: KeyRing) -> None:
        """Sign with the current key; also accept tokens of the previous key."""
        self._keys = keys
        self._read: OrderedDict[bytes, Claims] = OrderedDict()
        self._sessions: OrderedDict[str, _Valid] = OrderedDict()

    def make(
        self,
        session: Session,
        kind: Kind,
        now: int,
        seconds: int,
        random: Randomness,
        gen: int = 0,
        account: str = "",
        until: int = 0,
    ) -> str:
        """Return a token of ``session`` that is valid for ``seconds`` from ``now`` (ms since the Unix epoch)."""
        claims = Claims(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=session.user,
            owner=session.owner,
            ugroups=sorted(session.ugroups),
            anon=session.is_anonymous,
            sid=session.sid,
            iat=now // 1000,
            exp=now // 1000 + seconds,
            jti=random.token(12).hex(),
            typ=kind.value,
            perm=session.perm,
            gen=gen,
            account=account,
            until=until,
        )
        return jwt.encode(msgspec.to_builtins(claims), self._keys.current.token, ALGORITHM, sort_headers=True)

    def session(self, header: str, now: int) -> Session:
        """Return the session of an ``Authorization`` header with an access token; raises UnauthorizedError.

        The header is verified once; then its text leads to the session, and its times are checked at every use. See
        ``liveness`` for whether the session has ended.
        """
        known = self._sessions.get(header)
        if known is None:
            known = self._sessions[header] = self._open(header, now)
            if len(self._sessions) > limits.TOKENS_REMEMBERED:
                self._sessions.popitem(last=False)
        elif not known.since <= now < known.until:
            raise invalid_token()
        return known.session

    def _open(self, header: str, now: int) -> _Valid:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise invalid_token()
        claims = self.read(token.strip(" "), Kind.ACCESS, now)
        return _Valid(claims.session, (claims.iat - limits.TOKEN_LEEWAY_SECONDS) * 1000, claims.exp * 1000)

    def read(self, token: str, kind: Kind, now: int) -> Claims:
        """Return the claims of a valid token of this kind; raises always the same UnauthorizedError for any other."""
        claims = self._claims(token)
        seconds = now // 1000
        if claims.typ != kind.value or claims.exp <= seconds or claims.iat > seconds + limits.TOKEN_LEEWAY_SECONDS:
            raise invalid_token()
        return claims

    def _claims(self, token: str) -> Claims:
        if len(token) > limits.TOKEN_BYTES:
            raise invalid_token()
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._read.get(digest)
        if known is None:
            # Verifying takes much of a short request; what was verified stays so, except for its times.
            known = self._read[digest] = self._verify(token)
            if len(self._read) > limits.TOKENS_REMEMBERED:
                self._read.popitem(last=False)
        return known

    def _verify(self, token: str) -> Claims:
        header, _, rest = token.partition(".")
        payload, _, signature = rest.partition(".")
        if header != HEADER or not _canonical(payload) or not _canonical(signature):
            raise invalid_token()
        for keys in self._keys:
            try:
                # The signature alone is PyJWT's: its reader of claims takes other encodings than UTF-8, and of two
                # claims of one name the last. Times are compared by read(), at every use.
                said = _SIGNATURES.decode(token, keys.token, algorithms=[ALGORITHM])
            except jwt.PyJWTError:
                continue
            claims = _decode(said)
            if claims is not None and claims.owner != SYSTEM and claims.owner and claims.sub and claims.sid:
                return claims
        raise invalid_token()


def _decode(payload: bytes) -> Claims | None:
    """Return the claims of a payload that we made; None for any other."""
    try:
        claims = _decode_claims(payload)
        incoming.check(payload)
    except (msgspec.DecodeError, InvalidRequestError, UnicodeDecodeError):
        return None
    good = claims.iss == ISSUER and claims.aud == AUDIENCE and 0 <= claims.iat <= claims.exp
    return claims if good else None


_SIGNATURES = jwt.PyJWS()

_decode_claims = msgspec.json.Decoder(Claims).decode


def _canonical(part: str) -> bool:
    """Return whether the text is canonical base64url: each value has only one spelling."""
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))).rstrip(b"=") == (
            part.encode()
        )
    except ValueError:
        return False


def invalid_token() -> UnauthorizedError:
    """Return the one error for all invalid tokens (RFC 6750, section 3.1)."""
    return UnauthorizedError("the token is not valid", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
