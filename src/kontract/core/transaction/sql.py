"""All SQL that runs while functions are served, as text and bound parameters.

Rules:

- the only identifiers built into text are physical table names, which match :data:`IDENTIFIER` and are quoted; every
  other value is a bound parameter with an explicit cast, so that drivers which send text and drivers which send binary
  mean the same;
- every statement stands alone: no session state, no named prepared statement, no transaction block, so that it works
  through transaction poolers (PgBouncer, Hyperdrive);
- a failed expectation is raised *inside* the statement by a cast that cannot succeed, of a text made from the counts
  (so that the planner cannot fold it): PostgreSQL then undoes the whole statement.
  :mod:`kontract.core.transaction.sqlstates` reads it back;
- a statement whose answer may change over time names ``now()``, which keeps Hyperdrive's query cache away; snapshot
  reads carry their snapshot as a parameter and may be cached for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec

from kontract.core import limits
from kontract.core.messages import ABSENT, Write
from kontract.core.statements import ApplyPlan, Pending, Selection, Statement, Window
from kontract.core.transaction.select import VIEW
from kontract.core.transaction.select import stop as select_stop
from kontract.core.types import Bound, Filter, Order, Snapshot, TableKind, TablePointer

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)

_Value: TypeAlias = str | int | list[str] | None
"""A bound parameter."""

TOO_OLD_ID = "\x01too old"
"""The id of the marker row by which a read of a plain table says that it met a version newer than its snapshot."""


def quote(identifier: str) -> str:
    """Quote a physical table name; raises ValueError for anything that is not a plain identifier."""
    if not IDENTIFIER.fullmatch(identifier):
        message = f"{identifier!r} is not a table name: it must match {IDENTIFIER.pattern}"
        raise ValueError(message)
    return f'"{identifier}"'


# --- what the planner is told ----------------------------------------------------------------------------------------


def at_most(rows: int) -> int:
    """Return a bound for a list of so many rows: the next power of two, so that there are few texts.

    The planner takes a list for 100 rows, for which it would rather read a table of 20,000 rows than use its index.
    """
    return 1 << max(rows - 1, 0).bit_length()


def by_index(condition: str, column: str) -> str:
    """Return a condition that says no more than ``condition``, and keeps the planner at the index made for it.

    ``condition``: that of a partial index, in the statement already. What follows from it is dropped where the index is
    used, and would cost more than any table anywhere else. It is never evaluated: the first half is true or the row is
    out. Without it a plan made for an empty table reads all of it, and a prepared statement keeps that plan while the
    table grows. Two of them
    cost less than PostgreSQL's jit_above_cost.
    """
    return f"({condition} OR {column} IN (SELECT count(*)::text FROM generate_series(1, 3000000)))"


# --- looking up ------------------------------------------------------------------------------------------------------

ADOPTED = "kontract: adopted "
"""The comment of an adopted table's primary key: this, and the time in seconds of PostgreSQL's clock."""

JUST_ADOPTED = 3
"""In place of the number of key columns: adopted less than a minute ago, longer than any snapshot is in use."""

LOOKUP = """
SELECT s.ptr, s.permissions, CASE
    WHEN now() < to_timestamp(
      substring(obj_description(i.indexrelid, 'pg_class') FROM '^kontract: adopted ([0-9]{1,12})$')::bigint
    ) + interval '60 seconds' THEN 3
    ELSE i.indnkeyatts END,
  (SELECT CASE WHEN has_sequence_privilege(q.seq, 'USAGE') THEN pg_sequence_last_value(q.seq) END
   FROM (SELECT pg_get_serial_sequence(quote_ident(s.ptr), o.attname)::regclass AS seq) AS q),
  CASE WHEN o.atttypid = 'int8'::regtype THEN 8 ELSE 4 END
FROM storage AS s
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = to_regclass(quote_ident(s.ptr)) AND i.indisprimary
LEFT JOIN pg_catalog.pg_attribute AS o
  ON o.attrelid = to_regclass(quote_ident(s.ptr)) AND o.attname = '_order' AND NOT o.attisdropped
