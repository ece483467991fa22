"""Cryptography that platforms do natively."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class CryptoError(Exception):
    """The operation failed on these bytes. It has no detail: that would only help attackers."""


class Cipher(Enum):
    """An AEAD cipher with a 32-byte key, a 12-byte nonce and a 16-byte tag at the end; values are OpenSSL's names."""

    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_256_GCM = "aes-256-gcm"


class Crypto(Protocol):
    """Cryptography that a platform does natively. A wrong size of key or nonce is a defect: ValueError.

    What Python's standard library has everywhere is not here: HMAC and HKDF are in :mod:`kontract.core.security.hkdf`,
    and ``hmac.compare_digest`` compares in constant time.
    """

    @property
    def hashes_at_once(self) -> int:
        """How many :meth:`scrypt` may run at the same time in one process without blocking other work."""
        ...

    @property
    def hash_rest_ms(self) -> int:
        """How many ms other work gets between two of them: 0 if it runs in parallel."""
        ...

    def x25519_public(self, private: bytes) -> bytes:
        """Return the public key (32 bytes) of a private key (any 32 bytes; RFC 7748, section 6.1)."""
        ...

    def x25519(self, private: bytes, public: bytes) -> bytes:
        """Return the shared secret, 32 bytes; raises CryptoError when it would be zero (RFC 7748, section 6.1)."""
        ...

    def seal(self, cipher: Cipher, key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag. A nonce must never be used twice with one key."""
        ...

    def open(self, cipher: Cipher, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Return the plaintext of ciphertext and tag; raises CryptoError for anything not sealed like this."""
        ...

    async def scrypt(self, password: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
        """Derive a key from a password (RFC 7914). Takes ``128 * n * r`` bytes of memory, and long, on purpose."""
        ...
