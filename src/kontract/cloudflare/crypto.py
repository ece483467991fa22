"""Native cryptography in workerd: crypto.js beside this file, which is node:crypto.

WebCrypto would do without the JavaScript module, but has no ChaCha20 and no scrypt, and answers asynchronously only.
"""

from __future__ import annotations

from typing import Any

from pyodide.ffi import JsException, to_js

from kontract.cloudflare import modules
from kontract.ports import Cipher, CryptoError

TAG_BYTES = 16


class NativeCrypto:
    """Implements :class:`kontract.ports.Crypto`. Usable inside a request only: JavaScript modules load there."""

    hashes_at_once = 1
    hash_rest_ms = 250
    """Nearly as long as a hash, so that passwords take half of the thread at most."""

    def x25519_public(self, private: bytes) -> bytes:
        """Return the public key."""
        _check("a private key", private, 32)
        return _bytes(_module().x25519Public(to_js(private)))

    def x25519(self, private: bytes, public: bytes) -> bytes:
        """Return the shared secret. BoringSSL refuses the one that is all zero."""
        _check("a private key", private, 32)
        _check("a public key", public, 32)
        try:
            return _bytes(_module().x25519(to_js(private + public)))
        except JsException:
            raise CryptoError from None

    def seal(self, cipher: Cipher, key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt and authenticate."""
        _check("a key", key, 32)
        _check("a nonce", nonce, 12)
        everything = to_js(b"".join((key, nonce, associated, plaintext)))
        return _bytes(_module().seal(cipher.value, everything, len(associated)))

    def open(self, cipher: Cipher, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Verify and decrypt."""
        _check("a key", key, 32)
        _check("a nonce", nonce, 12)
        if len(sealed) < TAG_BYTES:
            raise CryptoError
        everything = to_js(b"".join((key, nonce, associated, sealed)))
        try:
            return _bytes(_module().open(cipher.value, everything, len(associated)))
        except JsException:
            raise CryptoError from None

    async def scrypt(self, password: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
        """Derive a key. workerd does it on the isolate's own thread, so only one runs at a time."""
        return _bytes(await _module().scrypt(to_js(password), to_js(salt), n, r, p, length))


def _module() -> Any:
    return modules.module(modules.CRYPTO)


def _bytes(array: Any) -> bytes:
    return bytes(array.to_bytes())


def _check(what: str, value: bytes, size: int) -> None:
    if len(value) != size:
        message = f"{what} has {size} bytes, not {len(value)}"
        raise ValueError(message)
