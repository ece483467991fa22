"""Runs a function until its transaction commits: the retry policy.

Only the function runs again; middleware runs once. The next attempt begins when the winning transaction is visible. A
call that has lost for the first time waits in line for its rows; between later attempts there is an exponential pause,
jittered over its full length.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from kontract.core import limits
from kontract.core.errors import Code, ConflictError, DeadlineExceededError, UnavailableError
from kontract.core.messages import Leave
from kontract.core.transaction.transaction import CONFLICT, Call, ReplayedError, RetryError, Transaction
from kontract.core.types import Txid
from kontract.ports import (
    Clock,
    CoordinatorStub,
    CoordinatorUnavailableError,
    DatabaseUnavailableError,
    Mutex,
    Randomness,
    Store,
)


class AttemptPlatform(Protocol):
    """The part of RuntimeAdapter that attempts need."""

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> Randomness:
        """Randomness for jitter."""
        ...

    def mutex(self) -> Mutex:
        """Return a new lock."""
        ...

    async def within(self, milliseconds: float, work: Awaitable[Any]) -> Any:
        """Await with a time limit; raises TimeoutError."""
        ...


A = TypeVar("A")
"""What a handler returns."""


@dataclass(frozen=True, slots=True)
class Done(Generic[A]):
    """The function has run and its writes are committed: its result, and the txid if it wrote."""

    result: A
    txid: Txid | None
    attempts: int
    handler_ms: float


@dataclass(frozen=True, slots=True)
class Repeated:
    """The call had already committed: what was stored of its first run, and its txid."""

    kept: str
    txid: Txid
    attempts: int


class Attempts:
    """All attempts of one call."""

    def __init__(
        self, call: Call, platform: AttemptPlatform, coordinator: CoordinatorStub, store: Store, max_attempts: int
    ) -> None:
        """The time of the call starts now."""
        self.call = call
        self.number = 0
        self.last_loss: RetryError | None = None
        self._platform = platform
        self._coordinator = coordinator
        self._store = store
        self._max_attempts = max_attempts
        self._conflicts = 0
        self._started = platform.clock.elapsed()

    async def run(
        self, handler: Callable[[Transaction], Awaitable[A]], function: str, kept: Callable[[A], str] = str
    ) -> Done[A] | Repeated:
        """Run ``handler`` until it commits. ``kept``: what to store of an idempotent call's result.

        Raises what the function raises (then its writes are dropped), ConflictError after the last attempt,
        DeadlineExceededError, UnavailableError.
        """
        committed = False
        try:
            outcome = await self._run(handler, function, kept)
            committed = outcome.txid is not None
            return outcome
        finally:
            if self.last_loss is not None and not committed:
                await self._leave()

    async def _run(
        self, handler: Callable[[Transaction], Awaitable[A]], function: str, kept: Callable[[A], str]
    ) -> Done[A] | Repeated:
        handler_ms = 0.0
        while True:
            self.number += 1
            transaction = Transaction(
                self.call, self.number, self._coordinator, self._store, self._platform.clock, self._platform.mutex
            )
            handler_started = self._platform.clock.elapsed()
            try:
                if self.last_loss is not None or self.call.idempotent or self.call.begins:
                    after = self.last_loss.after if self.last_loss is not None else 0
                    await transaction.begin(after)
                result = await self._handle_once(handler, transaction)
                handler_ms += self._platform.clock.elapsed() - handler_started
                txid = await transaction.commit(kept(result) if self.call.idempotent else None)
            except RetryError as loss:
                await self._pause(loss, function)
            except DatabaseUnavailableError:
                await transaction.doubt()
                raise
            except ReplayedError as replayed:
                return await self._first_result(replayed)
            else:
                return Done(result, txid, self.number, handler_ms)
            finally:
                transaction.close()

    async def _handle_once(self, handler: Callable[[Transaction], Awaitable[A]], transaction: Transaction) -> A:
        """Run the function. If it fails for an idempotent call, check whether another run of the call has committed."""
        try:
            return await self._handle(handler, transaction)
        except (RetryError, ReplayedError):
            raise
        except Exception:
            if self.call.idempotent:
                await transaction.check_first()
            raise

    async def _handle(self, handler: Callable[[Transaction], Awaitable[A]], transaction: Transaction) -> A:
        try:
            result: A = await self._platform.within(self._remaining(), _its_own_timeouts(handler(transaction)))
        except _HandlerTimeoutError as error:
            raise error.original from None
        except TimeoutError:
            raise self._too_late() from None
        # A function that never awaits cannot be interrupted: check the clock before anything is committed.
        if self._remaining() <= 0:
            raise self._too_late()
        return result

    async def _pause(self, loss: RetryError, function: str) -> None:
        self.last_loss = loss
        # A restarting or busy coordinator costs time but no attempts.
        self._conflicts += loss.counts
        pause = min(limits.BACKOFF_FIRST_MS * 2.0 ** min(self.number - 1, 16), limits.BACKOFF_LAST_MS)
        pause *= self._platform.random.uniform()
        if loss.reason == CONFLICT and self._conflicts == limits.CONFLICTS_BEFORE_RESERVING:
            # It has its place in line now. The next begin waits there, and a pause would leave the row idle.
            pause = 0.0
        if self._conflicts >= self._max_attempts or pause >= self._remaining():
            raise self._give_up(loss, function) from loss
        if pause:
            await self._platform.clock.sleep(pause)

    def _give_up(self, loss: RetryError, function: str) -> Exception:
        if loss.reason == "busy":
            headers = {"Retry-After": str(limits.BUSY_RETRY_SECONDS)}
            return UnavailableError(
                "too many transactions of this tenant are waiting; try again shortly", code=Code.BUSY, headers=headers
            )
        if not loss.table:
            return UnavailableError(f"this call could not commit: {loss.reason}", headers={"Retry-After": "1"})
        details = {"function": function, "table": loss.table, "key": loss.row_id, "attempts": self.number}
        what = f"row {loss.row_id!r} of table {loss.table!r}" if loss.row_id else f"the rows read from {loss.table!r}"
        lost = f"{self.number} attempt{'' if self.number == 1 else 's'}"
        message = f"{function} lost {lost} to other transactions on {what}; call it again"
        return ConflictError(message, details=details)

    def _remaining(self) -> float:
        return limits.TRANSACTION_MS - (self._platform.clock.elapsed() - self._started)

    def _too_late(self) -> DeadlineExceededError:
        seconds = limits.TRANSACTION_MS // 1000
        return DeadlineExceededError(f"the function did not finish within {seconds} s and was rolled back")

    async def _first_result(self, replayed: ReplayedError) -> Repeated:
        """Return the stored result of the first run of the call: from the coordinator, else from its fence."""
        result = replayed.result
        if result is None:
            found = await self._store.committed(self.call.id)
            result = found[1] if found is not None else None
        if result is None:
            message = "this call was already applied, but its result is no longer known"
            raise ConflictError(message, code=Code.ALREADY_APPLIED)
        return Repeated(result, replayed.txid, self.number)

    async def _leave(self) -> None:
        try:
            await self._coordinator.ask(Leave(self.call.id))
        except CoordinatorUnavailableError:
            return  # the place in line expires anyway


class _HandlerTimeoutError(Exception):
    """The function itself raised TimeoutError, from something it waited for: this is not its own time limit."""

    def __init__(self, original: TimeoutError) -> None:
        super().__init__(str(original))
        self.original = original


async def _its_own_timeouts(handler: Awaitable[A]) -> A:
    try:
        return await handler
    except TimeoutError as error:
        raise _HandlerTimeoutError(error) from error
