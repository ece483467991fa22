"""Session tokens: one that was made here and is valid now opens the door, everything else meets the same answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kontract.core import limits
from kontract.core.errors import UnauthorizedError
from kontract.core.security import keys
from kontract.gateway.app import Gateway
from kontract.gateway.context import Session
from kontract.gateway.http import Request, Response
from kontract.gateway.routes import Registry
from kontract.gateway.tokens import HEADER, Kind, Tokens
from kontract.server.runtime import SingleProcess
from kontract.server.system import SystemRandomness

NOW = 1_800_000_000_000
SECONDS = NOW // 1000
SECRET, PREVIOUS, FORGOTTEN = (hashlib.sha256(bytes([n])).digest() for n in (1, 2, 3))
RING = keys.ring(SECRET, PREVIOUS)
ANN = Session("sid-1", "tenant-1", "ann", is_anonymous=False, ugroups=frozenset({"b", "a"}), perm=6)

CLAIMS = {
    "iss": "kontract",
    "aud": "kontract",
    "sub": "ann",
    "owner": "tenant-1",
    "ugroups": ["a", "b"],
    "anon": False,
    "sid": "sid-1",
    "iat": SECONDS,
    "exp": SECONDS + 3600,
    "jti": "0011",
    "typ": "access",
    "perm": 6,
}


class Clock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        return self.time

    def elapsed(self) -> float:
        return float(self.time)


class Door:
    """A gateway without functions: whoever gets in is told so with 404."""

    def __init__(self, ring_of: tuple[bytes, bytes | None] = (SECRET, PREVIOUS)) -> None:
        environment = {"KONTRACT_SECRET": ring_of[0].hex()}
        if ring_of[1] is not None:
            environment["KONTRACT_SECRET_PREVIOUS"] = ring_of[1].hex()
        self.platform = SingleProcess(lambda: pytest.fail("a token is read without a database"), environment)
        self.platform.clock = self.clock = Clock()
        self.log: list[dict] = []
        self.platform.log = lambda level, event, **fields: self.log.append({"event": event, **fields})
        self.gateway = Gateway(Registry({}, {}))

    async def knock(self, authorization: str | None, path: str = "/rpc/f") -> Response:
        async def body(_: int) -> bytes:
            return b"[]"

        headers = {} if authorization is None else {"authorization": authorization}
        return await self.gateway.handle(Request("POST", path, headers, body), self.platform)

    async def lets_in(self, token: str) -> bool:
        return (await self.knock(f"Bearer {token}")).status == 404


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(RING)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(head: str, payload: str, key: bytes = RING.current.token, digest: str = "sha256") -> str:
    return f"{head}.{payload}.{b64(hmac.digest(key, f'{head}.{payload}'.encode(), digest))}"


def forge(claims: object = None, head: bytes = b'{"alg":"HS256","typ":"JWT"}', **changes: object) -> str:
    """A token that is signed with the right key, whatever it says; a change to None leaves a claim out."""
    said = claims if claims is not None else {n: v for n, v in (CLAIMS | changes).items() if v is not None}
    payload = said if isinstance(said, bytes) else json.dumps(said, separators=(",", ":")).encode()
    return sign(b64(head), b64(payload))


GOOD = forge()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(".")


def generic(response: Response) -> bytes:
    """The whole body without the request's id, after what must be the same of all refusals has been checked."""
    body = json.loads(response.body)
    assert body.pop("request_id") == response.headers["X-Request-Id"]
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    return json.dumps(body).encode()


REFUSAL = json.dumps({"error": "UNAUTHORIZED", "message": "the token is not valid"}).encode()


# --- what is accepted ------------------------------------------------------------------------------------------------


async def test_the_forger_can_make_what_is_accepted(door):
    """Otherwise the refusals below would prove nothing."""
    assert await door.lets_in(GOOD)
    assert await door.lets_in(Tokens(RING).make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness()))


