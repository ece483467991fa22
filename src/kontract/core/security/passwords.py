"""Passwords: scrypt hashes as PHC strings, ``$scrypt$ln=15,r=8,p=3$<salt>$<hash>``.

The parameters are those of OWASP's password storage cheat sheet for 32 MiB of memory. A hash contains its parameters,
so that they can be raised: older hashes are still accepted.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import unicodedata

from msgspec import Struct

from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.ports import Crypto

LOG_N, R, P = 15, 8, 3
SALT_BYTES = 16
HASH_BYTES = 32

_PHC = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,3}),p=([0-9]{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII
)


class Hash(Struct, frozen=True):
    """A parsed PHC string."""

    log_n: int
    r: int
    p: int
    salt: bytes
    value: bytes

    def __str__(self) -> str:
        """Return the PHC string."""
        return f"$scrypt$ln={self.log_n},r={self.r},p={self.p}${_encode(self.salt)}${_encode(self.value)}"


def check(password: object, name: str = "") -> str:
    """Return the password in the form that is hashed (NFKC); raises InvalidRequestError for an unacceptable one.

    Consecutive spaces count as one, and invisible characters do not count. ``name``: of the account.
    """
    if not isinstance(password, str):
        message = "password must be a string"
        raise InvalidRequestError(message)
    normal = _normal(password)
    _bytes(normal)
    if any(unicodedata.category(character) == "Cc" for character in normal):
        message = "password must not have control characters, such as a line break at its end"
        raise InvalidRequestError(message)
    seen = " ".join("".join(character for character in normal if not _is_invisible(character)).split())
    if len(seen) < limits.PASSWORD_LEAST:
        message = (
            f"password must have at least {limits.PASSWORD_LEAST} visible characters, where consecutive spaces count "
            "as one; a few words are easy to remember"
        )
        raise InvalidRequestError(message)
    if name and seen.casefold() == name.casefold():
        message = "password must differ from the name"
        raise InvalidRequestError(message)
    return normal


def _is_invisible(character: str) -> bool:
    """Return whether a character is invisible: format characters, fillers, variation selectors."""
    return unicodedata.category(character) in _INVISIBLE_CATEGORIES or character in _FILLERS


async def make(crypto: Crypto, password: str, salt: bytes) -> str:
    """Hash a checked password with a fresh salt and return its PHC string."""
    value = await crypto.scrypt(_bytes(password), salt, 1 << LOG_N, R, P, HASH_BYTES)
    return str(Hash(LOG_N, R, P, salt, value))


async def matches(crypto: Crypto, password: object, stored: str | None) -> bool:
    """Return whether ``password`` matches the PHC string ``stored``. None takes the same time and matches nothing."""
    wanted = parse(stored) if stored is not None else _NOBODY
    try:
        given = _bytes(_normal(password) if isinstance(password, str) else "")
    except InvalidRequestError:
        given, wanted = b"", _NOBODY
    value = await crypto.scrypt(given, wanted.salt, 1 << wanted.log_n, wanted.r, wanted.p, len(wanted.value))
    return hmac.compare_digest(value, wanted.value) and wanted is not _NOBODY


def parse(stored: str) -> Hash:
    """Parse a PHC string; raises ValueError if it is not one."""
    found = _PHC.fullmatch(stored)
    if found is None:
        message = "not a PHC string of scrypt"
        raise ValueError(message)
    log_n, r, p = (int(part) for part in found.groups()[:3])
    return Hash(log_n, r, p, _decode(found[4]), _decode(found[5]))


def _normal(password: str) -> str:
    # Checked before normalization: sorting many accents takes quadratic time. Each character
    # becomes a byte at least.
    if len(password) > limits.PASSWORD_BYTES:
        raise _too_long()
    return unicodedata.normalize("NFKC", password)


def _too_long() -> InvalidRequestError:
    return InvalidRequestError(f"password must have at most {limits.PASSWORD_BYTES} bytes")


def _bytes(password: str) -> bytes:
    try:
        data = password.encode()
    except UnicodeEncodeError:
        message = "password is not valid text"
        raise InvalidRequestError(message) from None
    if len(data) > limits.PASSWORD_BYTES:
        raise _too_long()
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


_INVISIBLE_CATEGORIES = frozenset({"Cf", "Cn", "Co", "Cs"})

_FILLERS = frozenset(
    # Letters, marks and symbols that Unicode calls ignorable, or that are blank: they are not in the categories above.
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)

_NOBODY = Hash(LOG_N, R, P, bytes(SALT_BYTES), bytes(HASH_BYTES))
"""Compared with if the account does not exist, so that the answer takes as long."""
