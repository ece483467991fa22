"""Native cryptography on CPython: the `cryptography` package, which is OpenSSL. Used by the server and the client."""

from __future__ import annotations

import asyncio
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kontract.ports import Cipher, CryptoError

_CIPHERS: dict[Cipher, type[AESGCM | ChaCha20Poly1305]] = {
    Cipher.CHACHA20_POLY1305: ChaCha20Poly1305,
    Cipher.AES_256_GCM: AESGCM,
}


class NativeCrypto:
    """Implements :class:`kontract.ports.Crypto`."""

    hashes_at_once = max(1, min(4, (os.cpu_count() or 1) - 1))
    """Each takes a processor and 32 MiB; one processor is left to everybody else."""

    hash_rest_ms = 0

    def x25519_public(self, private: bytes) -> bytes:
        """Return the public key."""
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def x25519(self, private: bytes, public: bytes) -> bytes:
        """Return the shared secret. OpenSSL refuses the one that is all zero; its error says no more than that."""
        ours, theirs = X25519PrivateKey.from_private_bytes(private), X25519PublicKey.from_public_bytes(public)
        try:
            return ours.exchange(theirs)
        except ValueError:
            raise CryptoError from None

    def seal(self, cipher: Cipher, key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt and authenticate."""
        _check(key, nonce)
        return _CIPHERS[cipher](key).encrypt(nonce, plaintext, associated)

    def open(self, cipher: Cipher, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Verify and decrypt."""
        _check(key, nonce)
        try:
            return _CIPHERS[cipher](key).decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise CryptoError from None

    async def scrypt(self, password: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
        """Derive in a thread: it takes a third of a second, and the requests beside it need not wait."""
        return await asyncio.to_thread(Scrypt(salt, length, n, r, p).derive, password)


def _check(key: bytes, nonce: bytes) -> None:
    if len(key) != 32 or len(nonce) != 12:
        message = f"keys have 32 bytes and nonces 12, not {len(key)} and {len(nonce)}"
        raise ValueError(message)
