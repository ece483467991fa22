"""Noise_NK: the handshake pattern NK of the Noise Protocol Framework, revision 34, for X25519 and SHA-256.

::

    NK:
      <- s
      ...
      -> e, es
      <- e, ee

Names are those of the specification, sections 5.1 to 5.3, so that the code can be read beside it. Each side writes one
message and reads one. Left out is what NK never uses: a static key of the initiator and a pre-shared key.
"""

from __future__ import annotations

import hashlib

from kontract.core.security import hkdf
from kontract.core.security.raystream.suites import KEY_BYTES, TAG_BYTES, RaystreamError, Suite
from kontract.ports import Cipher, Crypto, CryptoError

MAX_MESSAGE = 65_535
"""Bytes of a Noise message (specification, section 3)."""

MAX_NONCE = 2**64 - 1
"""Reserved (section 5.1): a cipher state ends before it."""


class CipherState:
    """A key and a counter (section 5.1)."""

    def __init__(self, crypto: Crypto, cipher: Cipher, key: bytes) -> None:
        """Start at nonce 0."""
        self._crypto = crypto
        self._cipher = cipher
        self._key = key
        self._n = 0

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """EncryptWithAd."""
        return self._crypto.seal(self._cipher, self._key, self._nonce(), plaintext, associated)

    def decrypt(self, associated: bytes, ciphertext: bytes) -> bytes:
        """DecryptWithAd; raises RaystreamError. After that the handshake is over."""
        try:
            return self._crypto.open(self._cipher, self._key, self._nonce(), ciphertext, associated)
        except CryptoError:
            raise RaystreamError from None

    def _nonce(self) -> bytes:
        """32 zero bits and the counter: little-endian for ChaChaPoly, big-endian for AESGCM (sections 12.3, 12.4)."""
        if self._n >= MAX_NONCE:
            raise RaystreamError
        counter = self._n.to_bytes(8, "little" if self._cipher is Cipher.CHACHA20_POLY1305 else "big")
        self._n += 1
        return bytes(4) + counter


class SymmetricState:
    """The chaining key and the transcript's hash (section 5.2)."""

    def __init__(self, crypto: Crypto, suite: Suite) -> None:
        """InitializeSymmetric. Both protocol names are at most 32 bytes long, so they are padded, not hashed."""
        self._crypto = crypto
        self._suite = suite
        self.h = suite.protocol.encode().ljust(hkdf.HASH_BYTES, b"\0")
        self._ck = self.h
        self._cipher: CipherState | None = None

    def mix_key(self, material: bytes) -> None:
        """MixKey."""
        self._ck, key = self._hkdf(material)
        self._cipher = CipherState(self._crypto, self._suite.cipher, key)

    def mix_hash(self, data: bytes) -> None:
        """MixHash."""
        self.h = hashlib.sha256(self.h + data).digest()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """EncryptAndHash."""
        assert self._cipher is not None, "in NK, no payload comes before the first key"
        ciphertext = self._cipher.encrypt(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """DecryptAndHash; raises RaystreamError."""
        assert self._cipher is not None, "in NK, no payload comes before the first key"
        plaintext = self._cipher.decrypt(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Split: the keys of the initiator's and of the responder's transport messages."""
        return self._hkdf(b"")

    def _hkdf(self, material: bytes) -> tuple[bytes, bytes]:
        """HKDF with two outputs (section 4.3), which is RFC 5869 with the chaining key as salt and no info."""
        output = hkdf.expand(hkdf.extract(self._ck, material), b"", 2 * KEY_BYTES)
        return output[:KEY_BYTES], output[KEY_BYTES:]


class Handshake:
    """What the two sides share (section 5.3): the start of the transcript, Diffie-Hellman, and the end."""

    def __init__(self, crypto: Crypto, suite: Suite, prologue: bytes, responder_public: bytes) -> None:
        """Initialize: protocol name, prologue, and the pre-message ``<- s``."""
        self._crypto = crypto
        self._symmetric = SymmetricState(crypto, suite)
        self._symmetric.mix_hash(prologue)
        self._symmetric.mix_hash(responder_public)
        self.binding = b""
        """The transcript's hash after the last token, before the last payload: what the session's keys are bound to,
        because that payload carries them."""

    @property
    def hash(self) -> bytes:
        """The transcript's hash (section 11.2)."""
        return self._symmetric.h

    def split(self) -> tuple[bytes, bytes]:
        """Return the initiator's sending key and the responder's.

        They stand since the token ``ee``: payloads do not change the chaining key.
        """
        return self._symmetric.split()

    def _dh(self, private: bytes, public: bytes) -> bytes:
        try:
            return self._crypto.x25519(private, public)
        except CryptoError:
            raise RaystreamError from None

    def _write_e(self, private: bytes) -> bytes:
        public = self._crypto.x25519_public(private)
        self._symmetric.mix_hash(public)
        return public

    def _read_e(self, message: bytes) -> tuple[bytes, bytes]:
        """Read the ephemeral key from a message; the rest is the payload."""
        if not KEY_BYTES + TAG_BYTES <= len(message) <= MAX_MESSAGE:
            raise RaystreamError
        public = message[:KEY_BYTES]
        self._symmetric.mix_hash(public)
        return public, message[KEY_BYTES:]


class Initiator(Handshake):
    """The client. Knows the responder's static public key."""

    def __init__(
        self, crypto: Crypto, suite: Suite, prologue: bytes, responder_public: bytes, ephemeral: bytes
    ) -> None:
        """``ephemeral`` is a private key that is used for this handshake alone."""
        super().__init__(crypto, suite, prologue, responder_public)
        self._rs = responder_public
        self._e = ephemeral

    def write(self, payload: bytes) -> bytes:
        """``-> e, es``. Raises RaystreamError when the responder's key is none (of small order)."""
        public = self._write_e(self._e)
        self._symmetric.mix_key(self._dh(self._e, self._rs))
        return public + self._symmetric.encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """``<- e, ee``: return the payload; raises RaystreamError."""
        re, sealed = self._read_e(message)
        self._symmetric.mix_key(self._dh(self._e, re))
        self.binding = self.hash
        return self._symmetric.decrypt_and_hash(sealed)


class Responder(Handshake):
    """The server. Has the static private key."""

    def __init__(self, crypto: Crypto, suite: Suite, prologue: bytes, private: bytes, public: bytes) -> None:
        """``public`` is the public key of ``private``: computed once, not for every handshake."""
        super().__init__(crypto, suite, prologue, public)
        self._s = private
        self._re = b""
        self._public = b""

    def read(self, message: bytes) -> bytes:
        """``-> e, es``: return the payload; raises RaystreamError."""
        self._re, sealed = self._read_e(message)
        self._symmetric.mix_key(self._dh(self._s, self._re))
        return self._symmetric.decrypt_and_hash(sealed)

    def agree(self, ephemeral: bytes) -> None:
        """``<- e, ee``, without its payload. ``ephemeral`` is a private key that is used for this handshake alone."""
        self._public = self._write_e(ephemeral)
        self._symmetric.mix_key(self._dh(ephemeral, self._re))
        self.binding = self.hash

    def write(self, payload: bytes) -> bytes:
        """Return the message that ``agree`` began."""
        return self._public + self._symmetric.encrypt_and_hash(payload)