def test_a_token_says_what_its_session_is(tokens):
    """Nothing is lost on the way, for both kinds."""
    made = tokens.make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())
    assert made.split(".")[0] == HEADER == b64(b'{"alg":"HS256","typ":"JWT"}')
    read = tokens.read(made, Kind.ACCESS, NOW)
    assert read.session == Session("sid-1", "tenant-1", "ann", False, frozenset({"a", "b"}), 6, SECONDS + 60)
    assert len(bytes.fromhex(read.jti)) == 12
    refresh = tokens.make(ANN, Kind.REFRESH, NOW, 60, SystemRandomness(), gen=3, account="ann@example.com")
    assert (tokens.read(refresh, Kind.REFRESH, NOW).gen, tokens.read(refresh, Kind.REFRESH, NOW).account) == (
        3,
        "ann@example.com",
    )


@pytest.mark.parametrize(
    ("signed_with", "accepted"),
    [((SECRET, None), True), ((PREVIOUS, None), True), ((FORGOTTEN, None), False), ((FORGOTTEN, SECRET), False)],
)
async def test_the_secret_and_the_one_before_it(door, signed_with, accepted):
    """Rotation: tokens of the previous secret go on until they expire; those of the one before that are over."""
    made = Tokens(keys.ring(*signed_with)).make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())
    assert await door.lets_in(made) is accepted


async def test_new_tokens_are_made_with_the_current_secret(door):
    """After the rotation is over, those that were made during it are still good."""
    made = Tokens(RING).make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())
    assert await Door((SECRET, None)).lets_in(made)
    assert not await Door((PREVIOUS, None)).lets_in(made)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {GOOD}", 404),
        (f"bearer {GOOD}", 404),
        (f"BEARER   {GOOD}  ", 404),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (GOOD, 401),
        (f"Basic {GOOD}", 401),
        (f"Basic {base64.b64encode(b'ann:secret').decode()}", 401),
        (f"Token {GOOD}", 401),
        (f"Bearer\t{GOOD}", 401),
        (f"Bearer {GOOD}, Bearer {GOOD}", 401),  # how a runtime joins two headers of one name
        (f"Bearer {GOOD},{GOOD}", 401),
        (f"Bearer {GOOD} {GOOD}", 401),
        (f"Bearer Bearer {GOOD}", 401),
        (f'Bearer "{GOOD}"', 401),
        (f"Bearer {GOOD}\x00", 400),  # no text of a header
        (f"Bearer {GOOD}\n", 400),
        (f"Bearer {GOOD}é", 400),
        (f"Bearer {GOOD}\ud800", 400),
    ],
)
async def test_the_header(door, authorization, status):
    """One scheme, one token, spaces between them."""
    response = await door.knock(authorization)
    assert response.status == status
    if status == 401 and authorization is not None:
        assert generic(response) == REFUSAL


async def test_without_a_token_one_is_asked_for(door):
    """In words of its own: whoever forgot the header learns how to get a token."""
    response = await door.knock(None)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "POST /auth/anonymous returns one" in json.loads(response.body)["message"]


# --- attacks ---------------------------------------------------------------------------------------------------------

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
OTHER_HEADERS = [
    '{"alg":"none","typ":"JWT"}',
    '{"alg":"None","typ":"JWT"}',
    '{"alg":"HS512","typ":"JWT"}',
    '{"alg":"hs256","typ":"JWT"}',
    '{"alg":"RS256","typ":"JWT"}',
    '{"alg":"","typ":"JWT"}',
    '{"alg":null,"typ":"JWT"}',
    '{"alg":["HS256"],"typ":"JWT"}',
    '{"typ":"JWT"}',
    '{"alg":"HS256"}',
    '{"alg":"HS256","typ":"jwt"}',
    '{"alg":"HS256","typ":"at+jwt"}',
    '{"typ":"JWT","alg":"HS256"}',
    '{"alg": "HS256","typ":"JWT"}',
    ' {"alg":"HS256","typ":"JWT"}',
    '{"alg":"HS256","typ":"JWT"}\n',
    '{"alg":"HS256","typ":"JWT","alg":"none"}',
    '{"alg":"none","alg":"HS256","typ":"JWT"}',
    '{"alg":"HS256","typ":"JWT","kid":"../../dev/null"}',
    '{"alg":"HS256","typ":"JWT","kid":"1"}',
    '{"alg":"HS256","typ":"JWT","crit":["exp"]}',
    '{"alg":"HS256","typ":"JWT","crit":[]}',
    '{"alg":"HS256","typ":"JWT","jku":"http://127.0.0.1:1/keys"}',
    '{"alg":"HS256","typ":"JWT","x5u":"http://127.0.0.1:1/keys"}',
    '{"alg":"HS256","typ":"JWT","jwk":{"kty":"oct","k":"AAAA"}}',
    '{"alg":"HS256","typ":"JWT","cty":"JWT"}',
    '{"alg":"HS256","typ":"JWT","b64":false,"crit":["b64"]}',
    '{"alg":"HS256","typ":"JWT","zip":"DEF"}',
    "{}",
    "[]",
    "null",
    "not json",
    "",
]


