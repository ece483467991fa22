"""``ctx.shared`` in PostgreSQL, for nodes without TiKV: one row a value, every change one statement.

The table is in ``sql/coordination.sql``. Time is PostgreSQL's, so that a value ends for all nodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from kontract.core import limits
from kontract.core.shared.counters import evicted_at_once
from kontract.core.shared.state import (
    SharedAnswer,
    SharedCount,
    SharedDelete,
    SharedGet,
    SharedIncr,
    SharedRefused,
    SharedRequest,
    SharedSet,
    SharedValue,
    counted,
)
from kontract.core.statements import Statement
from kontract.ports import Clock, CoordinatorUnavailableError, Database, DatabaseError, DatabaseUnavailableError
from kontract.server.system import SystemClock

MISSING_TABLE = "42P01"

COUNTERS = "#counters/"
"""Before the owner of counters: no tenant's name has such a character, so they are counted apart from its values."""

_NOW = (
    "WITH t AS MATERIALIZED "
    "(SELECT coalesce($3::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) AS now)"
)
_LIVE = "(s.until IS NULL OR s.until > (SELECT now FROM t))"

GET = f"""
{_NOW}
SELECT s.value, s.until - t.now FROM t JOIN shared AS s ON s.owner = $1::text AND s.key = $2::text WHERE {_LIVE}
"""  # noqa: S608 - made of constants alone, like those below

DELETE = f"""
{_NOW}
DELETE FROM shared AS s USING t WHERE s.owner = $1::text AND s.key = $2::text
RETURNING CASE WHEN {_LIVE} THEN s.value END, s.until - t.now
"""  # noqa: S608

# $4: the value, or the number to add; $5: ms until it ends; $6: how many values there may be, null when nobody counts.
# A row that comes back is the value; none means that it is refused.
_INSERT = f"""
{_NOW}, room AS MATERIALIZED (
  SELECT CASE WHEN $6::bigint IS NULL THEN NULL ELSE $6::bigint - (
    SELECT count(*) FROM shared AS s WHERE s.owner = $1::text AND {_LIVE}) END AS free)
INSERT INTO shared AS s (owner, key, value, until)
SELECT $1::text, $2::text, $4::text, t.now + $5::bigint FROM t, room
WHERE room.free IS NULL OR room.free > 0
  OR EXISTS (SELECT FROM shared AS s WHERE s.owner = $1::text AND s.key = $2::text AND {_LIVE})
ON CONFLICT (owner, key) DO UPDATE SET
"""  # noqa: S608

_RETURNING = "RETURNING s.value, s.until - (SELECT now FROM t), (SELECT free FROM room)"

SET = f"{_INSERT} value = excluded.value, until = excluded.until {_RETURNING}"

# CASE, because AND promises no order, and the cast of a text that is no number would raise.
INCR = f"""{_INSERT}
  value = CASE WHEN {_LIVE} THEN (s.value::numeric + excluded.value::numeric)::text ELSE excluded.value END,
  until = CASE WHEN {_LIVE} THEN s.until ELSE excluded.until END
WHERE CASE
  WHEN NOT {_LIVE} THEN true
  WHEN s.value !~ '^-?[0-9]+$' THEN false
  ELSE abs(s.value::numeric + excluded.value::numeric) < {limits.SHARED_INTEGER} END
{_RETURNING}
"""

# $4: ms that the window has. The third column: whether this was the first of a window.
COUNT = f"""
{_NOW}
INSERT INTO shared AS s (owner, key, value, until) SELECT $1::text, $2::text, '1', t.now + $4::bigint FROM t
ON CONFLICT (owner, key) DO UPDATE SET
  value = CASE WHEN {_LIVE} THEN least(s.value::numeric + 1, {limits.SHARED_INTEGER - 1})::text ELSE '1' END,
  until = CASE WHEN {_LIVE} THEN s.until ELSE excluded.until END
RETURNING s.value, s.until - (SELECT now FROM t), s.value = '1'
"""  # noqa: S608

# $2: how many counters there may be, $4: how many more go when there are. Those that another node is at are left to it.
EVICT = f"""
{_NOW}, mine AS MATERIALIZED (SELECT count(*) AS size FROM shared WHERE owner = $1::text),
gone AS (
  DELETE FROM shared WHERE ctid = ANY (ARRAY(
    SELECT s.ctid FROM shared AS s WHERE s.owner = $1::text
    ORDER BY {_LIVE}, s.value::numeric, s.until
    LIMIT (SELECT CASE WHEN size < $2::bigint THEN 0 ELSE size - $2::bigint + $4::bigint END FROM mine)
    FOR UPDATE SKIP LOCKED
  )) RETURNING 1)
SELECT (SELECT size FROM mine) - (SELECT count(*) FROM gone)
"""  # noqa: S608

COLLECT = """
WITH ended AS (
  SELECT owner, key FROM shared
  WHERE until <= coalesce($1::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
  ORDER BY until LIMIT $2::bigint FOR UPDATE SKIP LOCKED)
DELETE FROM shared AS s USING ended WHERE s.owner = ended.owner AND s.key = ended.key RETURNING 1
"""


