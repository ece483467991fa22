"""What a platform must provide: the Protocols that adapters implement, and nothing else.

``kontract.cloudflare`` implements them for workerd, ``kontract.server`` for CPython, the tests' simulation with a
scheduler of its own. Errors that adapters may raise are here, too, because they are part of the contract.

Two more are needed only where coordinators run: :mod:`kontract.ports.shared_log` and
:class:`kontract.coordination.journal.Journal`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from kontract.ports.crypto import Cipher, Crypto, CryptoError
from kontract.ports.database import (
    ApplyOutcome,
    ApplyRefusedError,
    Database,
    DatabaseError,
    DatabaseUnavailableError,
    SnapshotTooOldError,
    Store,
)
from kontract.ports.owner import CoordinatorStub, CoordinatorUnavailableError, DOStub, KVStore
from kontract.ports.process import Clock, Log, Mutex, Randomness
from kontract.ports.runtime import RuntimeAdapter
from kontract.ports.streams import ClientGoneError, Feed, FeedClosedError, Outlet, Socket

CallNext = Callable[[], Awaitable[Any]]
"""What a middleware awaits to run the rest of the chain."""

__all__ = [
    "ApplyOutcome",
    "ApplyRefusedError",
    "CallNext",
    "Cipher",
    "ClientGoneError",
    "Clock",
    "CoordinatorStub",
    "CoordinatorUnavailableError",
    "Crypto",
    "CryptoError",
    "DOStub",
    "Database",
    "DatabaseError",
    "DatabaseUnavailableError",
    "Feed",
    "FeedClosedError",
    "KVStore",
    "Log",
    "Mutex",
    "Outlet",
    "Randomness",
    "RuntimeAdapter",
    "SnapshotTooOldError",
    "Socket",
    "Store",
]
