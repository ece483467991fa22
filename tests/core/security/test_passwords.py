"""Password hashes: PHC strings that say how they were made."""

from __future__ import annotations

import unicodedata

import pytest

from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.core.security import passwords
from kontract.server.crypto import NativeCrypto

SALT = bytes(range(16))


class Counting:
    """scrypt that counts and notes its parameters."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    async def scrypt(self, password, salt, n, r, p, length):
        self.asked.append((n, r, p, length))
        return await NativeCrypto().scrypt(password, salt, n, r, p, length)


async def test_a_password_matches_its_own_hash_only():
    """And the same password with another salt gives another hash."""
    crypto = NativeCrypto()
    stored = await passwords.make(crypto, "correct horse", SALT)
    assert stored.startswith("$scrypt$ln=15,r=8,p=3$AAECAwQFBgcICQoLDA0ODw$")
    assert await passwords.matches(crypto, "correct horse", stored)
    for wrong in ("Correct horse", "correct horse ", "", 5, None, "\ud800", "x" * 5000):
        assert not await passwords.matches(crypto, wrong, stored)
    assert stored != await passwords.make(crypto, "correct horse", SALT[::-1])


async def test_composed_and_decomposed_letters_are_the_same_password():
    """Keyboards differ in how they write an accent (NFKC)."""
    crypto = NativeCrypto()
    stored = await passwords.make(crypto, passwords.check("pâté de 10 foies"), SALT)
    assert await passwords.matches(crypto, "pa\u0302te\u0301 de 10 foies", stored)


@pytest.mark.parametrize("password", ["right one here", "wrong one here", "", "\ud800"])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_missing_account_costs_the_same_and_never_matches(password, stored):
    """One derivation with the same parameters, whatever there is and whatever was sent."""
    crypto = Counting()
    hashed = await passwords.make(NativeCrypto(), "right one here", SALT) if stored else None
    assert await passwords.matches(crypto, password, hashed) is (stored and password == "right one here")
    assert crypto.asked == [(1 << 15, 8, 3, 32)]


async def test_a_hash_made_with_other_parameters_goes_on_to_be_accepted():
    """So that they can be raised."""
    crypto = NativeCrypto()
    value = await crypto.scrypt(b"old password", SALT, 1 << 10, 8, 1, 32)
    assert await passwords.matches(crypto, "old password", str(passwords.Hash(10, 8, 1, SALT, value)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "$scrypt$ln=15,r=8,p=3$AAAA",
        "$scrypt$ln=15,r=8,p=3$A$AAAA",
        "$argon2id$v=19$m=1$a$b",
        "$scrypt$ln=x,r=8,p=3$AAAA$AAAA",
    ],
)
def test_what_is_no_hash_is_refused(text):
    """Rather than compared with."""
    with pytest.raises(ValueError, match=r"."):
        passwords.parse(text)


@pytest.mark.parametrize(
    "password",
    [
        " " * 40,
        "\u00a0\u2003\u3000" * 10,
        "\u200b" * 40,
        "\u200b\u200c\u200d\u2060\ufeff" * 8,
        "\u00ad" * 20,
        "\u2800" * 20,
        "\u3164" * 20,
        "\u115f\u1160\u034f\u180e" * 5,
        "\ufe0f" * 20,
        "\U000e0100" * 20,
        "\U000e0041" * 20,
        "\ue000" * 20,
        "a" + " " * 40,
        "abcd" + "\u200b" * 40,
        "a" + " \u200b" * 20 + "b",
    ],
    ids=ascii,
)
def test_what_cannot_be_seen_does_not_count(password):
    """Spaces alone, characters without width, fillers: a password that looks empty is nearly none."""
    with pytest.raises(InvalidRequestError, match="visible characters"):
        passwords.check(password)


@pytest.mark.parametrize(
    "password", ["correct horse\n", "correct\x00horse battery", "correct\x7fhorse", "a\tb c d e f g"]
)
def test_control_characters_are_refused(password):
    """Nobody types them: they come from a file's last line, and the next login would fail."""
    with pytest.raises(InvalidRequestError, match="control characters"):
        passwords.check(password)


@pytest.mark.parametrize("name", ["ann@example.com", "ANN@Example.com", "ann\u200b@example.com", " ann@example.com "])
def test_the_name_is_no_password(name):
    with pytest.raises(InvalidRequestError, match="must differ from the name"):
        passwords.check(name, "ann@example.com")


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "  leading spaces  ",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0628\u0631\u0648\u0645",
        "\U0001f469\u200d\U0001f680" * 8,
        "日本語のパスワードです",
    ],
)
def test_words_of_every_script_are_good(password):
    """Also with joiners inside, which some scripts and pictures need; they stay part of it."""
    checked = passwords.check(password, "ann")
    assert checked == unicodedata.normalize("NFKC", password)


def test_lengths():
    """At the limits and beyond them."""
    assert passwords.check("x" * limits.PASSWORD_LEAST)
    assert passwords.check("x" * limits.PASSWORD_BYTES)
    for bad in (
        "x" * (limits.PASSWORD_LEAST - 1),
        "x" * (limits.PASSWORD_BYTES + 1),
        "é" * 600,
        5,
        None,
        "\ud800" * 12,
    ):
        with pytest.raises(InvalidRequestError, match="password"):
            passwords.check(bad)


async def test_a_long_row_of_accents_is_not_sorted():
    """A megabyte of them would take minutes, and anybody may send one to /auth/login."""
    accents = "a" + "\u0301\u0316" * 250_000
    with pytest.raises(InvalidRequestError, match="at most 1024 bytes"):
        passwords.check(accents)
    crypto = Counting()
    assert not await passwords.matches(crypto, accents, None)
    assert crypto.asked == [(1 << 15, 8, 3, 32)]
