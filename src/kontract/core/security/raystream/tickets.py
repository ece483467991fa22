"""Tickets: the server's memory of a session, sealed and kept by the client, so that any server can continue it.

::

    ticket = version (1) || salt (32) || ciphertext || tag (16)
    key    = HKDF-Expand(ticket key of KONTRACT_SECRET, label || salt, 32)
    cipher = ChaCha20-Poly1305, nonce zero, associated data: label || version

The label is ``kontract/raystream/v1/ticket``. A random salt of 32 bytes replaces a random nonce of 12: nonces of one
key would begin to repeat after some 2^32 tickets, and one repetition reveals both. The content is internal to the
server: :class:`Ticket` as MessagePack.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kontract.core.security import hkdf
from kontract.core.security.keys import KeyRing
from kontract.core.security.raystream.schedule import NONCE, SALT_BYTES
from kontract.core.security.raystream.suites import TAG_BYTES, VERSION, RaystreamError, Suite
from kontract.ports import Cipher, Crypto, CryptoError

MIN_BYTES = 1 + SALT_BYTES + TAG_BYTES

_LABEL = b"kontract/raystream/v1/ticket"
_VERSION = bytes([VERSION])
_CIPHER = Cipher.CHACHA20_POLY1305


class Ticket(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session. Times are milliseconds since the epoch; ``principal`` is who calls, encoded by the gateway."""

    suite: int
    secret: bytes
    issued: int
    expires: int
    principal: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ticket).decode


def seal(crypto: Crypto, keys: KeyRing, ticket: Ticket, salt: bytes) -> bytes:
    """Return a ticket under the current key. ``salt``: 32 random bytes, used once."""
    key = hkdf.expand(keys.current.raystream_ticket, _LABEL + salt)
    return _VERSION + salt + crypto.seal(_CIPHER, key, NONCE, _encode(ticket), _LABEL + _VERSION)


def open_ticket(crypto: Crypto, keys: KeyRing, sealed: bytes, now: int) -> Ticket:
    """Return a ticket that is valid ``now``, under the current or the previous key; raises RaystreamError."""
    if len(sealed) < MIN_BYTES or sealed[:1] != _VERSION:
        raise RaystreamError
    salt, rest = sealed[1 : 1 + SALT_BYTES], sealed[1 + SALT_BYTES :]
    for one in keys:
        key = hkdf.expand(one.raystream_ticket, _LABEL + salt)
        try:
            ticket = _decode(crypto.open(_CIPHER, key, NONCE, rest, _LABEL + _VERSION))
        except CryptoError:
            continue
        except msgspec.DecodeError:
            # The tag proves that it is ours, so it comes from another release of this program.
            raise RaystreamError from None
        if now >= ticket.expires:
            raise RaystreamError
        Suite.of(ticket.suite)
        return ticket
    raise RaystreamError
