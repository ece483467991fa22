"""Counts what a request costs: coordinator calls, SQL statements and their time, for Server-Timing and the log."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec import structs

from kontract.core.statements import Statement
from kontract.ports import Clock, Database

T = TypeVar("T")


@dataclass(slots=True)
class Meter:
    """Counts and milliseconds of one request."""

    coordinator_calls: int = 0
    coordinator_ms: float = 0.0
    statements: int = 0
    database_ms: float = 0.0
    handler_ms: float = 0.0
    attempts: int = 0
    comment: str = ""
    """Appended to each statement; set only for a recorded trace, because it makes each statement new to caches."""

    def server_timing(self) -> str:
        """Return the value of the Server-Timing header."""
        return (
            f'coord;dur={self.coordinator_ms:.1f};desc="{self.coordinator_calls} calls", '
            f'db;dur={self.database_ms:.1f};desc="{self.statements} statements", '
            f'handler;dur={self.handler_ms:.1f}, attempts;desc="{self.attempts}"'
        )


class MeteredDatabase:
    """A database that counts."""

    def __init__(self, inner: Database, meter: Meter, clock: Clock) -> None:
        """Pass everything on to ``inner``."""
        self._inner = inner
        self._meter = meter
        self._clock = clock

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run, and count."""
        self._meter.statements += 1
        if self._meter.comment:
            statement = structs.replace(statement, text=statement.text + self._meter.comment)
        return await self._timed(self._inner.run(statement))

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to give back."""
        return self._inner.is_open

    def warm(self) -> None:
        """Connecting ahead is not counted: it runs beside the coordinator."""
        self._inner.warm()

    async def aclose(self) -> None:
        """Closing is not counted."""
        await self._inner.aclose()

    async def _timed(self, work: Awaitable[T]) -> T:
        started = self._clock.elapsed()
        try:
            return await work
        finally:
            self._meter.database_ms += self._clock.elapsed() - started