WHERE s.owner = $1::text AND s.id IN ($2::text, $1::text || '/' || $2::text) AND now() IS NOT NULL
ORDER BY s.id = $2::text DESC
LIMIT 1
"""


def lookup(owner: str, name: str) -> Statement:
    """Where a logical table is; no row when the owner has no such table.

    (ptr, permissions, columns of the primary key, last number that its sequence gave or None, bytes of ``_order``). In
    the first minute after its adoption the third column is JUST_ADOPTED.
    """
    return Statement(LOOKUP, (owner, name))


READY = Statement("SELECT 1 FROM trxs WHERE sid = '' AND now() IS NOT NULL FOR SHARE")
"""Does the database answer and accept writes? The row does not exist, but PostgreSQL rejects the lock without the right
to write: it returns 25006 on a standby and in a read-only session, 42P01 without the schema, 42501 without rights."""


# --- reading at a snapshot -------------------------------------------------------------------------------------------

COLUMNS = "id, data::text AS data, _txid, _owner"


def visible(current: str) -> str:
    """Return the condition for the versions of a snapshot S; ``current`` is the placeholder of S + 1.

    Spelled so that it is no partial index's condition: where nobody has analysed the table, the planner takes its live
    rows for few, and goes through all of them by such an index rather than by one for the question.
    """
    return f"_txid < {current}::bigint AND coalesce(_deleted_txid, {2**63 - 1}) >= {current}::bigint"


def visible_by_parts(current: str) -> str:
    """Return the same, spelled so that the planner may join a partial index of live rows with that of ended ones.

    For what ``exec`` asks: indexes that an application has made of its live rows serve it.
    """
    return f"_txid < {current}::bigint AND ({LIVE} OR _deleted_txid >= {current}::bigint)"


def _too_old_marker(pointer: TablePointer, current: str, where: str = "true") -> str:
    """Return the part of a read of a plain or just adopted table that reports a version the snapshot cannot pass."""
    if pointer.kind is TableKind.VERSIONED and not pointer.just_adopted:
        return ""
    # chr(1) || 'too old' is TOO_OLD_ID
    return (
        f" UNION ALL SELECT chr(1) || 'too old', NULL, 0, '' WHERE EXISTS (SELECT FROM {quote(pointer.ptr)} "
        f"WHERE _txid >= {current}::bigint AND {where})"
    )


def _row_in_bounds(row: str) -> str:
    """Return a SELECT of COLUMNS of one row; its ``data`` is NULL when it is larger than PAGE_BYTES.

    OFFSET 0 keeps the planner from making the text twice.
    """
    return (
        f"SELECT id, CASE WHEN octet_length(data) <= {limits.PAGE_BYTES} THEN data END AS data, _txid, _owner "
        f"FROM ({row} OFFSET 0) AS row"
    )


def _page_in_bounds(page: str) -> str:
    """Return a SELECT of COLUMNS of a page in its order; ``data`` is NULL from where the page is over PAGE_BYTES on.

    ``page`` selects id, data (jsonb), _txid and _owner. What the rows take in storage, which costs nothing to ask, ends
    the making of text; the length of the text, which may be much larger, ends what is sent.
    """
    most, running = limits.PAGE_BYTES, "OVER (ROWS UNBOUNDED PRECEDING)"
    return (
        f"SELECT id, CASE WHEN sum(octet_length(data)) {running} <= {most} THEN data END AS data, _txid, _owner FROM ("
        f"SELECT id, CASE WHEN sum(pg_column_size(data)) {running} - pg_column_size(data) <= {most} "
        f"THEN data::text END AS data, _txid, _owner FROM ({page}) AS page OFFSET 0) AS sized"
    )


def read_row(pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Statement:
    """One row by id, as it was at the snapshot; its data is NULL when it is too large."""
    version = f"SELECT * FROM {quote(pointer.ptr)} WHERE id = $1::text"
    if pointer.kind is TableKind.VERSIONED:  # each version ends before the next begins: the others need no look
        version += " AND _txid < $2::bigint ORDER BY _txid DESC LIMIT 1"
    row = _row_in_bounds(f"SELECT {COLUMNS} FROM ({version}) AS version WHERE {visible('$2')}")
    text = f"{row}{_too_old_marker(pointer, '$2', 'id = $1::text')}"
    return Statement(text, (row_id, snapshot + 1))


def read_rows(pointer: TablePointer, row_ids: Sequence[str], snapshot: Snapshot) -> Statement:
    """Rows by their ids, in the order of these; the data of those that do not fit into a page is NULL."""
    page = _page_in_bounds(
        f"SELECT id, data, _txid, _owner FROM {quote(pointer.ptr)} WHERE id = ANY($1::text[]) AND {visible('$2')} "
        'ORDER BY id COLLATE "C"'
    )
    marker = _too_old_marker(pointer, "$2", "id = ANY($1::text[])")
    return Statement(f"SELECT * FROM ({page}) AS page{marker}", (list(row_ids), snapshot + 1))


_ZONE = "'([Zz]|[+-][0-9][0-9]:?[0-9][0-9])$'"

# What orders and filters compare, from the text of a field (``data->>'f'``). Rows of older releases, and those that
# others write, spell instants, times and decimals in their own ways: a datetime without an offset was taken for UTC.
_COMPARED: dict[Order, str] = {
    Order.TEXT: '({0}) COLLATE "C"',
    Order.NUMBER: "({0})::numeric",
    Order.BOOLEAN: "({0})::boolean",
    Order.INSTANT: f"({{0}} || CASE WHEN {{0}} ~ {_ZONE} THEN '' ELSE 'Z' END)::timestamptz",
    Order.TIME: "({0})::time",
}


def compared(order: Order, text: str) -> str:
    """Return the SQL expression by which values of a field compare; ``text``: an expression of the field's text."""
    return _COMPARED[order].format(text)


