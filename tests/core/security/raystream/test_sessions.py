"""Client and server together: what is sealed by one is opened by the other, once, in time, and by nobody else."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontract.core import limits
from kontract.core.security import keys
from kontract.core.security.raystream import frames, schedule
from kontract.core.security.raystream.client import ClientHandshake, SealedSession
from kontract.core.security.raystream.frames import MAX_SEQUENCE, FrameType
from kontract.core.security.raystream.payloads import Reply, SealedCall
from kontract.core.security.raystream.server import HandshakeServer, Opened, Randoms
from kontract.core.security.raystream.suites import RaystreamError, Suite
from kontract.server.crypto import NativeCrypto

CRYPTO = NativeCrypto()
OLD, NEW = bytes(range(32)), bytes(range(32, 64))
NOW = 1_800_000_000_000
HOUR = 3_600_000
CALL = SealedCall("transfer", {"accept": "x"}, b'["a","b",1]', 0)
REPLY = Reply(200, {"x-kontract-txid": "7"}, b'{"result":1}')

each_suite = pytest.mark.parametrize("suite", Suite, ids=lambda suite: suite.name)


class Dice:
    """Random bytes that are never the same twice, and the same in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def take(self) -> bytes:
        return next(self._numbers).to_bytes(4, "big") * 8


DICE = Dice()


def server(secret: bytes = OLD, previous: bytes | None = None) -> HandshakeServer:
    return HandshakeServer(CRYPTO, keys.ring(secret, previous))


def session(
    at: HandshakeServer | None = None,
    *,
    suite: Suite = Suite.CHACHAPOLY,
    who: bytes = b"ann",
    expires: int = NOW + HOUR,
) -> SealedSession:
    at = at or server()
    handshake = ClientHandshake(CRYPTO, at.public_keys[0], DICE.take(), suite)
    greeting = at.begin(handshake.hello(b"token"))
    assert greeting.token == b"token"
    made = handshake.finish(greeting.grant(who, NOW, expires, Randoms(DICE.take(), DICE.take())))
    assert isinstance(made, SealedSession)
    return made


def refused(message: bytes, at: HandshakeServer | None = None, now: int = NOW) -> bool:
    try:
        (at or server()).open(message, now)
    except RaystreamError as error:
        return error.args == () and error.__cause__ is None
    return False


# --- what works -------------------------------------------------------------------------------------------------------


@each_suite
def test_a_call_and_its_reply(suite):
    """Any server that has the secret opens it, knows the caller, and is understood."""
    client = session(suite=suite)
    sealed = client.seal(CALL)
    opened = server().open(sealed.message, NOW)
    assert (opened.call, opened.principal, opened.sequence) == (CALL, b"ann", 1)
    assert opened.session_id == client.id
    assert client.open(sealed.sequence, opened.reply(REPLY, DICE.take())) == REPLY


@each_suite
def test_two_servers_may_answer_one_request(suite):
    """Each with a text of its own, and no key is used twice."""
    client = session(suite=suite)
    sealed = client.seal(CALL)
    one, two = (server().open(sealed.message, NOW) for _ in range(2))
    first, second = one.reply(REPLY, DICE.take()), two.reply(Reply(409, {}, b"{}"), DICE.take())
    assert client.open(1, first) == REPLY
    assert client.open(1, second).status == 409
    assert one.call_id == two.call_id


def test_requests_may_arrive_in_any_order():
    """The server remembers none, so nothing waits for the one before."""
    client = session()
    sealed = [client.seal(CALL) for _ in range(5)]
    assert [server().open(one.message, NOW).sequence for one in reversed(sealed)] == [5, 4, 3, 2, 1]


def test_a_token_that_is_not_accepted():
    """The client learns why; whoever looks on sees a handshake like any other."""
    at = server()
    handshake = ClientHandshake(CRYPTO, at.public_keys[0], DICE.take())
    answer = at.begin(handshake.hello(b"expired")).deny(Reply(401, {}, b'{"error":"UNAUTHORIZED"}'), DICE.take())
    assert b"UNAUTHORIZED" not in answer
    assert handshake.finish(answer) == Reply(401, {}, b'{"error":"UNAUTHORIZED"}')


