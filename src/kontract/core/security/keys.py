"""The keys of a deployment. All are derived from KONTRACT_SECRET, each with its own label, so no key has two purposes.

::

    root      = HKDF-Extract(salt = "kontract/v1", KONTRACT_SECRET)
    key       = HKDF-Expand(root, label, 32)

=============================== ============================================================================
label                           use
=============================== ============================================================================
``kontract/v1/token``           HMAC key of session tokens (JWT HS256)
``kontract/v1/raystream/static``  X25519 private key of the server in raystream handshakes
``kontract/v1/raystream/ticket``  AEAD key of raystream tickets
``kontract/v1/place``           HMAC key of network addresses stored with sessions and accounts
``kontract/v1/counter``         HMAC key of the names of counters of throttles and rate limits
``kontract/v1/id``              8 bytes that identify the secret in public, to find it during a rotation
=============================== ============================================================================

A new use gets a new label here. Changing a label or the version ends every token and ticket, and clients that pin the
raystream key need the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from kontract.core.security import hkdf

SECRET_BYTES = 32
ID_BYTES = 8

_SALT = b"kontract/v1"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys derived from one secret. Its text form shows only the id."""

    id: bytes
    token: bytes = field(repr=False)
    place: bytes = field(repr=False)
    counter: bytes = field(repr=False)
    raystream_static: bytes = field(repr=False)
    raystream_ticket: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The current keys, and those of the previous secret, whose tokens and tickets are still accepted."""

    current: Keys
    previous: Keys | None = None

    def __iter__(self) -> Iterator[Keys]:
        """Yield every accepted set of keys, the current one first."""
        yield self.current
        if self.previous is not None:
            yield self.previous


def is_guessable(secret: bytes) -> bool:
    """Return whether a secret is a pattern, never random: few different bytes, equal halves, or even steps."""
    steps = {(after - before) % 256 for before, after in pairwise(secret)}
    half = len(secret) // 2
    return len(set(secret)) < half or secret[:half] == secret[half:] or len(steps) == 1


def derive(secret: bytes) -> Keys:
    """Return the keys of a secret; raises ValueError unless it has 32 bytes."""
    if len(secret) != SECRET_BYTES:
        message = f"a secret has {SECRET_BYTES} bytes"
        raise ValueError(message)
    root = hkdf.extract(_SALT, secret)

    def key(label: str, length: int = hkdf.HASH_BYTES) -> bytes:
        return hkdf.expand(root, f"kontract/v1/{label}".encode(), length)

    return Keys(
        id=key("id", ID_BYTES),
        token=key("token"),
        place=key("place"),
        counter=key("counter"),
        raystream_static=key("raystream/static"),
        raystream_ticket=key("raystream/ticket"),
    )


def ring(secret: bytes, previous: bytes | None = None) -> KeyRing:
    """Return the keys of a secret and of the one it replaces."""
    return KeyRing(derive(secret), derive(previous) if previous is not None else None)