def other_headers() -> dict[str, str]:
    """Each header that asks for something else, signed with the right key all the same."""
    made = {f"header {head}": sign(b64(head.encode()), PAYLOAD) for head in OTHER_HEADERS}
    return made | {f"unsigned {head}": f"{b64(head.encode())}.{PAYLOAD}." for head in OTHER_HEADERS[:2]}


def confusions() -> dict[str, str]:
    """Another algorithm with a key that is known, and a key that is not ours."""
    rs256 = b64(b'{"alg":"RS256","typ":"JWT"}')
    return {
        "no signature": f"{HEAD}.{PAYLOAD}.",
        "HS512 as HS256": sign(HEAD, PAYLOAD, digest="sha512"),
        "really RS256": jwt.encode(CLAIMS, RSA, "RS256"),
        "really HS512": sign(b64(b'{"alg":"HS512","typ":"JWT"}'), PAYLOAD, digest="sha512"),
        "the public key as secret": sign(HEAD, PAYLOAD, PUBLIC_PEM),
        "the public key as secret, RS256": sign(rs256, PAYLOAD, PUBLIC_PEM),
        "an empty key": sign(HEAD, PAYLOAD, b""),
        "the secret itself": sign(HEAD, PAYLOAD, SECRET),
        "the secret as it is written": sign(HEAD, PAYLOAD, SECRET.hex().encode()),
        "the key of tickets": sign(HEAD, PAYLOAD, RING.current.raystream_ticket),
        "the id that is public": sign(HEAD, PAYLOAD, RING.current.id),
        "the signature of nothing": f"{HEAD}.{PAYLOAD}.{b64(hmac.digest(RING.current.token, b'', 'sha256'))}",
        "the hash alone": f"{HEAD}.{PAYLOAD}.{b64(hashlib.sha256(f'{HEAD}.{PAYLOAD}'.encode()).digest())}",
        "half a signature": f"{HEAD}.{PAYLOAD}.{SIGNATURE[:21]}",
        "two signatures": f"{GOOD}.{SIGNATURE}",
        "two segments": f"{HEAD}.{PAYLOAD}",
        "another payload": f"{HEAD}.{b64(json.dumps(CLAIMS | {'sub': 'eve'}).encode())}.{SIGNATURE}",
    }


def twice(name: str, value: str) -> bytes:
    """The claims, with one more in front."""
    return f'{{"{name}":{value},{json.dumps(CLAIMS)[1:]}'.encode()