def _matches(wanted: Filter, params: list[_Value]) -> list[str]:
    """Return the conditions that a filter means, and add their parameters."""
    conditions = []
    values = dict(wanted.contains or {})
    typed = [(field, order, values.pop(field)) for field, order in wanted.typed]
    if values:
        params.append(msgspec.json.encode(values).decode())
        conditions.append(f"data @> ${len(params)}::jsonb")
    if wanted.id is not None:
        params.append(wanted.id)
        conditions.append(f"id = ${len(params)}::text")
    for field, order, value in typed:
        params += [field, str(value)]
        field_text, value_text = f"data->>(${len(params) - 1}::text)", f"${len(params)}::text"
        conditions.append(f"{compared(order, f'({field_text})')} = {compared(order, value_text)}")
    return conditions + [_passes(bound, params) for bound in wanted.bounds]


def _passes(bound: Bound, params: list[_Value]) -> str:
    """Return the condition that a comparison means, and add its parameters."""
    if bound.field:
        params.append(bound.field)
        field = compared(bound.order, f"(data->>(${len(params)}::text))")
    else:
        field = 'id COLLATE "C"'
    if bound.op == "in":
        params.append(list(bound.values))
        return f"{field} = ANY(${len(params)}::text[]{_ARRAYS[bound.order]})"
    params.append(bound.values[0])
    return f"{field} {bound.op} {compared(bound.order, f'${len(params)}::text')}"


_ARRAYS: dict[Order, str] = {
    Order.TEXT: "",
    Order.NUMBER: "::numeric[]",
    Order.BOOLEAN: "::boolean[]",
    Order.INSTANT: "::timestamptz[]",
    Order.TIME: "::time[]",
}


LIVE = "_deleted_txid IS NULL"
"""The condition of the unique index of live rows, ``.._live``."""

IN_ORDER = "coalesce(_deleted_txid, 0) = 0"
"""The same, spelled otherwise: that of the index in the order of insertion, ``.._order``, which has ids in it, too."""

_ROW = "SELECT id, data, _txid, _owner, _order::bigint AS position FROM"


