"""HMAC-SHA256 and HKDF (RFC 2104, RFC 5869) with the standard library, which has them on every platform."""

from __future__ import annotations

import hashlib
import hmac

HASH_BYTES = 32


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the HMAC, 32 bytes."""
    return hmac.digest(key, message, hashlib.sha256)


def extract(salt: bytes, material: bytes) -> bytes:
    """Concentrate key material that may be uneven into a key of 32 bytes (RFC 5869, section 2.2)."""
    return hmac_sha256(salt or bytes(HASH_BYTES), material)


def expand(key: bytes, info: bytes, length: int = HASH_BYTES) -> bytes:
    """Derive ``length`` bytes for the purpose that ``info`` names (RFC 5869, section 2.3); at most 8,160."""
    if not 0 < length <= 255 * HASH_BYTES:
        message = f"HKDF-SHA256 gives 1 to {255 * HASH_BYTES} bytes, not {length}"
        raise ValueError(message)
    block, output = b"", b""
    for number in range(1, -(-length // HASH_BYTES) + 1):
        block = hmac_sha256(key, block + info + bytes([number]))
        output += block
    return output[:length]
