"""The keys of a session: each key is for one message, so no nonce is used twice under one key.

::

    secret        = HKDF-Extract(salt = h, k1 || k2)
    session id    = HKDF-Expand(secret, label "id", 16)
    request key   = HKDF-Expand(secret, label "request" || sequence, 32)
    response key  = HKDF-Expand(secret, label "response" || sequence || salt, 32)
    call id       = HKDF-Expand(secret, label "call" || sequence, 20)

``k1, k2`` are what the Noise function Split returns, ``h`` is the handshake's hash after the token ``ee`` of the second
message and before its payload: that payload is the ticket, which carries the secret.

Labels are ``kontract/raystream/v1/`` and the name shown, sequences 4 bytes big-endian. The nonce is always zero. A
request key is used once because a client gives a sequence to one request and repeats that request byte for byte. Two
servers may answer the same request differently, so each answer has its own salt of 32 random bytes.
"""

from __future__ import annotations

from kontract.core.security import hkdf

NONCE = bytes(12)
SALT_BYTES = 32

_LABEL = b"kontract/raystream/v1/"


def session_secret(binding: bytes, keys: tuple[bytes, bytes]) -> bytes:
    """Return the secret of a session from its handshake's ``binding`` and ``split()``."""
    return hkdf.extract(binding, b"".join(keys))


def session_id(secret: bytes) -> bytes:
    """Return 16 bytes that identify the session, for example in logs; they reveal nothing about the secret."""
    return hkdf.expand(secret, _LABEL + b"id", 16)


def request_key(secret: bytes, sequence: int) -> bytes:
    """Return the key of request ``sequence``."""
    return hkdf.expand(secret, _LABEL + b"request" + _bytes(sequence))


def response_key(secret: bytes, sequence: int, salt: bytes) -> bytes:
    """Return the key of one response to request ``sequence``."""
    return hkdf.expand(secret, _LABEL + b"response" + _bytes(sequence) + salt)


def call_id(secret: bytes, sequence: int) -> str:
    """Return the id under which request ``sequence`` is applied once, however often it arrives."""
    return f"ray-{hkdf.expand(secret, _LABEL + b'call' + _bytes(sequence), 20).hex()}"


def _bytes(sequence: int) -> bytes:
    return sequence.to_bytes(4, "big")
