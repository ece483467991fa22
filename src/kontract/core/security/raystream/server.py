"""The server's side. It is stateless: a session is in its ticket, so any server with the secret can answer."""

from __future__ import annotations

from msgspec import Struct

from kontract.core import limits
from kontract.core.security.keys import KeyRing
from kontract.core.security.raystream import frames, payloads, schedule, tickets
from kontract.core.security.raystream.frames import FrameType
from kontract.core.security.raystream.noise import Responder
from kontract.core.security.raystream.payloads import Reply, SealedCall, SealedGrant, Verdict
from kontract.core.security.raystream.suites import PROLOGUE, TAG_BYTES, RaystreamError, Suite
from kontract.core.security.raystream.tickets import Ticket
from kontract.ports import Crypto, CryptoError


class Randoms(Struct, frozen=True):
    """The random bytes for a welcome: the ephemeral private key and the ticket's salt, 32 bytes each."""

    ephemeral: bytes
    salt: bytes


class HandshakeServer:
    """Opens what clients send and seals the answers, with the keys of this deployment."""

    def __init__(self, crypto: Crypto, keys: KeyRing) -> None:
        """Compute the public keys."""
        self._crypto = crypto
        self._keys = keys
        self._statics = [(one.raystream_static, crypto.x25519_public(one.raystream_static)) for one in keys]

    @property
    def public_keys(self) -> list[bytes]:
        """The public keys that a handshake may use, the current one first."""
        return [public for _, public in self._statics]

    def begin(self, message: bytes) -> Greeting:
        """Open a client's first message; raises RaystreamError."""
        payload = frames.parse(message, FrameType.HELLO).payload
        if not payload or len(message) > limits.RAYSTREAM_HELLO_BYTES:
            raise RaystreamError
        suite = Suite.of(payload[0])
        for private, public in self._statics:
            responder = Responder(self._crypto, suite, PROLOGUE, private, public)
            try:
                token = responder.read(payload[1:])
            except RaystreamError:
                continue
            return Greeting(self._crypto, self._keys, suite, responder, token)
        raise RaystreamError

    def open(self, message: bytes, now: int) -> Opened:
        """Open a request. ``now`` is in milliseconds since the epoch; raises RaystreamError."""
        ticket_bytes, rest = frames.detach_ticket(message)
        ticket = tickets.open_ticket(self._crypto, self._keys, ticket_bytes, now)
        frame = frames.parse(rest, FrameType.REQUEST)
        suite = Suite.of(ticket.suite)
        key = schedule.request_key(ticket.secret, frame.sequence)
        try:
            plaintext = self._crypto.open(suite.cipher, key, schedule.NONCE, frame.payload, frame.header)
        except CryptoError:
            raise RaystreamError from None
        call = payloads.decode_call(plaintext)
        if abs(ticket.issued + call.elapsed - now) > limits.RAYSTREAM_FRESH_MS:
            raise RaystreamError
        return Opened(self._crypto, suite, ticket, frame.sequence, call)


class Greeting:
    """A client's first message, opened. One of ``grant`` and ``deny`` answers it, once."""

    def __init__(self, crypto: Crypto, keys: KeyRing, suite: Suite, responder: Responder, token: bytes) -> None:
        """``token``: from the client, not yet verified."""
        self._crypto = crypto
        self._keys = keys
        self._suite = suite
        self._responder = responder
        self.token = token

    def grant(self, principal: bytes, now: int, expires: int, randoms: Randoms) -> bytes:
        """Return the welcome with a ticket for ``principal``.

        The ticket ends at ``expires`` (milliseconds since the epoch, as ``now``) or after RAYSTREAM_TICKET_MS,
        whichever is earlier. Raises ValueError when the ticket would be too large.
        """
        self._responder.agree(randoms.ephemeral)
        secret = schedule.session_secret(self._responder.binding, self._responder.split())
        expires = min(expires, now + limits.RAYSTREAM_TICKET_MS)
        ticket = Ticket(self._suite.code, secret, now, expires, principal)
        sealed = tickets.seal(self._crypto, self._keys, ticket, randoms.salt)
        if len(sealed) > limits.RAYSTREAM_TICKET_BYTES:
            message = f"the ticket of this session would have {len(sealed)} bytes"
            raise ValueError(message)
        return self._welcome(SealedGrant(max(0, expires - now), sealed))

    def deny(self, reply: Reply, ephemeral: bytes) -> bytes:
        """Return the welcome for a client whose token was rejected: the reason, sealed."""
        self._responder.agree(ephemeral)
        return self._welcome(reply)

    def _welcome(self, verdict: Verdict) -> bytes:
        message = self._responder.write(payloads.encode_verdict(verdict))
        return frames.header(FrameType.WELCOME, 0, len(message)) + message


class Opened:
    """A request that was sealed by the client that got the ticket."""

    def __init__(self, crypto: Crypto, suite: Suite, ticket: Ticket, sequence: int, call: SealedCall) -> None:
        """``call``: the requested call."""
        self._crypto = crypto
        self._suite = suite
        self._ticket = ticket
        self.sequence = sequence
        self.call = call

    @property
    def principal(self) -> bytes:
        """Who calls, as given to ``grant``."""
        return self._ticket.principal

    @property
    def session_id(self) -> str:
        """A name of the session, for logs."""
        return schedule.session_id(self._ticket.secret).hex()

    @property
    def call_id(self) -> str:
        """The id under which this request, and every copy of it, is applied once."""
        return schedule.call_id(self._ticket.secret, self.sequence)

    def reply(self, reply: Reply, salt: bytes) -> bytes:
        """Return the sealed response. ``salt``: 32 random bytes, used once; ValueError for what cannot be sent."""
        key = schedule.response_key(self._ticket.secret, self.sequence, salt)
        plaintext = payloads.encode_reply(reply)
        length = len(salt) + len(plaintext) + TAG_BYTES
        header = frames.header(FrameType.RESPONSE, self.sequence, length)
        return header + salt + self._crypto.seal(self._suite.cipher, key, schedule.NONCE, plaintext, header)
