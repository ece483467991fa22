"""The keys of a deployment: separated, stable, and never shown."""

import hmac
from dataclasses import astuple

import pytest

from kontract.core.security import keys

SECRET = bytes(range(32))


def test_the_derivation_is_that_of_the_documentation():
    """Written out by hand: a changed label would log everybody out at the next deployment."""
    root = hmac.digest(b"kontract/v1", SECRET, "sha256")
    made = keys.derive(SECRET)
    for label, value in [
        ("token", made.token),
        ("raystream/static", made.raystream_static),
        ("raystream/ticket", made.raystream_ticket),
    ]:
        assert value == hmac.digest(root, f"kontract/v1/{label}\x01".encode(), "sha256")
    assert made.id == hmac.digest(root, b"kontract/v1/id\x01", "sha256")[:8]


def test_no_two_keys_are_equal_and_none_is_the_secret():
    """One key, one purpose."""
    both = keys.ring(SECRET, bytes(32))
    values = [value for one in both for value in astuple(one)]
    assert len(set(values)) == len(values) == 12
    assert SECRET not in values


def test_a_ring_gives_the_current_keys_first():
    """What is made new is made with the new secret."""
    both = keys.ring(SECRET, bytes(32))
    assert list(both) == [keys.derive(SECRET), keys.derive(bytes(32))]
    assert list(keys.ring(SECRET)) == [both.current]


def test_the_text_form_shows_no_key():
    """Settings end up in logs and tracebacks."""
    both = keys.ring(SECRET, bytes(32))
    for one in both:
        for value in (one.token, one.raystream_static, one.raystream_ticket):
            assert repr(value)[2:10] not in repr(both)
            assert value.hex()[:8] not in repr(both)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_secret_of_another_size(size):
    """Never padded or cut."""
    with pytest.raises(ValueError, match="32 bytes"):
        keys.derive(bytes(size))
