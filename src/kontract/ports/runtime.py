"""A platform, as the gateway uses it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from kontract.core.events import Subscription
from kontract.ports.crypto import Crypto
from kontract.ports.database import Database
from kontract.ports.owner import CoordinatorStub, DOStub, KVStore
from kontract.ports.process import Clock, Log, Mutex, Randomness
from kontract.ports.streams import Feed


class RuntimeAdapter(Protocol):
    """A platform, as the gateway uses it."""

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> Randomness:
        """Randomness."""
        ...

    @property
    def crypto(self) -> Crypto:
        """Native cryptography. On Workers it can only be used inside a request."""
        ...

    @property
    def log(self) -> Log:
        """Where log lines go."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables and secrets."""
        ...

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return a stub for the coordinator of ``owner``."""
        ...

    def shared(self, owner: str) -> DOStub:
        """Return a stub for the shared state of ``owner``."""
        ...

    @property
    def kv(self) -> KVStore | None:
        """The warm tier of the shared state; None if there is none."""
        ...

    async def open_feed(self, owner: str, subscription: Subscription) -> Feed:
        """Connect to the changes of ``owner``; raises CoordinatorUnavailableError, RateLimitedError."""
        ...

    def open_database(self) -> Database:
        """Return a database for one request; it connects when first used."""
        ...

    def mutex(self) -> Mutex:
        """Return a new lock for one transaction."""
        ...

    def spawn(self, work: Awaitable[Any]) -> None:
        """Let ``work`` continue after the response has been sent."""
        ...

    async def within(self, milliseconds: float, work: Awaitable[Any]) -> Any:
        """Await ``work`` up to the time limit; raises TimeoutError."""
        ...
