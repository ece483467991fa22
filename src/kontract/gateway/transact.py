"""Runs work as a transaction of one owner, for ``/rpc`` and the gateway's own tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from kontract.core.errors import ReadOnlyError
from kontract.core.model.perms import ALL
from kontract.core.model.rows import RowType
from kontract.core.transaction.attempts import Attempts, Done, Repeated
from kontract.core.transaction.storage import Storage
from kontract.core.transaction.store import SqlStore
from kontract.core.transaction.transaction import Call, RetryError, Transaction
from kontract.gateway.meter import MeteredDatabase
from kontract.gateway.scope import Scope
from kontract.ports import Clock, Randomness

A = TypeVar("A")
"""What an attempt returns."""


class Transactor:
    """Transactions over one connection; to be used with ``async with``."""

    def __init__(self, scope: Scope, row_type: Callable[[str], RowType]) -> None:
        """Open a connection when first needed."""
        self._scope = scope
        self._platform = platform = scope.platform
        self._catalog = scope.deployment.catalog
        self._row_type = row_type
        self._meter = scope.meter
        self._database = MeteredDatabase(platform.open_database(), scope.meter, platform.clock)
        self._store = SqlStore(self._database)
        self._ids = 0

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the connection. That takes a network turn that the caller need not wait for."""
        if self._database.is_open:
            self._platform.spawn(self._database.aclose())

    async def run(
        self,
        call: Call,
        work: Callable[[Transaction, Storage], Awaitable[A]],
        name: str,
        *,
        max_attempts: int,
        perm: int = ALL,
        kept: Callable[[A], str] = str,
    ) -> Done[A] | Repeated:
        """Run ``work`` until it commits. ``perm``: what it may do with tables. Raises what Attempts raises.

        ``kept``: what an idempotent call keeps of what ``work`` returned.
        """
        attempts = Attempts(call, self._platform, self._scope.coordinator(call.owner), self._store, max_attempts)

        async def attempt(transaction: Transaction) -> A:
            if not call.read_only:
                await self._check_writable(attempts.last_loss)
            if moved(attempts.last_loss):
                self._catalog.forget(call.owner)
            storage = Storage(transaction, self._store, self._catalog, self._row_type, self.new_id, perm)
            return await work(transaction, storage)

        try:
            outcome = await attempts.run(attempt, name, kept)
        except ReadOnlyError:
            self._scope.deployment.writes.refused = True
            raise
        finally:
            self._meter.attempts = attempts.number
            if moved(attempts.last_loss):
                self._catalog.forget(call.owner)
        if isinstance(outcome, Done):
            self._meter.handler_ms = outcome.handler_ms
        return outcome

    async def _check_writable(self, loss: RetryError | None) -> None:
        """Ask the database whether it accepts writes, if there is a reason to doubt it.

        A transaction prepared for a read-only database blocks its rows until the database accepts writes again: without
        this check, others would wait for it until their time is over, without a reason. Raises the database's errors.
        """
        writes = self._scope.deployment.writes
        if writes.refused or moved(loss):
            await self._store.ready()
            writes.refused = False

    def new_id(self) -> str:
        """Return a UUID version 7 (RFC 9562): time in milliseconds, a counter within this call, random bits."""
        self._ids += 1
        return uuid7(self._platform.clock, self._platform.random, self._ids)


def moved(loss: RetryError | None) -> bool:
    """Return whether an attempt failed without a conflict: a table may have moved or changed its kind."""
    return loss is not None and not loss.table


def uuid7(clock: Clock, randomness: Randomness, number: int = 0) -> str:
    """Return a UUID version 7 (RFC 9562) whose 12 bits of sub-millisecond order are ``number``."""
    random = int.from_bytes(randomness.token(8), "big") & ((1 << 62) - 1)
    bits = (clock.now() & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (number & 0xFFF) << 64 | 0b10 << 62 | random
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
