"""All SQL about fences, epochs and the collection, for coordinators and for workers in doubt.

The rules of :mod:`kontract.core.transaction.sql` apply, which has the statements of functions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from kontract.core import limits
from kontract.core.statements import Statement
from kontract.core.transaction import sql

# --- the fence and the epoch -----------------------------------------------------------------------------------------

RESOLVE = """
INSERT INTO trxs (sid, owner, create_txid) VALUES ($1::text, $2::text, -$3::bigint)
ON CONFLICT (sid) DO UPDATE SET sid = trxs.sid
RETURNING create_txid
"""

RAISE_EPOCH = """
INSERT INTO trxs (sid, owner, create_txid) VALUES ('epoch/' || $1::text, $1::text, $2::bigint)
ON CONFLICT (sid) DO UPDATE SET create_txid = excluded.create_txid WHERE trxs.create_txid = $3::bigint
RETURNING create_txid
"""

READ_EPOCH = "SELECT create_txid FROM trxs WHERE sid = 'epoch/' || $1::text AND now() IS NOT NULL"

STANDING = f"""
SELECT create_txid, ({sql.MISSING.format(p=2)}
) FROM trxs WHERE sid = 'epoch/' || $1::text AND now() IS NOT NULL
"""

LOST = "went back"
"""``trxs.owner`` of rows that record lost acknowledged commits. It is not an owner: tokens cannot name it."""

# One row for each event, and one with a fixed name, which /ready can look up cheaply.
NOTE_LOSS = """
WITH noted AS (
  INSERT INTO trxs
  SELECT note.* FROM jsonb_populate_record(NULL::trxs, jsonb_build_object(
    'sid', 'went back/' || $1::text || '/' || $2::bigint, 'owner', 'went back', 'create_txid', $3::bigint,
    'result', $4::text)) AS note
  ON CONFLICT (sid) DO NOTHING
)
INSERT INTO trxs (sid, owner, create_txid) VALUES ('went back', 'went back', $3::bigint)
ON CONFLICT (sid) DO UPDATE SET create_txid = greatest(trxs.create_txid, excluded.create_txid)
RETURNING 1
"""

NEWEST_LOSS = "SELECT create_txid FROM trxs WHERE sid = 'went back' AND now() IS NOT NULL"

HIGHEST_FENCE = """
SELECT coalesce(max(abs(create_txid)), 0) FROM trxs
WHERE owner = $1::text AND sid NOT LIKE 'epoch/%' AND now() IS NOT NULL
"""

POINTERS = """
SELECT DISTINCT s.ptr FROM storage AS s
WHERE s.owner = $1::text AND now() IS NOT NULL AND 2 = (
  SELECT count(*) FROM pg_catalog.pg_attribute AS a
  WHERE a.attrelid = to_regclass(quote_ident(s.ptr)) AND a.attname IN ('_txid', '_deleted_txid') AND NOT a.attisdropped
)
"""


ROW_ORDER = """
SELECT s.ptr, coalesce(CASE WHEN has_sequence_privilege(q.seq, 'USAGE') THEN pg_sequence_last_value(q.seq) END, 0)
FROM (SELECT DISTINCT ptr FROM storage WHERE owner = $1::text) AS s
JOIN pg_catalog.pg_attribute AS o
  ON o.attrelid = to_regclass(quote_ident(s.ptr)) AND o.attname = '_order' AND NOT o.attisdropped,
