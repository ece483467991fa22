"""Checks the database: version, clock, poolers, rights, migrations, tables, epochs. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from kontract.cli import migrate
from kontract.cli.build import scan
from kontract.cli.doctor.finding import Finding
from kontract.cli.migrations import indexes
from kontract.cli.migrations.role import grants
from kontract.cli.table import Listed, list_tables
from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.problem import Problem
from kontract.core.transaction import fences, sql
from kontract.core.types import Order

_STATEMENT_MS = 30_000
_OLDEST_VERSION = 140_000
_SKEW_MS = 1_000
_MANY_DEAD = 100_000
_DEAD_PER_LIVE = 10
_ALL_NUMBERS = 2**31 - 1
_MANY_NUMBERS = _ALL_NUMBERS * 3 // 4


async def database_findings(url: str, root: Path | None = None) -> list[Finding]:
    """Check the database at one URL. ``root``: the checkout whose migrations it should have."""
    connection = await database_url.connect(url)
    try:
        pooled = await _pooled(url, connection)
        if pooled:
            return [pooled, *([] if pooled.wrong else [await _skew(connection)])]
        findings = [
            await _version(connection),
            *await _encoding(connection),
            await _skew(connection),
            Finding("no transaction pooler in front of PostgreSQL"),
        ]
        missing = [
            name
            for name in ("storage", "trxs")
            if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
        ]
        if missing:
            return [
                *findings,
                Finding(f"the schema is missing: no table {' and no '.join(missing)}", "Run: kontract migrate", True),
            ]
        await connection.execute(f"SET statement_timeout = {_STATEMENT_MS}")
        for system in ("storage", "trxs"):
            findings += [found for found in await _behaviour(connection, system, f"table {system}") if found.wrong]
        before = len(findings)
        findings += await _rights(connection, "storage", ["SELECT"])
        findings += await _rights(connection, "trxs", ["SELECT", "INSERT", "UPDATE", "DELETE"])
        if any(finding.wrong for finding in findings[before:]):
            return findings
        findings += await _owners(connection)
        findings += await _losses(connection)
        if root is not None:
            findings += await _migrations(root, url)
        tables = await list_tables(url)
        spelled = _spelled(root)
        for table in tables:
            findings += await _table(connection, table)
            if table.kind in ("plain", "versioned") and sql.IDENTIFIER.fullmatch(table.ptr):
                findings += await _spellings(connection, table, spelled.get(table.name, ()))
        findings.append(await _role(connection, [table.ptr for table in tables if table.kind != "missing"]))
    except asyncpg.PostgresError as error:
        raise Problem(
            f"PostgreSQL rejected a query: {error} (SQLSTATE {error.sqlstate}).",
            "Correct the error and run the command again.",
        ) from error
    finally:
        await connection.close()
    return findings


def looks_pooled(first: Sequence[int], other: int) -> bool:
    """Judge backend process ids: those that one connection met in turn, and that of another connection.

    Without a pooler a connection keeps its process, and no other connection has it.
    """
    return len(set(first)) > 1 or other in first


async def _pooled(url: str, connection: asyncpg.Connection) -> Finding | None:
    found = Finding(
        "a transaction pooler is in front of PostgreSQL: statements of one connection run in several sessions",
        "Functions work through it. `kontract migrate`, `table adopt` and the rest of `doctor` need PostgreSQL's own "
        "address.",
    )
    question = "SELECT pg_backend_pid()"
    try:
        other = await database_url.connect(url)
        try:
            first = [await connection.fetchval(question)]
            async with other.transaction():
                second = await other.fetchval(question)
                first += [await connection.fetchval(question) for _ in range(5)]
        finally:
            await other.close()
    except asyncpg.ConnectionDoesNotExistError as error:
        if "statement pooling" not in str(error):
            raise
        return Finding(
            "a pooler in front of PostgreSQL assigns connections for single statements",
            "Set its pool_mode to transaction. A commit of the gateway is one statement, but sign-up, migrations and "
            "the server's time limits need transactions.",
            wrong=True,
        )
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.ProtocolViolationError):
        return found  # it was prepared in one session and looked for in another
    return found if looks_pooled(first, second) else None


async def _migrations(root: Path, url: str) -> list[Finding]:
    try:
        wrong = await migrate.check(root, url)
    except Problem as problem:
        return [Finding(problem.what, problem.fix, wrong=True)]
    if not wrong:
        return [Finding("structs, migrations and database match")]
    return [Finding(said, "Functions that use it fail until then.", wrong=True) for said in wrong]


async def _version(connection: asyncpg.Connection) -> Finding:
    number, name = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')"
    )
    if number < _OLDEST_VERSION:
        return Finding(f"PostgreSQL {name}", f"Upgrade to {_OLDEST_VERSION // 10_000} or later.", wrong=True)
    return Finding(f"PostgreSQL {name}")


async def _encoding(connection: asyncpg.Connection) -> list[Finding]:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding == "UTF8":
        return []
    return [
        Finding(
            f"the database has the encoding {encoding}: rows with other characters are rejected",
            "Create one with: createdb --encoding=UTF8 --template=template0 NAME, and copy the rows with pg_dump.",
            wrong=True,
        )
    ]


async def _skew(connection: asyncpg.Connection) -> Finding:
    before = time.time()
    there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    return skew_finding((there - (before + after) / 2) * 1000, (after - before) * 500)


def skew_finding(skew: float, uncertain: float) -> Finding:
    """Judge the difference of two clocks, in milliseconds."""
    what = f"the database's clock differs from this machine's by {skew:+.0f} ms (±{uncertain:.0f})"
    if abs(skew) - uncertain > _SKEW_MS:
        return Finding(
            what,
            "Synchronize both with a time server. Commits do not depend on clocks; retention and logs do.",
            wrong=True,
        )
    return Finding(what)


async def _behaviour(connection: asyncpg.Connection, table: str, name: str) -> list[Finding]:
    """Find what PostgreSQL does to rows of a table by itself: policies, rules, triggers."""
    row = await connection.fetchrow(
        """
        SELECT c.relrowsecurity AS secured, row_security_active(c.oid) AS active,
               c.relkind NOT IN ('r', 'p') AS other, c.relpersistence = 'u' AS unlogged, c.relhasrules AS rules,
               (SELECT string_agg(t.tgname, ', ' ORDER BY t.tgname) FROM pg_catalog.pg_trigger AS t
                WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D') AS triggers
        FROM pg_catalog.pg_class AS c WHERE c.oid = to_regclass($1)
        """,
        sql.quote(table),
    )
    findings = []
    if row["secured"]:
        what = f"{name} has row level security: rows hidden by its policies are missing from every answer"
        fix = f"ALTER TABLE {sql.quote(table)} DISABLE ROW LEVEL SECURITY, and check in functions who may see what."
        if not row["active"]:
            what += ", for every role but this one's kind (an owner, a superuser, BYPASSRLS)"
        findings.append(Finding(what, fix, wrong=True))
    if row["other"]:
        findings.append(
            Finding(
                f"{name} is not an ordinary table",
                "A view or foreign table cannot hold versions: create a table.",
                True,
            )
        )
    if row["rules"]:
        findings.append(
            Finding(
                f"{name} has rules, which rewrite statements",
                "Drop them (DROP RULE): commits count the rows they write.",
                True,
            )
        )
    if row["unlogged"]:
        findings.append(
            Finding(f"{name} is UNLOGGED: a crash of PostgreSQL empties it", f"ALTER TABLE {table} SET LOGGED", True)
        )
    if row["triggers"]:
        findings.append(
            Finding(
                f"{name} has triggers: {row['triggers']}",
                "They run inside the commit. No transaction sees what they write to tables of the application.",
            )
        )
    return findings


async def _rights(connection: asyncpg.Connection, table: str, rights: Sequence[str]) -> list[Finding]:
    quoted = sql.quote(table)
    missing = [
        right
        for right in rights
        if not await connection.fetchval("SELECT has_table_privilege(to_regclass($1), $2)", quoted, right)
    ]
    if not missing:
        return []
    user = await connection.fetchval("SELECT current_user")
    fix = f'GRANT {", ".join(missing)} ON {table} TO "{user}"'
    return [Finding(f"{user} may not {', '.join(missing)} {table}", fix, wrong=True)]


async def _role(connection: asyncpg.Connection, tables: Sequence[str]) -> Finding:
    """Note what else the role of this URL may do: the role that migrates has to own the tables."""
    row = await connection.fetchrow(
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, "
        "(SELECT count(*) FROM pg_catalog.pg_class WHERE relowner = pg_roles.oid AND relname = ANY ($1)) AS owned "
        "FROM pg_catalog.pg_roles WHERE rolname = current_user",
        ["storage", "trxs", *tables],
    )
    more = [
        text
        for text, has in (
            ("is a superuser", row["rolsuper"]),
            ("may create roles", row["rolcreaterole"]),
            ("may create databases", row["rolcreatedb"]),
            ("bypasses row level security", row["rolbypassrls"]),
            (f"owns {row['owned']} of the tables", row["owned"]),
        )
        if has
    ]
    if not more:
        return Finding(f"role {row['rolname']} has the rights it needs and owns no tables")
    needed = ";\n            ".join(grants("gateway", tables))
    return Finding(
        f"role {row['rolname']} {', '.join(more)}: fine for migrations, but more than a gateway needs",
        "Let the gateway connect with another role: kontract migrate --gateway-role NAME creates one. By hand, for a "
        f"role named gateway:\n            {needed};",
    )


_FORGET = f"DELETE FROM trxs WHERE owner = '{fences.LOST}'"  # noqa: S608 - shown, not run, and made of a constant


async def _losses(connection: asyncpg.Connection) -> list[Finding]:
    """Report when a coordinator found that the database had gone back in time."""
    rows = await connection.fetch(
        "SELECT sid, to_timestamp(create_txid / 1000) AS at, to_jsonb(t)->>'result' AS note FROM trxs AS t "
        "WHERE owner = $1 AND sid LIKE 'went back/%' ORDER BY create_txid, sid",
        fences.LOST,
    )
    return [
        Finding(
            f"owner {row['sid'].removeprefix('went back/').rpartition('/')[0]}: its coordinator found at "
            f"{row['at']:%Y-%m-%d %H:%M:%S} UTC that the database had gone back in time; "
            f"acknowledged commits are lost ({row['note'] or 'see the log for numbers'})",
            "Find out what is missing: from a newer backup, the lost server, or clients that listen to streams. Then "
            f"run: {_FORGET}",
            wrong=True,
        )
        for row in rows
    ]


async def _owners(connection: asyncpg.Connection) -> list[Finding]:
    rows = await connection.fetch(
        """
        SELECT owner,
               max(create_txid) FILTER (WHERE sid LIKE 'epoch/%') AS epoch,
               count(*) FILTER (WHERE sid NOT LIKE 'epoch/%') AS fences,
               count(*) FILTER (WHERE sid NOT LIKE 'epoch/%' AND create_txid < 0) AS aborted,
               coalesce(min(abs(create_txid)) FILTER (WHERE sid NOT LIKE 'epoch/%'), 0) AS oldest,
               coalesce(max(abs(create_txid)) FILTER (WHERE sid NOT LIKE 'epoch/%'), 0) AS newest
        FROM trxs WHERE owner <> $1 GROUP BY owner ORDER BY owner
        """,
        fences.LOST,
    )
    if not rows:
        return [Finding("no coordinator has started on this database yet")]
    findings = []
    for row in rows:
        what = (
            f"owner {row['owner']}: epoch {row['epoch']}, {row['fences']} fences of txids {row['oldest']} to "
            f"{row['newest']}, {row['aborted']} of them aborted while in doubt"
        )
        if row["epoch"] is None:
            findings.append(
                Finding(
                    what,
                    "Its epoch row was removed; its coordinator adds a new one at the next call that writes.",
                    True,
                )
            )
        elif row["aborted"] > 10 and row["aborted"] * 10 > row["fences"]:
            findings.append(
                Finding(
                    what,
                    "That is more than a tenth: look for lost connections and for statements that take more than 5 s.",
                    True,
                )
            )
        else:
            findings.append(Finding(what))
    return findings


async def _table(connection: asyncpg.Connection, table: Listed) -> list[Finding]:
    name = f"table {table.owner}/{table.name} ({table.ptr})"
    if table.kind == "missing" or not sql.IDENTIFIER.fullmatch(table.ptr):
        return [Finding(f"{name} does not exist", "Create it, or remove its row from storage.", wrong=True)]
    if table.kind == "unusable":
        return [Finding(f"{name} has no primary key (id) or (id, _txid)", "See docs/reference/tables.md.", True)]
    findings = await _rights(connection, table.ptr, ["SELECT", "INSERT", "UPDATE", "DELETE"])
    if findings:
        return findings
    quoted = sql.quote(table.ptr)
    findings = await _behaviour(connection, table.ptr, name)
    sequence = await connection.fetchval("SELECT pg_get_serial_sequence($1, '_order')", quoted)
    if sequence and not await connection.fetchval("SELECT has_sequence_privilege($1, 'USAGE')", sequence):
        user = await connection.fetchval("SELECT current_user")
        return [
            Finding(
                f"{user} may not use the sequence {sequence}", f'GRANT USAGE ON SEQUENCE {sequence} TO "{user}"', True
            )
        ]
    if sequence:
        findings += await _numbers(connection, name, quoted, sequence)
    else:
        # This happens after CREATE TABLE .. (LIKE .. INCLUDING ALL): the copied default has the other table's sequence.
        sequence = sql.quote(f"{table.ptr[:54]}__order_seq")
        findings.append(
            Finding(
                f"{name}: its column _order does not own a sequence, so each start loses the order of its rows",
                f"CREATE SEQUENCE {sequence} OWNED BY {quoted}._order; ALTER TABLE {quoted} ALTER _order SET DEFAULT "
                f"nextval('{sequence}')",
                wrong=True,
            )
        )
    live, dead, oldest = await connection.fetchrow(
        f"SELECT count(*) FILTER (WHERE _deleted_txid IS NULL), count(_deleted_txid), min(_deleted_txid) FROM {quoted}"  # noqa: S608
    )
    what = f"{name}: {table.kind}, {live} rows, {dead} {'tombstones' if table.kind == 'plain' else 'dead versions'}"
    if dead:
        what += f" since txid {oldest}"
    findings.append(_dead(what, live, dead))
    if table.kind == "versioned" and not await _has_live_index(connection, quoted):
        index = sql.quote(f"{table.ptr[:58]}_live")
        findings.append(
            Finding(
                f"{name} has no unique index on its live rows: two versions of a row could be live",
                f"CREATE UNIQUE INDEX {index} ON {quoted} (id) WHERE _deleted_txid IS NULL",
                wrong=True,
            )
        )
    if table.kind == "versioned" and table.ptr in await indexes.without_order(connection):
        findings.append(
            Finding(
                f"{name} has no index in the order of its rows: pop and shift read all live rows",
                "Run: kontract migrate",
            )
        )
    return findings


async def _numbers(connection: asyncpg.Connection, name: str, quoted: str, sequence: str) -> list[Finding]:
    """Check whether row numbers are nearly used up, or above the sequence from which a coordinator resumes counting."""
    highest = await connection.fetchval(f"SELECT coalesce(max(_order), 0) FROM {quoted}")  # noqa: S608 - quoted
    last, narrow = await connection.fetchrow(
        "SELECT coalesce(pg_sequence_last_value($1::text::regclass), 0), "
        "(SELECT atttypid = 'int4'::regtype FROM pg_catalog.pg_attribute "
        "WHERE attrelid = to_regclass($2) AND attname = '_order')",
        sequence,
        quoted,
    )
    used = max(last, highest)
    if narrow and used > _MANY_NUMBERS:
        what = f"{name}: {used:,} of the {_ALL_NUMBERS:,} numbers of its column _order are used"
        fix = (
            f"ALTER TABLE {quoted} ALTER _order TYPE bigint; ALTER SEQUENCE {sequence} AS bigint (the first statement "
            "rewrites the table and locks it meanwhile). Without it, further rows share the last number."
        )
        return [Finding(what, fix, wrong=True)]
    if highest > last:
        what = f"{name}: rows have numbers in _order up to {highest}, but its sequence stands at {last}"
        fix = f"SELECT setval('{sequence}', {highest}). Until then new rows may come before old ones."
        return [Finding(what, fix, wrong=True)]
    return []


def _spelled(root: Path | None) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the fields of declared tables whose values have several spellings, and how they are compared, by table."""
    if root is None or not (root / "src" / "app").is_dir():
        return {}
    try:
        return {one.name: one.spelled for one in scan(root / "src") if one.kind == "table"}
    except Problem:  # reported where the application is checked
        return {}


_NORMAL = {
    Order.NUMBER: r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?",
    Order.INSTANT: r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
    Order.TIME: r"[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}",
}
"""What is stored of each (kontract.core.model.values)."""


async def _spellings(connection: asyncpg.Connection, table: Listed, fields: Sequence[tuple[str, str]]) -> list[Finding]:
    findings = []
    for field, order in fields:
        found = await connection.fetchval(
            f"SELECT id FROM {sql.quote(table.ptr)} WHERE _deleted_txid IS NULL "  # noqa: S608 - quoted
            "AND jsonb_typeof(data->$1::text) <> 'null' AND (jsonb_typeof(data->$1::text) <> 'string' "
            "OR data->>$1::text !~ ('^(' || $2::text || ')$')) LIMIT 1",
            field,
            _NORMAL[Order(order)],
        )
        if found is not None:
            findings.append(
                Finding(
                    f"table {table.owner}/{table.name}: {field!r} of row {found!r} does not have the spelling of its "
                    "type",
                    f"Run: kontract table respell {table.name}",
                    wrong=True,
                )
            )
    return findings


def _dead(what: str, live: int, dead: int) -> Finding:
    if dead > _MANY_DEAD and dead > _DEAD_PER_LIVE * live:
        return Finding(what, "The collection is too slow or does not run: look for `collection` in the log.", True)
    return Finding(what)


async def _has_live_index(connection: asyncpg.Connection, quoted: str) -> bool:
    found: Any = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = to_regclass($1) AND indisunique "
        "AND indisvalid AND indnkeyatts = 1 AND pg_get_indexdef(indexrelid, 1, true) = 'id' "
        "AND pg_get_expr(indpred, indrelid) = '(_deleted_txid IS NULL)')",
        quoted,
    )
    return bool(found)
