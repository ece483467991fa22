"""What all requests of one owner share: its coordinator, its shared values, and their copies."""

from __future__ import annotations

from typing import Protocol

from kontract.core.messages import Answer, Request
from kontract.core.shared.state import SharedAnswer, SharedRequest


class CoordinatorUnavailableError(Exception):
    """The coordinator did not answer: it is unknown whether it got the message."""


class CoordinatorStub(Protocol):
    """The coordinator of one owner, wherever it runs."""

    async def ask(self, request: Request) -> Answer:
        """Send one message and wait for its answer; raises CoordinatorUnavailableError."""
        ...


class DOStub(Protocol):
    """The state that all requests of one owner share, wherever it is kept (the owner's Durable Object)."""

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Send one request and wait for its answer; raises CoordinatorUnavailableError."""
        ...


class KVStore(Protocol):
    """A key-value store that may be slow to show what was written (Workers KV). Values are text."""

    async def get(self, key: str) -> str | None:
        """Return a value; None if there is none or the store does not answer."""
        ...

    async def put(self, key: str, value: str, ttl: float | None = None) -> None:
        """Store a value, for ``ttl`` seconds if given. Never raises: it is a copy."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a value. Never raises."""
        ...