LATERAL (SELECT pg_get_serial_sequence(quote_ident(s.ptr), o.attname)::regclass AS seq) AS q
WHERE now() IS NOT NULL
"""


def row_order(owner: str) -> Statement:
    """Return (ptr, last number of its sequence) for each table of an owner: no row of it has a higher one."""
    return Statement(ROW_ORDER, (owner,), limits.STATEMENT_MS)


def resolve(sid: str, owner: str, txid: int) -> Statement:
    """Write the abort fence, or read the existing one; waits for an apply statement in flight.

    Returns one row: ``txid`` (committed), ``-txid`` (aborted for good), or another number when the fence is that of
    another attempt of the same idempotent call.
    """
    return Statement(RESOLVE, (sid, owner, txid), limits.STATEMENT_MS)


ASKED = 8
"""Fences of one call that are asked for at a time. Nearly always the first is the only one."""


def of_call(call: str, first: int) -> Statement:
    """Return (create_txid, result) of the fences of a call from number ``first`` on, ASKED of them at most.

    The result is null if none was stored, and in a database without a column for it.
    """
    sids = ", ".join(f"$1::text || '/{number}'" for number in range(first, first + ASKED))
    text = (
        "SELECT f.create_txid, to_jsonb(f)->>'result' FROM trxs AS f "
        f"WHERE f.sid = ANY (ARRAY[{sids}]) AND now() IS NOT NULL"
    )
    return Statement(text, (call,), limits.STATEMENT_MS)


def raise_epoch(owner: str, epoch: int, before: int) -> Statement:
    """Take over an owner: wait for applies in flight; every later apply of an older epoch fails.

    If the epoch is no longer ``before`` (0: none), nothing changes and no row is returned. So a statement that
    arrives late, after its sender has given up and taken over again, does not supersede that one.
    """
    return Statement(RAISE_EPOCH, (owner, epoch, before), limits.STATEMENT_MS)


def read_epoch(owner: str) -> Statement:
    """Return the epoch that may commit; no row before the first coordinator of this owner."""
    return Statement(READ_EPOCH, (owner,), limits.STATEMENT_MS)


def standing(owner: str, witnesses: Sequence[str]) -> Statement:
    """Return (epoch that may commit, how many of these fences are missing); no row without an epoch."""
    return Statement(STANDING, (owner, json.dumps(witnesses)), limits.STATEMENT_MS)


def note_loss(owner: str, epoch: int, now: int, note: str) -> Statement:
    """Record for operators that the database had gone back when ``epoch`` began. ``note``: JSON."""
    return Statement(NOTE_LOSS, (owner, epoch, now, note), limits.STATEMENT_MS)


def newest_loss() -> Statement:
    """Return when the database was last found to have gone back, in milliseconds; no row: never."""
    return Statement(NEWEST_LOSS)


def highest_fence(owner: str) -> Statement:
    """Return the highest txid among the fences of an owner."""
    return Statement(HIGHEST_FENCE, (owner,))


def pointers(owner: str) -> Statement:
    """Return the physical tables of an owner, those that exist and hold versions."""
    return Statement(POINTERS, (owner,))


def highest_txid(ptrs: Sequence[str]) -> Statement:
    """Return the highest txid in the rows of these tables."""
    parts = [f"SELECT greatest(max(_txid), max(_deleted_txid)) AS txid FROM {sql.quote(ptr)}" for ptr in ptrs]
    return Statement(
        f"SELECT coalesce(max(txid), 0) FROM ({' UNION ALL '.join(parts)}) AS tables WHERE now() IS NOT NULL"
    )


# The gateway's own table, in plain JSON as accounts.py keeps it. Both conditions before the last stand word for word in
# the index of sql/init.sql, without which this reads the whole table.
_ENDED_SESSIONS = """
SELECT id, (data->>'until')::bigint FROM {table}
WHERE _deleted_txid IS NULL AND data @> '{{"ended": true}}'
  AND (data->>'until')::bigint > floor(extract(epoch FROM now()) * 1000)::bigint
  AND data->>'owner' = $1::text