def test_the_token_is_not_readable_on_the_way():
    """It travels under the server's static key."""
    handshake = ClientHandshake(CRYPTO, server().public_keys[0], DICE.take())
    hello = handshake.hello(b"token of ann")
    assert b"token" not in hello
    with pytest.raises(RaystreamError):
        server(NEW).begin(hello)


# --- keys and numbers -------------------------------------------------------------------------------------------------


def test_no_key_is_used_twice():
    """Over all requests, responses and sessions, every call to the cipher has a key of its own."""
    used = []

    class Watching(NativeCrypto):
        def seal(self, cipher, key, nonce, plaintext, associated):
            used.append((key, nonce))
            return super().seal(cipher, key, nonce, plaintext, associated)

    at = HandshakeServer(Watching(), keys.ring(OLD))
    for suite in Suite:
        handshake = ClientHandshake(Watching(), at.public_keys[0], DICE.take(), suite)
        greeting = at.begin(handshake.hello(b"t"))
        client = handshake.finish(greeting.grant(b"ann", NOW, NOW + HOUR, Randoms(DICE.take(), DICE.take())))
        for _ in range(3):
            sealed = client.seal(CALL)
            for _ in range(2):
                at.open(sealed.message, NOW).reply(REPLY, DICE.take())
    assert len(used) == 2 * (3 + 3 * 3)
    assert len(set(used)) == len(used)


def test_the_schedule_separates_everything():
    """Request, response, call and session id of neighbouring numbers have nothing in common."""
    secret, salt = b"s" * 32, b"t" * 32
    made = [schedule.session_id(secret)]
    for number in (1, 2, 256, MAX_SEQUENCE):
        made += [schedule.request_key(secret, number), schedule.response_key(secret, number, salt)]
        made += [schedule.response_key(secret, number, b"u" * 32), schedule.call_id(secret, number).encode()]
    assert len({value[:16] for value in made}) == len(made)


def test_numbers_end():
    """The last number is used, then a new handshake is needed: going round would use a key twice."""
    client = session()
    client._last = MAX_SEQUENCE - 1
    assert not client.exhausted
    assert server().open(client.seal(CALL).message, NOW).sequence == MAX_SEQUENCE
    assert client.exhausted
    with pytest.raises(RaystreamError):
        client.seal(CALL)


def test_a_call_that_cannot_be_sent_uses_no_number():
    """And no number is used twice."""
    client = session()
    with pytest.raises(ValueError, match="name of a function"):
        client.seal(SealedCall("../x", {}, b"", 0))
    assert [client.seal(CALL).sequence for _ in range(3)] == [1, 2, 3]


def test_call_ids_are_of_one_session_and_number():
    """Two sessions of one caller never meet in the coordinator; a copy of a request always does."""
    first, second = session(), session()
    ids = [server().open(client.seal(CALL).message, NOW).call_id for client in (first, second, first, second)]
    assert len(set(ids)) == 4
    assert all(len(one) == 44 and one.startswith("ray-") for one in ids)


# --- what is refused --------------------------------------------------------------------------------------------------


@each_suite
def test_every_flipped_byte_of_a_request_is_refused(suite):
    """Ticket, header, ciphertext and tag."""
    message = session(suite=suite).seal(CALL).message
    assert not refused(message)
    for position in range(len(message)):
        assert refused(message[:position] + bytes([message[position] ^ 1]) + message[position + 1 :]), position


def test_every_truncation_of_a_request_is_refused():
    """And bytes after its end."""
    message = session().seal(CALL).message
    for size in range(len(message)):
        assert refused(message[:size]), size
    assert refused(message + b"\0")


def test_every_flipped_byte_of_a_handshake_is_refused():
    """On both sides."""
    at = server()
    handshake = ClientHandshake(CRYPTO, at.public_keys[0], DICE.take())
    hello = handshake.hello(b"token")
    randoms = Randoms(DICE.take(), DICE.take())
    welcome = at.begin(hello).grant(b"ann", NOW, NOW + HOUR, randoms)
    for position in range(len(hello)):
        with pytest.raises(RaystreamError):
            at.begin(hello[:position] + bytes([hello[position] ^ 1]) + hello[position + 1 :])
    for position in range(len(welcome)):
        again = ClientHandshake(CRYPTO, at.public_keys[0], b"\x01" * 32)
        answer = at.begin(again.hello(b"token")).grant(b"ann", NOW, NOW + HOUR, randoms)
        with pytest.raises(RaystreamError):
            again.finish(answer[:position] + bytes([answer[position] ^ 1]) + answer[position + 1 :])


