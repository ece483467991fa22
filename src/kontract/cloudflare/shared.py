"""Shared values and counters in a Durable Object's SQLite storage."""

from __future__ import annotations

from typing import Any

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS shared (key TEXT PRIMARY KEY, value TEXT NOT NULL, until INTEGER)",
    "CREATE INDEX IF NOT EXISTS shared_by_end ON shared (until) WHERE until IS NOT NULL",
)

COUNTERS = (
    "CREATE TABLE IF NOT EXISTS counters (key TEXT PRIMARY KEY, count INTEGER NOT NULL, until INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS counters_by_end ON counters (until)",
)


class SqliteRows:
    """Implements :class:`kontract.core.shared.state.SharedRows`."""

    def __init__(self, sql: Any) -> None:
        """Use ``ctx.storage.sql`` of the object."""
        self._sql = sql
        for statement in SCHEMA:
            sql.exec(statement)
        self._count = int(self._rows("SELECT count(*) FROM shared")[0][0])

    def get(self, key: str) -> tuple[str, int | None] | None:
        """Return a value and its end."""
        # NULL does not cross the border: JavaScript's null is an object in Python, and not None.
        rows = self._rows("SELECT value, coalesce(until, 0) FROM shared WHERE key = ?", key)
        return (str(rows[0][0]), int(rows[0][1]) or None) if rows else None

    def put(self, key: str, value: str, until: int | None) -> None:
        """Keep a value."""
        self._count += self.get(key) is None
        self._sql.exec(
            "INSERT OR REPLACE INTO shared (key, value, until) VALUES (?, ?, nullif(?, 0))", key, value, until or 0
        )

    def delete(self, key: str) -> None:
        """Forget a value."""
        self._count -= self.get(key) is not None
        self._sql.exec("DELETE FROM shared WHERE key = ?", key)

    def expire(self, now: int) -> None:
        """Forget what has ended."""
        self._sql.exec("DELETE FROM shared WHERE until <= ?", now)
        self._count = int(self._rows("SELECT count(*) FROM shared")[0][0])

    def count(self) -> int:
        """Count the values: kept as a number, because SQLite would read them all."""
        return self._count

    def _rows(self, statement: str, *params: Any) -> list[list[Any]]:
        return [list(row) for row in self._sql.exec(statement, *params).raw().toArray()]


class SqliteCounters:
    """Implements :class:`kontract.core.shared.counters.CounterRows`."""

    def __init__(self, sql: Any) -> None:
        """Use ``ctx.storage.sql`` of the object."""
        self._sql = sql
        for statement in COUNTERS:
            sql.exec(statement)
        self._size = self._counted()

    def get(self, key: str) -> tuple[int, int] | None:
        """Return a counter."""
        rows = self._rows("SELECT count, until FROM counters WHERE key = ?", key)
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    def put(self, key: str, count: int, until: int) -> None:
        """Keep a counter."""
        self._size += self.get(key) is None
        self._sql.exec("INSERT OR REPLACE INTO counters (key, count, until) VALUES (?, ?, ?)", key, count, until)

    def expire(self, now: int) -> None:
        """Forget what has ended."""
        self._sql.exec("DELETE FROM counters WHERE until <= ?", now)
        self._size = self._counted()

    def evict(self, rows: int) -> None:
        """Forget what has counted least."""
        self._sql.exec(
            "DELETE FROM counters WHERE key IN (SELECT key FROM counters ORDER BY count, until LIMIT ?)", rows
        )
        self._size = self._counted()

    def size(self) -> int:
        """Count the counters: kept as a number, because SQLite would read them all."""
        return self._size

    def _counted(self) -> int:
        return int(self._rows("SELECT count(*) FROM counters")[0][0])

    def _rows(self, statement: str, *params: Any) -> list[list[Any]]:
        return [list(row) for row in self._sql.exec(statement, *params).raw().toArray()]
