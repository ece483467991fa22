"""The shared log in PostgreSQL, in the tables of ``sql/coordination.sql``.

Appending raises the position in the owner's row of ``coordination`` and inserts the batch, in one statement: the row's
lock is what gives the log its order. Time is the database's, so the nodes' clocks do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kontract.core.statements import Statement
from kontract.ports import Database, DatabaseError, DatabaseUnavailableError
from kontract.ports.shared_log import (
    NOTHING,
    READ_BYTES,
    READ_ENTRIES,
    Checkpoint,
    Entry,
    LogUnavailableError,
    TrimmedError,
    WentBackError,
)

NEWS_ENTRIES = 50
"""How many entries of one owner come with the news; there is more at the next question."""

TIMEOUT_MS = 5_000
"""Of each statement."""

UNDEFINED_TABLE = "42P01"

# A statement cannot read its own rows, and neither those that others committed while it waited for the lock. Nothing is
# appended by a node that has read further than there is, or whose last entry is another one: then the database has gone
# back in time. Whether one that is not kept any more was the same cannot be told, so that appends nothing either.
APPEND = """
WITH head AS (
  INSERT INTO coordination (owner, position)
  SELECT $1, 1
  WHERE ($3::bigint = 0 OR EXISTS (SELECT FROM coordination WHERE owner = $1 AND position >= $3))
    AND ($5::bigint IS NULL OR EXISTS (SELECT FROM coordination_log WHERE owner = $1 AND position = $3 AND at = $5))
  ON CONFLICT (owner) DO UPDATE SET position = coordination.position + 1
  RETURNING position
), added AS (
  INSERT INTO coordination_log (owner, position, at, batch)
  SELECT $1, head.position, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, $2 FROM head
  RETURNING position, at
)
SELECT position, at, NULL::bytea AS batch FROM added
UNION ALL
(SELECT position, at, batch FROM coordination_log WHERE owner = $1 AND position > $3 ORDER BY position LIMIT $4)
ORDER BY position
"""

# The end of the log tells "nothing new" from "gone". What is over the bytes is cut off, but never all of it.
READ = """
SELECT head.position, (SELECT at FROM coordination_log WHERE owner = $1 AND position = $2),
       found.position, found.at, found.batch
FROM coordination AS head
LEFT JOIN (
  SELECT position, at, batch, sum(octet_length(batch)) OVER (ORDER BY position) - octet_length(batch) AS before
  FROM (
    SELECT position, at, batch FROM coordination_log WHERE owner = $1 AND position > $2 ORDER BY position LIMIT $3
  ) AS first
) AS found ON found.before < $4
WHERE head.owner = $1
ORDER BY found.position
"""

NEWS = """
SELECT wanted.owner, found.position, found.at, found.batch, wanted.at IS NULL OR wanted.at IS NOT DISTINCT FROM last.at
FROM unnest($1::text[], $2::bigint[], $4::bigint[]) AS wanted (owner, after, at)
LEFT JOIN coordination AS head ON head.owner = wanted.owner
LEFT JOIN coordination_log AS last ON last.owner = wanted.owner AND last.position = wanted.after
LEFT JOIN LATERAL (
  SELECT position, at, batch FROM coordination_log
  WHERE coordination_log.owner = wanted.owner AND position > wanted.after ORDER BY position LIMIT $3
) AS found ON true
WHERE coalesce(head.position, 0) <> wanted.after
ORDER BY wanted.owner, found.position
"""

ENTRIES = """
SELECT position, at, batch FROM coordination_log WHERE owner = $1 AND position = ANY ($2::bigint[]) ORDER BY position
"""

CHECKPOINT = "SELECT position, state FROM coordination_checkpoints WHERE owner = $1"

# Nor is the state of a log kept that this one is not, and nothing is deleted that no checkpoint here stands for.
WRITE_CHECKPOINT = """
INSERT INTO coordination_checkpoints (owner, position, state)
SELECT $1, $2, $3
WHERE EXISTS (SELECT FROM coordination WHERE owner = $1 AND position >= $2)
  AND ($4::bigint IS NULL OR EXISTS (SELECT FROM coordination_log WHERE owner = $1 AND position = $2 AND at = $4))