def test_every_flipped_byte_of_a_response_is_refused():
    """Salt, header, ciphertext and tag; and every truncation."""
    client = session()
    opened = server().open(client.seal(CALL).message, NOW)
    response = opened.reply(REPLY, DICE.take())
    for position in range(len(response)):
        with pytest.raises(RaystreamError):
            client.open(1, response[:position] + bytes([response[position] ^ 1]) + response[position + 1 :])
        with pytest.raises(RaystreamError):
            client.open(1, response[:position])


def test_a_response_to_another_request_is_refused():
    """Even with its number written over: the number is in the key."""
    client = session()
    first, second = client.seal(CALL), client.seal(CALL)
    response = server().open(first.message, NOW).reply(REPLY, DICE.take())
    with pytest.raises(RaystreamError):
        client.open(second.sequence, response)
    moved = frames.header(FrameType.RESPONSE, 2, len(response) - 16) + response[16:]
    with pytest.raises(RaystreamError):
        client.open(2, moved)


def test_a_request_under_another_number_is_refused():
    """Otherwise one recorded write would be many."""
    ticket, frame = frames.detach_ticket(session().seal(CALL).message)
    moved = frames.header(FrameType.REQUEST, 2, len(frame) - 16) + frame[16:]
    assert refused(frames.attach_ticket(ticket, moved))


def test_a_request_with_another_ticket_is_refused():
    """Of another session, of another tenant: the keys are others."""
    mine, theirs = session(who=b"ann"), session(who=b"eve")
    _, frame = frames.detach_ticket(mine.seal(CALL).message)
    ticket, _ = frames.detach_ticket(theirs.seal(CALL).message)
    assert refused(frames.attach_ticket(ticket, frame))


def test_a_message_in_another_place_is_refused():
    """Every message of a session, sent to every place that takes one."""
    at = server()
    handshake = ClientHandshake(CRYPTO, at.public_keys[0], DICE.take())
    hello = handshake.hello(b"token")
    welcome = at.begin(hello).grant(b"ann", NOW, NOW + HOUR, Randoms(DICE.take(), DICE.take()))
    client = handshake.finish(welcome)
    request = client.seal(CALL).message
    ticket, frame = frames.detach_ticket(request)
    response = at.open(request, NOW).reply(REPLY, DICE.take())
    every = [hello, welcome, request, frame, ticket, response, frames.attach_ticket(ticket, response)]
    for message in every:
        if message is not hello:
            with pytest.raises(RaystreamError):
                at.begin(message)
        if message is not request:
            assert refused(message)
        if message is not response:
            with pytest.raises(RaystreamError):
                client.open(1, message)
        if message is not welcome:
            again = ClientHandshake(CRYPTO, at.public_keys[0], DICE.take())
            again.hello(b"token")
            with pytest.raises(RaystreamError):
                again.finish(message)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "later", "is_refused"),
    [
        (0, 0, False),
        (0, limits.RAYSTREAM_FRESH_MS, False),
        (0, limits.RAYSTREAM_FRESH_MS + 1, True),
        (limits.RAYSTREAM_FRESH_MS, 0, False),
        (limits.RAYSTREAM_FRESH_MS + 1, 0, True),
        (1_800_000, 1_800_000, False),
        (1_800_000, 1_800_001 + limits.RAYSTREAM_FRESH_MS, True),
        (2**32 - 1, 0, True),
        (HOUR - 1, HOUR - 1, False),
        (HOUR, HOUR, True),
    ],
)
def test_a_request_is_good_for_a_short_time(elapsed, later, is_refused):
    """A recorded request that failed must not succeed when somebody sends it again later."""
    message = session().seal(SealedCall("transfer", {}, b"[]", elapsed)).message
    assert refused(message, now=NOW + later) is is_refused