def _rows(
    pointer: TablePointer,
    conditions: Sequence[str],
    pending: Sequence[Pending],
    params: list[_Value],
    *,
    first: str = "",
    index: str = "",
    seen: str = "",
) -> str:
    """Return a CTE ``rows`` (id, data jsonb, _txid, _owner, position): the snapshot with this transaction's own writes.

    PostgreSQL itself overlays the buffered writes, so that filters and orders mean the same for both. ``$1`` is the
    snapshot + 1. ``first``: the order and limit after which nothing more of the table is needed, and ``index`` the
    condition of the index in this order. ``seen``: :func:`visible` in
    another spelling.
    """
    seen = seen or visible("$1")
    table = quote(pointer.ptr)
    more = list(conditions)
    if pointer.only is not None:
        params.append(pointer.only)
        more.append(f"_owner = ${len(params)}::text")
    if pending:
        more.append("id NOT IN (SELECT id FROM own)")
    parts = []
    if pending:
        own_rows = [f'{{"id":{json.dumps(p.id, ensure_ascii=False)},"data":{p.data or "null"}}}' for p in pending]
        params.append(f"[{','.join(own_rows)}]")
        parts.append(
            "own AS MATERIALIZED (SELECT e.value->>'id' AS id, nullif(e.value->'data', 'null'::jsonb) AS data, e.n "
            f"FROM jsonb_array_elements(${len(params)}::jsonb) WITH ORDINALITY AS e(value, n) "
            f"LIMIT {at_most(len(pending))})"
        )
    # Of what has ended, only what a transaction after the snapshot has ended is still to be seen, and that is little.
    ended = f"_deleted_txid >= $1::bigint AND {by_index('_deleted_txid IS NOT NULL', 'id')} AND _txid < $1::bigint"
    live = f"{LIVE} AND _txid < $1::bigint"
    places = [f"{live} AND {by_index(LIVE, 'id')}", ended]
    if pointer.kind is TableKind.PLAIN:
        stored, places = f"{_ROW} {table} WHERE {' AND '.join([seen, *more])}", [seen]
    elif index:
        # MATERIALIZED: merged with the live rows it would be planned as if it were many.
        parts.append(f"ended AS MATERIALIZED ({_ROW} {table} WHERE {' AND '.join([ended, *more])})")
        of_live = [live, index, by_index(index, "id"), *more]
        stored = f"({_ROW} {table} WHERE {' AND '.join(of_live)} {first}) UNION ALL SELECT * FROM ended"
    else:
        stored = f"{_ROW} {table} WHERE {' AND '.join([seen, *more])}"
    if pending:
        # New rows come after all others in insertion order; changed rows keep their place.
        kept = ", ".join(f"(SELECT _order FROM {table} WHERE id = p.id AND {place})" for place in places)
        stored += (
            " UNION ALL SELECT p.id, p.data, 0::bigint AS _txid, ''::text AS _owner, "
            f"coalesce({kept}, 4611686018427387904 + p.n) AS position "
            f"FROM own AS p WHERE {' AND '.join(['p.data IS NOT NULL', *conditions])}"
        )
    return f"WITH {', '.join([*parts, f'rows AS ({stored})'])}"


def query(
    pointer: TablePointer, wanted: Filter, snapshot: Snapshot, window: Window, pending: Sequence[Pending] = ()
) -> Statement:
    """Rows that contain ``wanted``, in order of id or of one top-level field and then id.

    When the page is over its bytes, the data of its last rows is NULL: they belong to the next one.

    Rows whose field is null or absent come first. Where its type is not declared, orders are those of jsonb: null
    first, then strings, numbers, booleans, arrays, objects.
    """
    params: list[_Value] = [snapshot + 1]
    conditions = _matches(wanted, params)
    direction = "DESC NULLS LAST" if window.descending else "ASC NULLS FIRST"
    by_id = 'id COLLATE "C"'
    field = ""
    if window.order_by is not None:
        params.append(window.order_by)
        name = f"(${len(params)}::text)"
        untyped = f"coalesce(data->{name}, 'null'::jsonb)"
        field = untyped if window.order is None else compared(window.order, f"(data->>{name})")
    conditions += _beyond(window, field, by_id, params)
    params.append(window.limit)
    is_ordered = wanted.id is not None or not (field or wanted.contains or wanted.bounds)
    # Never null, so the words mean nothing, and no index is in that order. With a filter that is wanted: the planner
    # would walk the whole index for the few rows that match, because it takes them for many.
    by = by_id + (f" {'DESC' if window.descending else 'ASC'}" if is_ordered else f" {direction}")
    first = f"ORDER BY {f'{field} {direction}, ' if field else ''}{by} LIMIT ${len(params)}::bigint"
    rows = _rows(pointer, conditions, pending, params, first=first, index=LIVE if is_ordered else "")
    page = _page_in_bounds(f"SELECT id, data, _txid, _owner FROM rows {first}")
    return Statement(f"{rows} SELECT * FROM ({page}) AS page{_too_old_marker(pointer, '$1')}", tuple(params))