class _Common:
    """What the stubs of all owners have in common."""

    def __init__(self, database: Database, clock: Clock, time: Clock | None) -> None:
        self.database = database
        self.clock = clock
        self.time = time
        self.uncounted: dict[str, int] = {}
        """New values that an owner may still have before they are counted again."""
        self.next_collection = 0.0

    @property
    def now(self) -> int | None:
        return None if self.time is None else self.time.now()


class PostgresShared:
    """The shared state of one owner. Implements :class:`kontract.ports.DOStub`."""

    def __init__(
        self, database: Database, owner: str = "", *, time: Clock | None = None, _common: _Common | None = None
    ) -> None:
        """Keep the values of ``owner`` in ``database``, best a pool. ``time``: instead of PostgreSQL's, for tests."""
        self._common = _common or _Common(database, SystemClock(), time)
        self._owner = owner

    def for_owner(self, owner: str) -> PostgresShared:
        """Return the shared state of another owner, over the same database."""
        return PostgresShared(self._common.database, owner, _common=self._common)

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Answer one request."""
        await self._collect_now_and_then()
        match request:
            case SharedGet():
                return _answer(await self._run(GET, request.key))
            case SharedDelete():
                return _answer(await self._run(DELETE, request.key))
            case SharedSet():
                return await self._put(SET, request.key, bytes(request.value).decode(), request.ttl_ms)
            case SharedCount():
                return await self._count_event(request)
            case SharedIncr():
                if abs(request.by) >= limits.SHARED_INTEGER:
                    return _out_of_range(request.key)
                return await self._put(INCR, request.key, str(request.by), request.ttl_ms)

    async def collect(self, rows: int = limits.COLLECT_ROWS) -> int:
        """Remove values of all owners that have ended, at most so many; return how many."""
        return len(await self._ask(Statement(COLLECT, (self._common.now, rows))))

    async def _put(self, text: str, key: str, value: str, ttl_ms: int | None) -> SharedAnswer:
        while True:
            uncounted = self._common.uncounted
            left = uncounted.get(self._owner, 0)
            rows = await self._run(text, key, value, ttl_ms, None if left > 0 else limits.SHARED_KEYS)
            if rows:
                # A quarter of the room, so that four nodes that count no more than this stay below the limit.
                uncounted[self._owner] = left - 1 if rows[0][2] is None else rows[0][2] // 4
                return _answer(rows)
            refused = self._reason(key, await self._run(GET, key), text is INCR)
            if refused is not None:
                return refused
            # It could be changed by now. Somebody else was at it in between.

    async def _count_event(self, request: SharedCount) -> SharedAnswer:
        owner, uncounted = COUNTERS + self._owner, self._common.uncounted
        if uncounted.get(owner, 0) <= 0:
            most = limits.SHARED_COUNTERS
            evict = Statement(EVICT, (owner, most, self._common.now, evicted_at_once(most)))
            size = (await self._ask(evict))[0][0]
            uncounted[owner] = max(1, (most - size) // 4)  # as for values: four nodes together stay below
        rows = await self._ask(Statement(COUNT, (owner, request.key, self._common.now, request.window_ms)))
        count, ttl_ms, first = rows[0]
        uncounted[owner] -= bool(first)
        return counted(int(count), ttl_ms)

    @staticmethod
    def _reason(key: str, found: Sequence[Sequence[Any]], counted: bool) -> SharedRefused | None:  # noqa: FBT001
        """Why a value was not kept, by what is there."""
        if not found:
            kept = limits.SHARED_KEYS
            return SharedRefused(f"there are already {kept} shared values; delete some, or set a ttl")
        if not counted:
            return None
        if found[0][0].removeprefix("-").isdecimal():
            return _out_of_range(key)
        return SharedRefused(f"incr: the value of {key!r} is not a whole number")

    async def _collect_now_and_then(self) -> None:
        now = self._common.clock.elapsed()
        if now < self._common.next_collection:
            return
        self._common.next_collection = now + limits.SHARED_EXPIRY_MS
        if await self.collect() == limits.COLLECT_ROWS:
            self._common.next_collection = 0.0  # there is more; the next request goes on

    async def _run(self, text: str, key: str, *more: str | int | None) -> Sequence[Sequence[Any]]:
        return await self._ask(Statement(text, (self._owner, key, self._common.now, *more)))

    async def _ask(self, statement: Statement) -> Sequence[Sequence[Any]]:
        try:
            return await self._common.database.run(statement)
        except DatabaseUnavailableError as error:
            raise CoordinatorUnavailableError(f"the shared state does not answer: {error}") from error
        except DatabaseError as error:
            hint = "; apply sql/coordination.sql" if error.sqlstate == MISSING_TABLE else ""
            raise CoordinatorUnavailableError(f"the shared state does not answer: {error}{hint}") from error


def _out_of_range(key: str) -> SharedRefused:
    return SharedRefused(f"incr: {key!r} would leave the range of exact integers, 2**53")


def _answer(rows: Sequence[Sequence[Any]]) -> SharedValue:
    if not rows or rows[0][0] is None:
        return SharedValue()
    return SharedValue(Raw(rows[0][0].encode()), rows[0][1])