def other_claims() -> dict[str, str]:
    """What is signed with the right key and must not be taken for an access token of now."""
    missing = {f"without {name}": forge(**{name: None}) for name in CLAIMS if name != "perm"}
    changed = {
        "expired": {"iat": SECONDS - 10, "exp": SECONDS},
        "expired long ago": {"iat": 1, "exp": 2},
        "from the future": {"iat": SECONDS + limits.TOKEN_LEEWAY_SECONDS + 1},
        "another audience": {"aud": "other"},
        "several audiences": {"aud": ["kontract", "other"]},
        "an audience in a list": {"aud": ["kontract"]},
        "another issuer": {"iss": "https://example.com"},
        "a list of issuers": {"iss": ["kontract"]},
        "a refresh token": {"typ": "refresh", "gen": 0},
        "another kind": {"typ": "ACCESS"},
        "no kind": {"typ": ""},
        "the gateway's own tables": {"owner": "__system"},
        "no owner": {"owner": ""},
        "no user": {"sub": ""},
        "no session": {"sid": ""},
        "a number for a user": {"sub": 5},
        "a list for an owner": {"owner": ["tenant-1"]},
        "a text for groups": {"ugroups": "admin"},
        "numbers for groups": {"ugroups": [1]},
        "a number for anon": {"anon": 0},
        "a text for anon": {"anon": "false"},
        "a text for exp": {"exp": str(SECONDS + 60)},
        "half a second": {"exp": SECONDS + 60.5},
        "infinity": {"exp": float("inf")},
        "not a number": {"exp": float("nan")},
        "true for exp": {"exp": True},
        "a text for iat": {"iat": str(SECONDS)},
        "a text for perm": {"perm": "7"},
        "more permissions than there are": {"perm": 8},
        "all bits for perm": {"perm": -1},
        "a large perm": {"perm": 2**53},
        "a refresh token of before the first": {"gen": -1},
        "a ticket for a token that never was": {"until": -1},
        "over before it began": {"iat": SECONDS + 30, "exp": SECONDS + 20},
        "before there was time": {"iat": -1},
        "a number for jti": {"jti": 5},
        "one claim more": {"admin": True},
        "a claim of another standard": {"nbf": SECONDS - 1},
    }
    whole = {
        "no claims": {},
        "a list": [CLAIMS],
        "a text": "ann",
        "null": b"null",
        "nothing": b"",
        "not JSON": b"{",
        "not UTF-8": b'{"sub":"\xff"}',
        "deep": b"[" * 1000 + b"]" * 1000,
        "a number of many digits": b'{"exp":' + b"9" * 2000 + b"}",
        "UTF-16": json.dumps(CLAIMS).encode("utf-16"),
        "UTF-16, little end first": json.dumps(CLAIMS).encode("utf-16-le"),
        "UTF-32": json.dumps(CLAIMS).encode("utf-32-be"),
        "with a mark of its encoding": json.dumps(CLAIMS).encode("utf-8-sig"),
        "a claim twice": twice("sub", '"eve"'),
        "a claim twice, the same": twice("owner", '"tenant-1"'),
        "a claim twice, once escaped": twice("\\u006fwner", '"tenant-2"'),
        "an optional claim twice": twice("perm", "7"),
        "a claim after its end": json.dumps(CLAIMS).encode() + b'{"sub":"eve"}',
    }
    return (
        missing
        | {name: forge(**changes) for name, changes in changed.items()}
        | {name: forge(claims) for name, claims in whole.items()}
    )


def other_spellings() -> dict[str, str]:
    """The same bytes, spelt in another way: they would be other tokens for whoever keeps a list of them."""
    payload = next(text for n in range(3) if len(text := b64(json.dumps(CLAIMS | {"jti": "x" * n}).encode())) % 4)
    good = sign(HEAD, payload)
    signature = good.split(".")[2]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def bits(part: str) -> str:
        return part[:-1] + alphabet[alphabet.index(part[-1]) ^ 1]

    assert base64.urlsafe_b64decode(bits(signature) + "=") == base64.urlsafe_b64decode(signature + "=")
    made = {
        "bits behind the signature": f"{HEAD}.{payload}.{bits(signature)}",
        "bits behind the payload": sign(HEAD, bits(payload)),
        "padding of the signature": f"{good}=",
        "padding of the payload": sign(HEAD, payload + "=" * (-len(payload) % 4)),
        "padding of the header": sign(HEAD + "==", payload),
        "too much padding": f"{good}====",
        "a line break within": sign(HEAD, payload[:8] + "\n" + payload[8:]),
        "a space within": sign(HEAD, payload[:8] + " " + payload[8:]),
        "an unknown sign within": sign(HEAD, payload[:8] + "!" + payload[8:]),
        "a dot within the signature": f"{HEAD}.{payload}.{signature[:8]}.{signature[8:]}",
        "a dot before": f".{good}",
        "letters that look the same": good.replace("a", "\u0430"),
        "wide letters": "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in good),
    }
    # The alphabet of other base64: found in a signature that has both signs.
    n, text = 0, ""
    while "-" not in text or "_" not in text:
        n += 1
        text = forge(jti=str(n)).split(".")[2]
    with_signs = forge(jti=str(n))
    head, body, _ = with_signs.split(".")
    return made | {
        "plus and slash": f"{head}.{body}.{text.replace('-', '+').replace('_', '/')}",
        "plus": f"{head}.{body}.{text.replace('-', '+')}",
    }