def _beyond(window: Window, field: str, by_id: str, params: list[_Value]) -> list[str]:
    """Return the condition for rows after the last one of the page before, if any, and add its parameters."""
    if window.after is None:
        return []
    params.append(window.after)
    after = f"${len(params)}::text"
    sign = "<" if window.descending else ">"
    if not field:
        return [f"{by_id} {sign} {after}"]
    if window.order is None:
        params.append(window.after_value or "null")
        return [f"({field}, {by_id}) {sign} (${len(params)}::jsonb, {after})"]
    if window.after_value in (None, "null"):
        later = "" if window.descending else f" OR {field} IS NOT NULL"
        return [f"(({field} IS NULL AND {by_id} {sign} {after}){later})"]
    params.append(window.after_value)
    value = compared(window.order, f"(${len(params)}::jsonb #>> '{{}}')")
    later = f" OR {field} IS NULL" if window.descending else ""
    return [f"(({field}, {by_id}) {sign} ({value}, {after}){later})"]


def end_row(pointer: TablePointer, snapshot: Snapshot, pending: Sequence[Pending], *, last: bool) -> Statement:
    """Return the row that was inserted last (or first): what pop (or shift) takes."""
    params: list[_Value] = [snapshot + 1]
    direction = "DESC" if last else "ASC"
    first = f'ORDER BY {{}} {direction}, id COLLATE "C" {direction} LIMIT 1'
    rows = _rows(pointer, [], pending, params, first=first.format("_order"), index=IN_ORDER)
    row = _row_in_bounds(
        "SELECT id, data::text AS data, _txid, _owner FROM (SELECT id, data, _txid, _owner FROM rows "
        f"{first.format('position')}) AS end_row"
    )
    return Statement(f"{rows} SELECT * FROM ({row}) AS row{_too_old_marker(pointer, '$1')}", tuple(params))


def count(pointer: TablePointer, wanted: Filter, snapshot: Snapshot, pending: Sequence[Pending] = ()) -> Statement:
    """One row whose ``_txid`` column holds the number of matching rows."""
    params: list[_Value] = [snapshot + 1]
    rows = _rows(pointer, _matches(wanted, params), pending, params)
    text = f"{rows} SELECT 'count', NULL::text, count(*), '' FROM rows{_too_old_marker(pointer, '$1')}"
    return Statement(text, tuple(params))


def select(
    pointer: TablePointer, selection: Selection, snapshot: Snapshot, pending: Sequence[Pending] = ()
) -> Statement:
    """Rows whose ``data`` are the rows of a checked SELECT over this table as JSON, one more than may be answered.

    Raises inside PostgreSQL: TOO_LARGE, as soon as they are more than SELECT_BYTES together.
    """
    params: list[_Value] = [snapshot + 1]
    prefix = _rows(pointer, [], pending, params, seen=visible_by_parts("$1"))
    size = "octet_length(data::text)"
    within = ""
    if selection.row_bytes:
        within = f" WHERE CASE WHEN {size} > {selection.row_bytes} THEN {select_stop(size)} > 0 ELSE TRUE END"
    inner = selection.text(len(params))
    params += selection.values()
    running = "sum(octet_length(data)) OVER (ROWS UNBOUNDED PRECEDING)"
    text = (
        f'{prefix}, {VIEW} AS (SELECT id COLLATE "C" AS id, {selection.view}, _txid, _owner FROM rows{within}) '
        f"SELECT * FROM (SELECT 'row', CASE WHEN {running} > {limits.SELECT_BYTES} THEN {select_stop(running)}::text "
        "ELSE data END, 0, '' FROM ("
        f"SELECT to_jsonb(q)::text AS data FROM (SELECT * FROM ({inner}) AS q LIMIT {limits.QUERY_ROWS + 1}) AS q "
        f"OFFSET 0) AS sized) AS page{_too_old_marker(pointer, '$1')}"
    )
    return Statement(text, tuple(params), limits.STATEMENT_MS)


def has_newer(pointer: TablePointer, snapshot: Snapshot) -> Statement:
    """Return a row if a version begins after the snapshot."""
    text = f"SELECT 1 WHERE EXISTS (SELECT FROM {quote(pointer.ptr)} WHERE _txid > $1::bigint) AND now() IS NOT NULL"
    return Statement(text, (snapshot,))