ON CONFLICT (owner) DO UPDATE SET position = excluded.position, state = excluded.state
WHERE coordination_checkpoints.position < excluded.position
"""

TRIM = """
DELETE FROM coordination_log WHERE owner = $1 AND position < $2 AND position <> ALL ($3::bigint[])
  AND position <= (SELECT position FROM coordination_checkpoints WHERE owner = $1)
"""


class PostgresLog:
    """Implements :class:`~kontract.ports.shared_log.SharedLog`."""

    def __init__(self, open_database: Callable[[], Database]) -> None:
        """Use a connection of ``open_database`` for each call."""
        self._open_database = open_database

    async def append(self, owner: str, after: int, batch: bytes, at: int | None = None) -> list[Entry]:
        """Append: one statement, and another one when others appended at the same moment, or it appended nothing."""
        rows = await self._run(APPEND, owner, batch, after, READ_ENTRIES, at)
        if all(raw is not None for _, _, raw in rows):
            await self.read(owner, after, at)
            raise LogUnavailableError("the log has been replaced")  # and is again what this node has read
        entries = [Entry(position, time, batch if raw is None else raw) for position, time, raw in rows]
        if _follow(entries, after) and sum(len(entry.batch) for entry in entries) <= READ_BYTES + len(batch):
            return entries
        return await self.read(owner, after, at)

    async def read(self, owner: str, after: int, at: int | None = None) -> list[Entry]:
        """Read on."""
        rows = await self._run(READ, owner, after, READ_ENTRIES, READ_BYTES)
        end, last = (rows[0][0], rows[0][1]) if rows else (0, None)
        if end < after or (None not in (at, last) and at != last):
            raise WentBackError
        if at is not None and last is None:
            raise TrimmedError
        if end == after:
            return []
        entries = [Entry(position, time, batch) for _, _, position, time, batch in rows if position is not None]
        if not _follow(entries, after):
            raise TrimmedError
        return entries

    async def news(self, after: Mapping[str, int], at: Mapping[str, int | None] = NOTHING) -> dict[str, list[Entry]]:
        """Ask for all owners in one statement."""
        rows = await self._run(
            NEWS, list(after), list(after.values()), NEWS_ENTRIES, [at.get(owner) for owner in after]
        )
        found: dict[str, list[Entry]] = {}
        for owner, position, time, batch, is_same in rows:
            entries = found.setdefault(owner, [])
            if position is not None and is_same:
                entries.append(Entry(position, time, batch))
        return {owner: entries if _follow(entries, after[owner]) else [] for owner, entries in found.items()}

    async def entries(self, owner: str, positions: Sequence[int]) -> list[Entry]:
        """Read single entries."""
        rows = await self._run(ENTRIES, owner, list(positions))
        return [Entry(position, at, batch) for position, at, batch in rows]

    async def checkpoint(self, owner: str) -> Checkpoint | None:
        """Read the checkpoint."""
        rows = await self._run(CHECKPOINT, owner)
        return Checkpoint(rows[0][0], rows[0][1]) if rows else None

    async def write_checkpoint(self, owner: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint by a newer one."""
        await self._run(WRITE_CHECKPOINT, owner, checkpoint.position, checkpoint.state, checkpoint.at)

    async def trim(self, owner: str, below: int, keep: Sequence[int] = ()) -> None:
        """Delete what is not needed any more."""
        await self._run(TRIM, owner, below, list(keep))

    async def aclose(self) -> None:
        """Nothing: connections are given back after each call."""

    async def _run(self, text: str, *params: Any) -> Sequence[Sequence[Any]]:
        database = self._open_database()
        try:
            return await database.run(Statement(text, params, TIMEOUT_MS))
        except DatabaseError as error:
            if error.sqlstate == UNDEFINED_TABLE:
                message = "the tables of several nodes are missing; run: kontract migrate --coordination"
                raise LogUnavailableError(message) from error
            raise LogUnavailableError(str(error)) from error
        except DatabaseUnavailableError as error:
            raise LogUnavailableError(str(error)) from error
        finally:
            await database.aclose()


def _follow(entries: Sequence[Entry], after: int) -> bool:
    """Whether these are the next entries, without a gap."""
    return bool(entries) and all(entry.position == after + 1 + n for n, entry in enumerate(entries))
