"""The client's side: one handshake, then numbered requests that may be repeated byte for byte."""

from __future__ import annotations

from msgspec import Struct

from kontract.core.security.raystream import frames, payloads, schedule
from kontract.core.security.raystream.frames import FrameType
from kontract.core.security.raystream.noise import Initiator
from kontract.core.security.raystream.payloads import Reply, SealedCall
from kontract.core.security.raystream.suites import PROLOGUE, TAG_BYTES, RaystreamError, Suite
from kontract.ports import Crypto, CryptoError


class Sealed(Struct, frozen=True):
    """A request ready to be sent. A retry sends these same bytes again."""

    sequence: int
    message: bytes


class ClientHandshake:
    """A handshake: send ``hello``, pass the answer to ``finish``."""

    def __init__(self, crypto: Crypto, server_public: bytes, ephemeral: bytes, suite: Suite = Suite.CHACHAPOLY) -> None:
        """``server_public`` is the pinned key; ``ephemeral`` is 32 random bytes for this handshake only."""
        self._crypto = crypto
        self._suite = suite
        self._initiator = Initiator(crypto, suite, PROLOGUE, server_public, ephemeral)

    def hello(self, token: bytes) -> bytes:
        """Return the first message. Only the holder of the server's private key can read the token."""
        payload = bytes([self._suite.code]) + self._initiator.write(token)
        return frames.header(FrameType.HELLO, 0, len(payload)) + payload

    def finish(self, message: bytes) -> SealedSession | Reply:
        """Return the session, or the server's answer to the token; raises RaystreamError."""
        verdict = payloads.decode_verdict(self._initiator.read(frames.parse(message, FrameType.WELCOME).payload))
        if isinstance(verdict, Reply):
            return verdict
        secret = schedule.session_secret(self._initiator.binding, self._initiator.split())
        return SealedSession(self._crypto, self._suite, secret, verdict.ticket, verdict.lifetime)


class SealedSession:
    """Numbers and seals requests, opens responses. ``lifetime``: of the ticket, in milliseconds."""

    def __init__(self, crypto: Crypto, suite: Suite, secret: bytes, ticket: bytes, lifetime: int) -> None:
        """Begin with request 1."""
        self._crypto = crypto
        self._suite = suite
        self._secret = secret
        self._ticket = ticket
        self._last = 0
        self.lifetime = lifetime

    @property
    def id(self) -> str:
        """A name of the session, the same as in the server's log."""
        return schedule.session_id(self._secret).hex()

    @property
    def exhausted(self) -> bool:
        """Whether there are no numbers left: a new handshake is needed."""
        return self._last == frames.MAX_SEQUENCE

    def seal(self, call: SealedCall) -> Sealed:
        """Number and seal a call; ValueError if it cannot be sent, RaystreamError when no number is left."""
        plaintext = payloads.encode_call(call)
        if self.exhausted:
            raise RaystreamError
        # Counted before anything can fail: no number is ever used for two texts.
        self._last += 1
        header = frames.header(FrameType.REQUEST, self._last, len(plaintext) + TAG_BYTES)
        key = schedule.request_key(self._secret, self._last)
        sealed = self._crypto.seal(self._suite.cipher, key, schedule.NONCE, plaintext, header)
        return Sealed(self._last, frames.attach_ticket(self._ticket, header + sealed))

    def open(self, sequence: int, message: bytes) -> Reply:
        """Return the response to request ``sequence``; raises RaystreamError."""
        frame = frames.parse(message, FrameType.RESPONSE)
        if frame.sequence != sequence or len(frame.payload) < schedule.SALT_BYTES:
            raise RaystreamError
        salt, sealed = frame.payload[: schedule.SALT_BYTES], frame.payload[schedule.SALT_BYTES :]
        key = schedule.response_key(self._secret, sequence, salt)
        try:
            plaintext = self._crypto.open(self._suite.cipher, key, schedule.NONCE, sealed, frame.header)
        except CryptoError:
            raise RaystreamError from None
        return payloads.decode_reply(plaintext)