def history(pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Statement:
    """Return the newest versions of a row, newest first; in the place of ``_owner``: which txid ended it, as of S.

    The data of those that do not fit into a page of PAGE_BYTES is NULL.
    """
    ended = "CASE WHEN _deleted_txid < $2::bigint THEN _deleted_txid::text END"
    versions = _page_in_bounds(
        f"SELECT id, data, _txid, {ended} AS _owner "
        f"FROM {quote(pointer.ptr)} WHERE id = $1::text AND _txid < $2::bigint "
        f"AND ($3::text IS NULL OR _owner = $3::text) ORDER BY _txid DESC LIMIT {limits.QUERY_ROWS}"
    )
    text = f"SELECT * FROM ({versions}) AS versions{_too_old_marker(pointer, '$2', 'id = $1::text')}"
    return Statement(text, (row_id, snapshot + 1, pointer.only))


# --- apply -----------------------------------------------------------------------------------------------------------

FENCED = "KONTRACT_FENCED"
STALE = "KONTRACT_STALE"
WENT_BACK = "KONTRACT_WENT_BACK"

# How many of these commits are not there. In a database that has not gone back in time: none. In one that has, somebody
# who was in doubt may have written an abort in the place of a fence that is gone.
MISSING = """
  SELECT count(*) AS number FROM jsonb_array_elements_text(${p}::jsonb) AS w(sid)
  WHERE (SELECT f.create_txid > 0 FROM trxs AS f WHERE f.sid = w.sid) IS NOT TRUE"""

_APPLY_HEAD = """
WITH epoch AS MATERIALIZED (
  SELECT create_txid AS current FROM trxs WHERE sid = 'epoch/' || $2::text FOR SHARE
), missing AS MATERIALIZED ({missing}
), fence AS ({fence}
  RETURNING create_txid AS txid
)"""

_FENCE = """
  INSERT INTO trxs (sid, owner, create_txid)
  SELECT $1::text, $2::text, $3::bigint FROM epoch, missing WHERE current = $4::bigint AND number = 0"""

# A database that was not migrated has no column for the result. The record takes what the table has, and leaves it out.
_FENCE_WITH_RESULT = """
  INSERT INTO trxs
  SELECT kept.* FROM epoch, missing, jsonb_populate_record(NULL::trxs, jsonb_build_object(
    'sid', $1::text, 'owner', $2::text, 'create_txid', $3::bigint, 'result', ${p}::text)) AS kept
  WHERE current = $4::bigint AND number = 0"""

_WRITES = """, w{n} AS MATERIALIZED (
  SELECT e.value->>'id' AS id, (e.value->>'seen')::bigint AS seen, nullif(e.value->'data', 'null'::jsonb) AS data,
    (e.value->>'place')::bigint AS place, e.n
  FROM jsonb_array_elements(${p}::jsonb) WITH ORDINALITY AS e(value, n) LIMIT {most}
)"""

# Old versions end where the new ones begin. A blind write (seen IS NULL) takes any older version; a write of a row that
# was absent (seen = 0) must find none: the INSERT meets the unique index of live rows if there is one.
_VERSIONED = """, old{n} AS (
  UPDATE {table} AS t SET _deleted_txid = fence.txid
  FROM w{n} AS w, fence
  WHERE t.id = w.id AND t.id = ANY (ARRAY(SELECT id FROM w{n})) AND t._deleted_txid IS NULL AND {live}
    AND CASE WHEN w.seen IS NULL THEN t._txid < fence.txid ELSE t._txid = w.seen END
  RETURNING t.id, t._owner, t._order, w.seen
), new{n} AS (
  INSERT INTO {table} (id, data, _txid, _owner, _order)
  SELECT v.id, v.data, v.txid, coalesce(v._owner, $5::text),
         coalesce(v._order, v.place, nextval(pg_get_serial_sequence({literal}, '_order')))
  FROM (
    SELECT w.id, w.data, w.place, fence.txid, o._owner, o._order
    FROM w{n} AS w CROSS JOIN fence LEFT JOIN old{n} AS o ON o.id = w.id
    WHERE w.data IS NOT NULL
    ORDER BY w.n
  ) AS v
  RETURNING id
)"""

# Rows that are all new: nothing is looked for. One that is there nevertheless meets the unique index of live rows.
_NEW = """, new{n} AS (
  INSERT INTO {table} (id, data, _txid, _owner, _order)
  SELECT v.id, v.data, v.txid, $5::text, coalesce(v.place, nextval(pg_get_serial_sequence({literal}, '_order')))
  FROM (SELECT w.id, w.data, w.place, fence.txid FROM w{n} AS w CROSS JOIN fence ORDER BY w.n) AS v
  RETURNING id
)"""

# One row per id: a deletion leaves the row as a tombstone, so that readers at older snapshots still see it; a later
# insert takes the tombstone over.
_PLAIN = """, old{n} AS (
  UPDATE {table} AS t SET
    data = coalesce(w.data, t.data),
    _txid = CASE WHEN w.data IS NULL THEN t._txid ELSE fence.txid END,
    _deleted_txid = CASE WHEN w.data IS NULL THEN fence.txid END,
    _owner = CASE WHEN t._deleted_txid IS NULL THEN t._owner ELSE $5::text END,
    _order = CASE WHEN t._deleted_txid IS NULL THEN t._order
                  ELSE coalesce(w.place, nextval(pg_get_serial_sequence({literal}, '_order'))) END
  FROM w{n} AS w, fence
  WHERE t.id = w.id AND t.id = ANY (ARRAY(SELECT id FROM w{n}))
    AND t._txid < fence.txid AND coalesce(t._deleted_txid, 0) < fence.txid
    AND CASE WHEN w.seen IS NULL THEN w.data IS NOT NULL OR t._deleted_txid IS NULL
             WHEN w.seen = 0 THEN t._deleted_txid IS NOT NULL
             ELSE t._deleted_txid IS NULL AND t._txid = w.seen END
  RETURNING t.id, w.seen, w.data IS NOT NULL AS kept
), added{n} AS (
  INSERT INTO {table} (id, data, _txid, _owner, _order)
  SELECT v.id, v.data, v.txid, $5::text,
         coalesce(v.place, nextval(pg_get_serial_sequence({literal}, '_order')))
  FROM (
    SELECT w.id, w.data, w.place, fence.txid
    FROM w{n} AS w CROSS JOIN fence
    WHERE w.data IS NOT NULL AND coalesce(w.seen, 0) = 0 AND NOT EXISTS (SELECT FROM old{n} AS o WHERE o.id = w.id)
    ORDER BY w.n
  ) AS v
  RETURNING id
), new{n} AS (
  SELECT id FROM added{n} UNION ALL SELECT id FROM old{n} WHERE kept
)"""

# The table's sequence is not left behind the numbers that the coordinator gave (kontract.core.protocol.row_order). It
# is read again for every step, because others move it, too. nextval() needs no right that inserting does not need.
_FOLLOW = """, follow{n} AS MATERIALIZED (
  SELECT count(nextval(s.seqrelid::regclass)) AS steps
  FROM pg_catalog.pg_sequence AS s,
    LATERAL generate_series(1, ${top}::bigint - coalesce(pg_sequence_last_value(s.seqrelid), 0)) AS step
  WHERE s.seqrelid = pg_get_serial_sequence({literal}, '_order')::regclass
    AND CASE WHEN step > 0 THEN coalesce(pg_sequence_last_value(s.seqrelid), 0) END < least(${top}::bigint, s.seqmax)
)"""

_FOLLOWED = "\n  WHEN (SELECT steps FROM follow{n}) < 0 THEN 0"

# A plain write of a table that was adopted meanwhile would change a version in place.
_CHECK_PLAIN = """
  WHEN (SELECT indnkeyatts FROM pg_catalog.pg_index WHERE indrelid = to_regclass({literal}) AND indisprimary)
    IS DISTINCT FROM 1
  THEN ('KONTRACT_STALE ' || {literal} || ' is not a plain table: ' || (SELECT count(*) FROM w{n}))::int"""

_CHECK_NEW = """
  WHEN (SELECT count(*) FROM new{n}) <> (SELECT count(*) FROM w{n})
  THEN ('KONTRACT_STALE ' || {literal} || ' ' || (SELECT count(*) FROM new{n}))::int"""

_CHECK = """
  WHEN (SELECT count(*) FROM old{n} WHERE seen > 0) <> (SELECT count(*) FROM w{n} WHERE seen > 0)
    OR (SELECT count(*) FROM new{n}) <> (SELECT count(*) FROM w{n} WHERE data IS NOT NULL)
  THEN ('KONTRACT_STALE ' || {literal} || ' ' || (SELECT count(*) FROM old{n}) || ' '
        || (SELECT count(*) FROM new{n}))::int"""


def apply(plan: ApplyPlan) -> Statement:
    """Return the one statement that commits: the fence and every row version, or nothing.

    Raises inside PostgreSQL: FENCED when the epoch is another one, WENT_BACK when a witness is missing, STALE when a
    row is not as it was read, 23505 when the fence exists already (the transaction was applied or aborted) or a row
    that should be absent is there.
    """
    params: list[_Value] = [plan.sid, plan.owner, plan.txid, plan.epoch]
    if plan.writes:  # PostgreSQL refuses a parameter that a statement does not name
        params.append(plan.user)
    if plan.result is not None:
        params.append(plan.result)
    params.append(json.dumps(plan.witnesses))
    parts = []
    for pointer, writes in plan.writes:
        places = _places(pointer, writes, plan.order.get(pointer.ptr))
        all_new = pointer.kind is TableKind.VERSIONED and all(w.seen == ABSENT and not w.deletes for w in writes)
        parts.append((pointer.ptr, pointer.kind, at_most(len(writes)), all_new, bool(places)))
        params.append(_writes_as_json(writes, places))
        if places:
            params.append(max(places.values()))
    return Statement(_apply_text(plan.result is not None, tuple(parts)), tuple(params), limits.STATEMENT_MS)


@lru_cache(maxsize=1024)
def _apply_text(with_result: bool, parts: tuple[tuple[str, TableKind, int, bool, bool], ...]) -> str:  # noqa: FBT001
    """Return the text of an apply statement.

    ``parts``, for each table: its physical name, its kind, the most rows, whether all of them are new, and whether the
    coordinator gave numbers to the new ones.
    """
    bound = 4 + bool(parts) + with_result + 1
    fence = _FENCE_WITH_RESULT.format(p=bound - 1) if with_result else _FENCE
    text = [_APPLY_HEAD.format(missing=MISSING.format(p=bound), fence=fence)]
    checks = []
    for n, (ptr, kind, most, all_new, with_places) in enumerate(parts):
        table = quote(ptr)
        # pg_get_serial_sequence takes the quoted name as text; IDENTIFIER leaves nothing to escape in a literal
        literal = f"'{table}'"
        bound += 1
        text.append(_WRITES.format(n=n, p=bound, most=most))
        change = _PLAIN if kind is TableKind.PLAIN else _NEW if all_new else _VERSIONED
        text.append(change.format(n=n, table=table, literal=literal, live=by_index("t._deleted_txid IS NULL", "t.id")))
        if kind is TableKind.PLAIN:
            checks.append(_CHECK_PLAIN.format(n=n, literal=literal))
        checks.append((_CHECK_NEW if all_new else _CHECK).format(n=n, literal=literal))
        if with_places:
            bound += 1
            text.append(_FOLLOW.format(n=n, top=bound, literal=literal))
            checks.append(_FOLLOWED.format(n=n))
    text.append(
        "\nSELECT CASE WHEN NOT EXISTS (SELECT FROM fence)"
        "\n  THEN (CASE WHEN (SELECT current FROM epoch) IS NOT DISTINCT FROM $4::bigint"
        "\n    THEN 'KONTRACT_WENT_BACK ' || (SELECT number FROM missing)"
        "\n    ELSE 'KONTRACT_FENCED ' || coalesce((SELECT current FROM epoch)::text, 'none') END)::int"
        + "".join(checks)
        + "\n  ELSE 1 END"
    )
    return "".join(text)


def _places(pointer: TablePointer, writes: Iterable[Write], first: int | None) -> dict[str, int]:
    """Return the numbers of the rows that may be new; none when the coordinator gave none."""
    if first is None:
        return {}
    new = [write.id for write in writes if write.may_insert]
    return {row_id: min(first + n, pointer.order_limit) for n, row_id in enumerate(new)}


def _writes_as_json(writes: Iterable[Write], places: Mapping[str, int]) -> str:
    rows = []
    for write in writes:
        seen = "null" if write.seen is None else str(write.seen)
        row_id = json.dumps(write.id, ensure_ascii=False)
        place = f',"place":{places[write.id]}' if write.id in places else ""
        rows.append(f'{{"id":{row_id},"seen":{seen},"data":{bytes(write.data).decode()}{place}}}')
    return f"[{','.join(rows)}]"
