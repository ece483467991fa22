"""Noise_NK as everybody else speaks it: published vectors, and everything that must be refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import support
from kontract.core.security.raystream.noise import MAX_MESSAGE, CipherState, Initiator, Responder
from kontract.core.security.raystream.suites import RaystreamError, Suite
from kontract.ports import Cipher
from kontract.server.crypto import NativeCrypto
from support.noise_nk import play, sides, wanted

VECTORS = json.loads((Path(support.__file__).parent / "noise_nk.json").read_text())["vectors"]
CRYPTO = NativeCrypto()
STATIC, EPHEMERAL, ANSWER = (bytes([n]) * 32 for n in (1, 2, 3))
PUBLIC = CRYPTO.x25519_public(STATIC)

each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['source']}-{v['protocol_name']}")
each_suite = pytest.mark.parametrize("suite", Suite, ids=lambda suite: suite.name)


def test_there_are_vectors_of_two_implementations_for_each_suite():
    """An empty file would pass for ever."""
    found = {(vector["source"], vector["protocol_name"]) for vector in VECTORS}
    assert found == {(source, suite.protocol) for source in ("cacophony", "snow") for suite in Suite}


@each_vector
def test_published_vectors(vector):
    """Both sides of the handshake and the transport messages after it, byte for byte."""
    played = play(CRYPTO, vector)
    if "handshake_hash" not in vector:
        played["handshake_hash"] = ""
    assert played == wanted(vector)


@each_vector
def test_every_flipped_byte_is_refused(vector):
    """Nothing in either message is unauthenticated, the ephemeral keys included."""
    first, second = (bytes.fromhex(message["ciphertext"]) for message in vector["messages"][:2])
    for position in range(len(first)):
        _, responder = sides(CRYPTO, vector)
        with pytest.raises(RaystreamError):
            responder.read(flipped(first, position))
    for position in range(len(second)):
        initiator, _ = sides(CRYPTO, vector)
        initiator.write(bytes.fromhex(vector["messages"][0]["payload"]))
        with pytest.raises(RaystreamError):
            initiator.read(flipped(second, position))


def flipped(message: bytes, position: int) -> bytes:
    # The highest bit of an X25519 key is ignored (RFC 7748, section 5), but the transcript's hash has it.
    return message[:position] + bytes([message[position] ^ 0x80]) + message[position + 1 :]


@each_vector
def test_every_truncation_is_refused(vector):
    """Down to nothing."""
    first = bytes.fromhex(vector["messages"][0]["ciphertext"])
    for size in range(len(first)):
        _, responder = sides(CRYPTO, vector)
        with pytest.raises(RaystreamError):
            responder.read(first[:size])


@each_suite
def test_a_transcript_of_another_protocol_is_refused(suite):
    """Prologue, suite and key are part of what both sides must agree on."""
    other = next(one for one in Suite if one is not suite)
    message = Initiator(CRYPTO, suite, b"p", PUBLIC, EPHEMERAL).write(b"hello")
    assert Responder(CRYPTO, suite, b"p", STATIC, PUBLIC).read(message) == b"hello"
    for responder in (
        Responder(CRYPTO, suite, b"q", STATIC, PUBLIC),
        Responder(CRYPTO, other, b"p", STATIC, PUBLIC),
        Responder(CRYPTO, suite, b"p", ANSWER, CRYPTO.x25519_public(ANSWER)),
    ):
        with pytest.raises(RaystreamError):
            responder.read(message)


@each_suite
def test_an_answer_to_another_message_is_refused(suite):
    """A recorded answer fits the handshake that it was made for."""
    initiator = Initiator(CRYPTO, suite, b"p", PUBLIC, EPHEMERAL)
    message = initiator.write(b"one")
    responder = Responder(CRYPTO, suite, b"p", STATIC, PUBLIC)
    responder.read(message)
    responder.agree(ANSWER)
    answer = responder.write(b"answer")
    other = Initiator(CRYPTO, suite, b"p", PUBLIC, EPHEMERAL)
    other.write(b"two")
    with pytest.raises(RaystreamError):
        other.read(answer)
    assert initiator.read(answer) == b"answer"


@each_suite
@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
def test_keys_of_small_order_are_refused(suite, public):
    """With one of them the shared secret would be known to everybody."""
    with pytest.raises(RaystreamError):
        Initiator(CRYPTO, suite, b"", public, EPHEMERAL).write(b"token")
    with pytest.raises(RaystreamError):
        Responder(CRYPTO, suite, b"", STATIC, PUBLIC).read(public + bytes(16))


@each_suite
def test_messages_longer_than_noise_allows(suite):
    """65,535 bytes, and not one more."""
    sizes = {MAX_MESSAGE: False, MAX_MESSAGE + 1: True}
    for size, refused in sizes.items():
        message = Initiator(CRYPTO, suite, b"", PUBLIC, EPHEMERAL).write(bytes(size - 48))
        assert len(message) == size
        responder = Responder(CRYPTO, suite, b"", STATIC, PUBLIC)
        if refused:
            with pytest.raises(RaystreamError):
                responder.read(message)
        else:
            assert len(responder.read(message)) == size - 48


@pytest.mark.parametrize("cipher", Cipher, ids=lambda cipher: cipher.name)
def test_a_cipher_state_ends_before_the_reserved_nonce(cipher):
    """A counter that went round would use a nonce twice."""
    state, other = (CipherState(CRYPTO, cipher, bytes(32)) for _ in range(2))
    state._n = other._n = 2**64 - 2
    assert other.decrypt(b"", state.encrypt(b"", b"last")) == b"last"
    with pytest.raises(RaystreamError):
        state.encrypt(b"", b"one more")
    with pytest.raises(RaystreamError):
        other.decrypt(b"", bytes(16))


@given(st.sampled_from(Suite), st.binary(max_size=200))
def test_anything_may_arrive(suite, message):
    """One error, whatever the bytes."""
    with pytest.raises(RaystreamError):
        Responder(CRYPTO, suite, b"", STATIC, PUBLIC).read(message)
    initiator = Initiator(CRYPTO, suite, b"", PUBLIC, EPHEMERAL)
    initiator.write(b"")
    with pytest.raises(RaystreamError):
        initiator.read(message)
