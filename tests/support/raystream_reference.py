"""raystream a second time, written from docs/reference/raystream.md alone: no line of `kontract` in it, on purpose.

What it makes and what the product makes must be the same bytes; then the document says all that one needs to know.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

SUITES = {
    1: ("Noise_NK_25519_ChaChaPoly_SHA256", ChaCha20Poly1305),
    2: ("Noise_NK_25519_AESGCM_SHA256", AESGCM),
}
PROLOGUE = b"kontract/raystream/v1"
ZERO = bytes(12)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def expand(key: bytes, info: bytes) -> bytes:
    """HKDF-Expand for one block: 32 bytes."""
    return mac(key, info + b"\1")


def two(chaining: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF of Noise with two outputs."""
    key = mac(chaining, material)
    first = mac(key, b"\1")
    return first, mac(key, first + b"\2")


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private: bytes, peer: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))


def frame(kind: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack(">BBHIII", 1, kind, 0, sequence, len(payload), 0) + payload


class Transcript:
    """A handshake as both sides compute it, given both ephemeral private keys."""

    def __init__(self, suite: int, static: bytes, client: bytes, token: bytes) -> None:
        self.suite = suite
        name, self.aead = SUITES[suite]
        ck = h = name.encode().ljust(32, b"\0")
        h = sha(sha(h + PROLOGUE) + public(static))
        h = sha(h + public(client))
        self.ck, key = two(ck, dh(client, public(static)))
        sealed = self.aead(key).encrypt(ZERO, token, h)
        self.h = sha(h + sealed)
        self.hello = frame(1, 0, bytes([suite]) + public(client) + sealed)
        self.client = client

    def agree(self, server: bytes) -> None:
        """The second message up to its payload."""
        self.server = server
        self.binding = sha(self.h + public(server))
        self.ck, self.key = two(self.ck, dh(self.client, public(server)))
        self.split = two(self.ck, b"")
        self.secret = mac(self.binding, b"".join(self.split))

    def welcome(self, payload: bytes) -> bytes:
        return frame(2, 0, public(self.server) + self.aead(self.key).encrypt(ZERO, payload, self.binding))


def ticket(key: bytes, salt: bytes, content: bytes) -> bytes:
    label = b"kontract/raystream/v1/ticket"
    return b"\1" + salt + ChaCha20Poly1305(expand(key, label + salt)).encrypt(ZERO, content, label + b"\1")


def label(name: bytes, sequence: int, salt: bytes = b"") -> bytes:
    return b"kontract/raystream/v1/" + name + sequence.to_bytes(4, "big") + salt


def headers(given: dict[str, str]) -> bytes:
    parts = [bytes([len(given)])]
    for name, value in given.items():
        parts += [bytes([len(name)]), name.encode(), len(value).to_bytes(2, "big"), value.encode("latin-1")]
    return b"".join(parts)


def call(elapsed: int, function: str, given: dict[str, str], body: bytes) -> bytes:
    return elapsed.to_bytes(4, "big") + bytes([len(function)]) + function.encode() + headers(given) + body


def reply(status: int, given: dict[str, str], body: bytes) -> bytes:
    return status.to_bytes(2, "big") + headers(given) + body


def request(suite: int, secret: bytes, pass_on: bytes, sequence: int, plaintext: bytes) -> bytes:
    head = struct.pack(">BBHIII", 1, 3, 0, sequence, len(plaintext) + 16, 0)
    sealed = SUITES[suite][1](expand(secret, label(b"request", sequence))).encrypt(ZERO, plaintext, head)
    return len(pass_on).to_bytes(2, "big") + pass_on + head + sealed


def response(suite: int, secret: bytes, sequence: int, salt: bytes, plaintext: bytes) -> bytes:
    head = struct.pack(">BBHIII", 1, 4, 0, sequence, len(plaintext) + 48, 0)
    return (
        head
        + salt
        + SUITES[suite][1](expand(secret, label(b"response", sequence, salt))).encrypt(ZERO, plaintext, head)
    )