ATTACKS = other_headers() | confusions() | other_claims() | other_spellings()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[:60])
async def test_attacks_meet_one_answer(door, attack):
    """Nobody learns from it how far a forged token got."""
    response = await door.knock(f"Bearer {ATTACKS[attack]}")
    if not re.fullmatch(r"[\x20-\x7e]*", ATTACKS[attack]):  # no text of a header, whatever it says
        assert response.status == 400
        return
    assert generic(response) == REFUSAL
    assert door.log[-1]["reason"] == "the token is not valid"
    assert "exception" not in door.log[-1]
    assert (await door.knock(f"Bearer {ATTACKS[attack]}")).status == 401, "also when it is asked again"


async def test_every_character_counts(door):
    """Each one of all three segments, changed to its neighbour and left out."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    for position, letter in enumerate(GOOD):
        other = alphabet[(alphabet.index(letter) + 1) % len(alphabet)]
        for changed in (GOOD[:position] + other + GOOD[position + 1 :], GOOD[:position] + GOOD[position + 1 :]):
            assert generic(await door.knock(f"Bearer {changed}")) == REFUSAL, (position, changed)
    for length in range(len(GOOD)):
        assert (await door.knock(f"Bearer {GOOD[:length]}")).status == 401


@pytest.mark.parametrize("kind", Kind)
def test_one_kind_is_never_taken_for_another(tokens, kind):
    """A refresh token does not call functions, an access token gets no new ones, a ticket opens streams alone."""
    made = tokens.make(ANN, kind, NOW, 60, SystemRandomness())
    for _ in range(2):
        for other in Kind:
            if other is kind:
                tokens.read(made, other, NOW)  # and from then on it is remembered as what it is
                continue
            with pytest.raises(UnauthorizedError, match="the token is not valid"):
                tokens.read(made, other, NOW)


def sized(length: int) -> str:
    """A good token of this many characters, or one more where base64 has no text of that length."""
    filler = (length - len(GOOD)) * 3 // 4 - 4
    while len(made := forge(sub="x" * filler)) < length:
        filler += 1
    return made


async def test_the_longest_token(door):
    """At the limit it is read; above, it is refused unread."""
    lengths = {len(made): made for n in range(-4, 5) if (made := sized(limits.TOKEN_BYTES + n))}
    assert limits.TOKEN_BYTES in lengths
    for length, made in lengths.items():
        assert await door.lets_in(made) is (length <= limits.TOKEN_BYTES)
    assert generic(await door.knock(f"Bearer {lengths[max(lengths)]}")) == REFUSAL
    assert generic(await door.knock(f"Bearer {'x' * 1_000_000}")) == REFUSAL


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "accepted"),
    [
        (NOW - 1000 * limits.TOKEN_LEEWAY_SECONDS - 1, False),
        (NOW - 1000 * limits.TOKEN_LEEWAY_SECONDS, True),
        (NOW, True),
        (NOW + 59_999, True),
        (NOW + 60_000, False),
    ],
)
async def test_from_when_to_when(door, at, accepted):
    """To the millisecond; a clock that is a little behind does not refuse what was made a moment ago."""
    made = Tokens(RING).make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())
    door.clock.time = at
    assert await door.lets_in(made) is accepted


async def test_what_was_verified_once_still_expires(door):
    """The memory of verified tokens knows that they were genuine, not that they are valid."""
    made = Tokens(RING).make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())
    assert await door.lets_in(made)
    door.clock.time = NOW + 60_000
    assert not await door.lets_in(made)
    door.clock.time = NOW + 59_000
    assert await door.lets_in(made)
    door.clock.time = NOW - 3_600_000
    assert not await door.lets_in(made), "nor was it valid before"


def test_a_remembered_session_ends_with_its_token():
    """To the millisecond, as a token that is read for the first time does."""
    tokens = Tokens(RING)
    header = f"Bearer {tokens.make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())}"
    begin, end = (NOW // 1000 - limits.TOKEN_LEEWAY_SECONDS) * 1000, (NOW // 1000 + 60) * 1000
    for now, valid in ((NOW, True), (end - 1, True), (end, False), (begin, True), (begin - 1, False)):
        for one in (tokens, Tokens(RING)):  # the first remembers, the second reads
            if valid:
                assert one.session(header, now).user == "ann"
            else:
                with pytest.raises(UnauthorizedError):
                    one.session(header, now)


def test_a_remembered_session_ends_with_the_secret_that_signed_it():
    """A process with another secret remembers nothing: what was verified by the old one is verified again."""
    old, new = bytes(range(32)), bytes(range(32, 64))
    header = f"Bearer {Tokens(keys.ring(old)).make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())}"
    assert Tokens(keys.ring(old)).session(header, NOW).user == "ann"
    assert Tokens(keys.ring(new, old)).session(header, NOW).user == "ann", "both hold while the secret is rotated"
    with pytest.raises(UnauthorizedError):
        Tokens(keys.ring(new)).session(header, NOW)


def test_headers_that_are_remembered_are_bounded_and_only_good_ones(monkeypatch):
    monkeypatch.setattr(limits, "TOKENS_REMEMBERED", 5)
    tokens = Tokens(RING)
    made = [f"Bearer {tokens.make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness())}" for _ in range(7)]
    refresh = tokens.make(ANN, Kind.REFRESH, NOW, 60, SystemRandomness())
    for header in made:
        assert tokens.session(header, NOW).user == "ann"
        for bad in (forged(header), f"Basic {header}", header.removeprefix("Bearer "), f"Bearer {refresh}"):
            with pytest.raises(UnauthorizedError):
                tokens.session(bad, NOW)
    assert list(tokens._sessions) == made[2:]


def forged(token: str) -> str:
    """With another signature; the last characters would not do, of which some bits do not count."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def test_what_is_remembered_is_bounded_and_only_what_is_genuine(monkeypatch):
    """The oldest is forgotten; forged ones leave nothing behind."""
    monkeypatch.setattr(limits, "TOKENS_REMEMBERED", 5)
    tokens = Tokens(RING)
    made = [tokens.make(ANN, Kind.ACCESS, NOW, 60, SystemRandomness()) for _ in range(7)]
    for token in made:
        tokens.read(token, Kind.ACCESS, NOW)
        with pytest.raises(UnauthorizedError):
            tokens.read(forged(token), Kind.ACCESS, NOW)
    assert len(tokens._read) == 5
    digests = [hashlib.sha256(token.encode()).digest() for token in made]
    assert list(tokens._read) == digests[2:]
    assert tokens.read(made[0], Kind.ACCESS, NOW).sub == "ann"


async def test_no_token_is_ever_logged(door):
    """Neither a good one nor one that was refused, whole or in part."""
    for text in (GOOD, forge(sub=""), sign(HEAD, PAYLOAD, b"x")):
        await door.knock(f"Bearer {text}")
    written = json.dumps(door.log)
    for secret in (PAYLOAD, SIGNATURE, SECRET.hex(), RING.current.token.hex()):
        assert secret not in written
