"""Tickets: made by this deployment, for this purpose, not changed, not expired; or refused, and all in the same way."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontract.core.security import hkdf, keys
from kontract.core.security.raystream.suites import RaystreamError
from kontract.core.security.raystream.tickets import MIN_BYTES, Ticket, open_ticket, seal
from kontract.ports import Cipher
from kontract.server.crypto import NativeCrypto

CRYPTO = NativeCrypto()
OLD, NEW = bytes(range(32)), bytes(range(32, 64))
RING = keys.ring(OLD)
SALT = bytes(range(64, 96))
TICKET = Ticket(suite=1, secret=b"s" * 32, issued=1_000, expires=2_000, principal=b"somebody")
SEALED = seal(CRYPTO, RING, TICKET, SALT)


def opened(sealed: bytes, *, ring: keys.KeyRing = RING, now: int = 1_500) -> Ticket:
    return open_ticket(CRYPTO, ring, sealed, now)


def forged(content: object, label: bytes = b"kontract/raystream/v1/ticket", version: bytes = b"\x01") -> bytes:
    """What somebody with the secret could seal, written from the documentation."""
    key = hkdf.expand(RING.current.raystream_ticket, label + SALT)
    text = msgspec.msgpack.encode(content)
    return version + SALT + CRYPTO.seal(Cipher.CHACHA20_POLY1305, key, bytes(12), text, label + version)


def test_a_ticket_is_what_the_documentation_says():
    """Servers of the next release must open it."""
    assert forged([1, b"s" * 32, 1_000, 2_000, b"somebody"]) == SEALED
    assert opened(SEALED) == TICKET


@given(
    st.builds(
        Ticket,
        st.sampled_from([1, 2]),
        st.binary(min_size=32, max_size=32),
        st.integers(0, 2**52),
        st.integers(2**52 + 1, 2**53),
        st.binary(max_size=500),
    )
)
def test_everything_in_it_survives(ticket):
    """Whatever the gateway wants to remember of the caller."""
    assert opened(seal(CRYPTO, RING, ticket, SALT), now=2**52) == ticket


def test_each_flipped_bit_is_refused():
    """Version, salt, content and tag: nothing in a ticket can be changed by whoever holds it."""
    for position in range(len(SEALED)):
        for bit in (0x01, 0x80):
            bad = bytearray(SEALED)
            bad[position] ^= bit
            with pytest.raises(RaystreamError):
                opened(bytes(bad))


def test_each_truncation_and_extension_is_refused():
    """Down to nothing, and up."""
    for size in range(len(SEALED)):
        with pytest.raises(RaystreamError):
            opened(SEALED[:size])
    for more in (b"\0", SEALED):
        with pytest.raises(RaystreamError):
            opened(SEALED + more)


@pytest.mark.parametrize(("now", "refused"), [(0, False), (1_999, False), (2_000, True), (10**12, True)])
def test_it_ends_when_it_says(now, refused):
    """Not a millisecond later."""
    if refused:
        with pytest.raises(RaystreamError):
            opened(SEALED, now=now)
    else:
        assert opened(SEALED, now=now) == TICKET


def test_a_rotated_secret_goes_on_opening():
    """While KONTRACT_SECRET_PREVIOUS is set, nobody is thrown out; new tickets are made with the new secret."""
    both = keys.ring(NEW, OLD)
    assert opened(SEALED, ring=both) == TICKET
    with pytest.raises(RaystreamError):
        opened(SEALED, ring=keys.ring(NEW))
    fresh = seal(CRYPTO, both, TICKET, SALT)
    assert opened(fresh, ring=keys.ring(NEW)) == TICKET
    with pytest.raises(RaystreamError):
        opened(fresh)


def test_a_sealed_text_for_another_purpose_is_no_ticket():
    """The label is in the key and in what is authenticated."""
    content = [1, b"s" * 32, 1_000, 2_000, b"somebody"]
    for bad in (
        forged(content, label=b"kontract/raystream/v1/other"),
        forged(content, version=b"\x02"),
        b"\x01" + forged(content, version=b"\x02")[1:],
    ):
        with pytest.raises(RaystreamError):
            opened(bad)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        [1, b"s" * 32, 1_000, 2_000],
        [1, b"s" * 32, 1_000, 2_000, b"x", 1],
        [0, b"s" * 32, 1_000, 2_000, b"x"],
        [3, b"s" * 32, 1_000, 2_000, b"x"],
        ["1", b"s" * 32, 1_000, 2_000, b"x"],
        {"suite": 1, "secret": b"s" * 32, "issued": 1_000, "expires": 2_000, "principal": b"x"},
    ],
)
def test_a_ticket_of_another_release(content):
    """Its tag is right and its content is not: refused like all others."""
    with pytest.raises(RaystreamError):
        opened(forged(content))


@given(st.binary(max_size=200))
def test_anything_may_arrive(sealed):
    """One error, whatever the bytes."""
    with pytest.raises(RaystreamError):
        opened(b"\x01" + sealed)
    with pytest.raises(RaystreamError):
        opened(sealed)


def test_what_is_smaller_than_an_empty_ticket():
    """Refused before anything is computed."""
    assert len(SEALED) > MIN_BYTES
    with pytest.raises(RaystreamError):
        open_ticket(None, RING, SEALED[: MIN_BYTES - 1], 1_500)


def test_the_secret_of_the_session_is_not_in_it():
    """A ticket is seen by everybody on the way."""
    assert b"somebody" not in SEALED
    assert TICKET.secret not in SEALED