@pytest.mark.parametrize(("expires", "lifetime"), [(NOW + 5_000, 5_000), (NOW + HOUR, HOUR), (NOW + 30 * HOUR, HOUR)])
def test_a_ticket_ends_with_the_token_and_after_an_hour(expires, lifetime):
    """Whichever is first; the client is told."""
    client = session(expires=expires)
    assert client.lifetime == lifetime
    for elapsed, is_refused in [(lifetime - 1, False), (lifetime, True)]:
        message = client.seal(SealedCall("transfer", {}, b"[]", elapsed)).message
        assert refused(message, now=NOW + elapsed) is is_refused


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_the_secret_is_rotated_under_running_sessions():
    """Clients that pin the old key and sessions that were made with it go on while it is the previous one."""
    before, during, after = server(OLD), server(NEW, OLD), server(NEW)
    assert during.public_keys == [after.public_keys[0], before.public_keys[0]]
    client = session(before)
    for at, is_refused in [(before, False), (during, False), (after, True)]:
        assert refused(client.seal(CALL).message, at) is is_refused
    pinned = ClientHandshake(CRYPTO, before.public_keys[0], DICE.take())
    hello = pinned.hello(b"token")
    made = pinned.finish(during.begin(hello).grant(b"ann", NOW, NOW + HOUR, Randoms(DICE.take(), DICE.take())))
    assert not refused(made.seal(CALL).message, after), "its ticket is made with the new secret"
    with pytest.raises(RaystreamError):
        after.begin(hello)


# --- limits and hostile bytes -----------------------------------------------------------------------------------------


def test_tokens_of_the_largest_size():
    """At the limit and one byte above it."""
    at = server()
    most = b"t" * limits.TOKEN_BYTES
    assert at.begin(ClientHandshake(CRYPTO, at.public_keys[0], DICE.take()).hello(most)).token == most
    with pytest.raises(RaystreamError):
        at.begin(ClientHandshake(CRYPTO, at.public_keys[0], DICE.take()).hello(most + b"t"))


def test_a_principal_that_makes_the_ticket_too_large():
    """Said by the server that makes it, not by every request after it."""
    with pytest.raises(ValueError, match="bytes"):
        session(who=b"w" * limits.RAYSTREAM_TICKET_BYTES)


CLIENT = session()
REQUEST = CLIENT.seal(CALL).message
FIXED: Opened = server().open(REQUEST, NOW)
SERVER = server()


@given(st.binary(max_size=400), st.integers(0, 2**53))
def test_anything_may_arrive(message, now):
    """Server and client know one error, whatever the bytes: also behind a good ticket or a good header."""
    ticket, _ = frames.detach_ticket(REQUEST)
    for hostile in (
        message,
        frames.attach_ticket(ticket, message),
        frames.attach_ticket(ticket, frames.header(FrameType.REQUEST, 1, len(message)) + message),
    ):
        assert refused(hostile, SERVER, now)
    for hostile in (message, frames.header(FrameType.HELLO, 0, len(message) + 1) + b"\x01" + message):
        with pytest.raises(RaystreamError):
            SERVER.begin(hostile)
    for hostile in (message, frames.header(FrameType.RESPONSE, 1, len(message)) + message):
        with pytest.raises(RaystreamError):
            CLIENT.open(1, hostile)
    handshake = ClientHandshake(CRYPTO, SERVER.public_keys[0], b"\x05" * 32)
    handshake.hello(b"token")
    with pytest.raises(RaystreamError):
        handshake.finish(frames.header(FrameType.WELCOME, 0, len(message)) + message)


@given(st.binary(max_size=200))
def test_a_client_may_seal_anything(plaintext):
    """What a client with a good session sends is a call or is refused: no parser fails behind the cipher either."""
    key = schedule.request_key(CLIENT._secret, 9)
    header = frames.header(FrameType.REQUEST, 9, len(plaintext) + 16)
    sealed = CRYPTO.seal(Suite.CHACHAPOLY.cipher, key, schedule.NONCE, plaintext, header)
    message = frames.attach_ticket(CLIENT._ticket, header + sealed)
    with contextlib.suppress(RaystreamError):
        SERVER.open(message, NOW)