ORDER BY (data->>'until')::bigint DESC LIMIT $2::bigint
"""


def ended_sessions(ptr: str, owner: str) -> Statement:
    """Return the ended sessions of a tenant: (id, until when this matters, in ms since the epoch)."""
    return Statement(_ENDED_SESSIONS.format(table=sql.quote(ptr)), (owner, limits.ENDED_SESSIONS))


# --- collection ------------------------------------------------------------------------------------------------------

# Rows are locked without waiting: the collection neither waits for an apply in flight nor deadlocks with one. The
# second test of _deleted_txid is for a tombstone of a plain table that was taken over meanwhile.
_COLLECT_VERSIONS = """
WITH epoch AS MATERIALIZED (
  SELECT create_txid AS current FROM trxs WHERE sid = 'epoch/' || $1::text FOR SHARE
), gone AS (
  DELETE FROM {table} WHERE _deleted_txid <= $3::bigint AND ctid = ANY (ARRAY(
    SELECT t.ctid FROM epoch, {table} AS t
    WHERE epoch.current = $2::bigint AND t._deleted_txid <= $3::bigint
    LIMIT $4::bigint
    FOR UPDATE OF t SKIP LOCKED
  ))
  RETURNING 1
)
SELECT (SELECT current FROM epoch), (SELECT count(*) FROM gone)
"""

_COLLECT_FENCES = """
WITH epoch AS MATERIALIZED (
  SELECT create_txid AS current FROM trxs WHERE sid = 'epoch/' || $1::text FOR SHARE
), gone AS (
  DELETE FROM trxs WHERE sid = ANY (ARRAY(
    SELECT f.sid FROM epoch, trxs AS f
    WHERE epoch.current = $2::bigint AND f.owner = $1::text AND abs(f.create_txid) <= $3::bigint
      AND f.sid NOT LIKE 'epoch/%'
    LIMIT $4::bigint
    FOR UPDATE OF f SKIP LOCKED
  ))
  RETURNING 1
)
SELECT (SELECT current FROM epoch), (SELECT count(*) FROM gone)
"""


def collect_versions(owner: str, epoch: int, ptr: str, up_to: int) -> Statement:
    """Remove a batch of versions (and tombstones) that ended at or below ``up_to``: (epoch in force, rows removed)."""
    text = _COLLECT_VERSIONS.format(table=sql.quote(ptr))
    return Statement(text, (owner, epoch, up_to, limits.COLLECT_ROWS), limits.STATEMENT_MS)


def collect_fences(owner: str, epoch: int, up_to: int) -> Statement:
    """Remove a batch of fences of txids at or below ``up_to``: (epoch in force, rows removed)."""
    return Statement(_COLLECT_FENCES, (owner, epoch, up_to, limits.COLLECT_ROWS), limits.STATEMENT_MS)


# Ids of sessions are UUIDs of version 7 and begin with the time when they were made, so those before $2 come first in
# the primary key. The highest txid stays on record, as with fences.
_COLLECT_SESSIONS = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
  SELECT t.ctid FROM {table} AS t
  WHERE t.id < $2::text AND t._deleted_txid IS NULL
    AND t._txid < (SELECT coalesce(max(abs(create_txid)), 0) FROM trxs WHERE owner = $1::text)
    AND coalesce((t.data->>'refreshed_at')::bigint, 0) < $3::bigint
    AND coalesce((t.data->>'until')::bigint, 0) < $4::bigint
  ORDER BY t.id LIMIT $5::bigint
  FOR UPDATE OF t SKIP LOCKED
)) AND _deleted_txid IS NULL
RETURNING 1
"""


def collect_sessions(ptr: str, owner: str, now: int) -> Statement:
    """Remove a batch of sessions without valid tokens at ``now`` (ms since the Unix epoch): one row for each."""
    before = now - (limits.REFRESH_SECONDS + limits.TOKEN_LEEWAY_SECONDS) * 1000
    bits = f"{max(0, before):012x}"
    params = (owner, f"{bits[:8]}-{bits[8:]}", before, now, limits.COLLECT_ROWS)
    return Statement(_COLLECT_SESSIONS.format(table=sql.quote(ptr)), params, limits.STATEMENT_MS)
