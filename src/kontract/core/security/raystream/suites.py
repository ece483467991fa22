"""The two Noise protocols that raystream speaks, and the one error it knows."""

from __future__ import annotations

from enum import Enum

from kontract.ports import Cipher

VERSION = 1
"""First byte of every frame and every ticket."""

PROLOGUE = b"kontract/raystream/v1"
"""Both sides mix this into the handshake: transcripts of other protocols and versions are then different."""

KEY_BYTES = 32
TAG_BYTES = 16


class RaystreamError(Exception):
    """Bytes that the expected sender did not make for this place. It has no detail, on purpose."""


class Suite(Enum):
    """A Noise protocol name, its byte on the wire, and its cipher."""

    CHACHAPOLY = ("Noise_NK_25519_ChaChaPoly_SHA256", 0x01, Cipher.CHACHA20_POLY1305)
    AESGCM = ("Noise_NK_25519_AESGCM_SHA256", 0x02, Cipher.AES_256_GCM)

    def __init__(self, protocol: str, code: int, cipher: Cipher) -> None:
        """Name the parts of the tuple."""
        self.protocol = protocol
        self.code = code
        self.cipher = cipher

    @classmethod
    def of(cls, code: int) -> Suite:
        """Return the suite of a byte on the wire; raises RaystreamError."""
        for suite in cls:
            if suite.code == code:
                return suite
        raise RaystreamError
