"""`kontract doctor`: looks at database, wrangler.toml and application; says what is wrong and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from kontract.cli import build
from kontract.cli.doctor.importing import importing
from kontract.cli.doctor.pitfalls import pitfalls
from kontract.cli.table import Listed, list_tables
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say
from kontract.core import sql

_CONNECT_SECONDS = 10.0
_STATEMENT_MS = 30_000
_OLDEST_VERSION = 140_000
_SKEW_MS = 1_000
_MANY_DEAD = 100_000
_DEAD_PER_LIVE = 10
_PLACEHOLDER_ID = "0" * 32


@dataclass(frozen=True)
class Finding:
    """What was looked at and found; `fix` says what to do, and `wrong` whether it must be done."""

    what: str
    fix: str = ""
    wrong: bool = False

    def render(self) -> str:
        """One line, and a second one if there is something to do."""
        mark = "WRONG" if self.wrong else "note " if self.fix else "ok   "
        return f"{mark}  {self.what}" + (f"\n         -> {self.fix}" if self.fix else "")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database-url", help="postgresql://... (default: DATABASE_URL)")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    findings = wrangler_findings(checkout.wrangler_toml) + application_findings(checkout.root / "src")
    url = args.database_url or os.environ.get("DATABASE_URL", "")
    if url:
        findings += asyncio.run(database_findings(url))
    else:
        findings.append(
            Finding(
                "no database was looked at",
                "Set DATABASE_URL, or give --database-url postgresql://user@host/db.",
                wrong=True,
            )
        )
    return report(findings, say)


def report(findings: Sequence[Finding], tell: Callable[[str], None]) -> int:
    """Print all findings; 1 if one of them is wrong."""
    for finding in findings:
        tell(finding.render())
    wrong = sum(finding.wrong for finding in findings)
    tell(f"{wrong} of {len(findings)} findings need something done." if wrong else "Nothing is wrong.")
    return 1 if wrong else 0


# --- wrangler.toml ---------------------------------------------------------------------------------------------------


def wrangler_findings(path: Path) -> list[Finding]:
    """Environments inherit no bindings: one that does not repeat them is deployed without a database."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        return [Finding(f"{path.name} cannot be read: {error}", "Restore it from version control.", wrong=True)]
    findings = []
    placeholders = []
    for name, section in {"(top level)": settings, **settings.get("env", {})}.items():
        hyperdrive = [one for one in section.get("hyperdrive", []) if one.get("binding") == "HYPERDRIVE"]
        objects = section.get("durable_objects", {}).get("bindings", [])
        # hyperdrive = [] says that it goes without one, and connects to the secret DATABASE_URL.
        missing = [] if hyperdrive or section.get("hyperdrive") == [] else ["HYPERDRIVE"]
        if not any(one.get("name") == "SESSION_DO" for one in objects):
            missing.append("SESSION_DO")
        if missing:
            findings.append(
                Finding(
                    f"{path.name}: environment {name} has no binding {' and '.join(missing)}",
                    "Environments inherit no bindings; repeat the block of the top level below it.",
                    wrong=True,
                )
            )
        placeholders += [name for one in hyperdrive if one.get("id") == _PLACEHOLDER_ID]
    complete = not findings
    findings += [Finding(f"{path.name}: {what}", fix, wrong=True) for what, fix in pitfalls(settings)]
    if complete:
        findings.append(Finding(f"{path.name}: every environment has its bindings"))
    production = settings.get("env", {}).get("production", settings)
    if production.get("vars", {}).get("KONTRACT_SIGN_UP"):
        findings.append(
            Finding(
                f"{path.name}: production lets anybody sign up (KONTRACT_SIGN_UP)",
                "Empty it there, unless that is what you want; tokens then come from `kontract token` alone.",
            )
        )
    examples = [
        name
        for name, section in settings.get("env", {}).items()
        if any("example.com" in str(route) for route in section.get("routes", []))
    ]
    if examples:
        findings.append(
            Finding(f"{path.name}: routes of {', '.join(examples)} are example.com's", "Put your own domain there.")
        )
    if placeholders:
        findings.append(
            Finding(
                f"{path.name}: no Hyperdrive id yet in {', '.join(placeholders)}",
                "Before the first deploy: wrangler hyperdrive create, and put the id there. Local runs do not need it.",
            )
        )
    return findings


# --- the application ------------------------------------------------------------------------------------------------


def application_findings(source: Path) -> list[Finding]:
    """What can be read of src/app: whether it builds, and what its modules do while they are imported."""
    try:
        build.scan(source)
    except Problem as problem:
        return [Finding(problem.what, f"{problem.fix} (kontract build tells all of it)", wrong=True)]
    found = [Finding(what, fix, wrong=True) for what, fix in importing(source)]
    return found or [Finding("src/app builds, and does nothing while it is imported that workerd forbids")]


# --- the database ----------------------------------------------------------------------------------------------------


async def database_findings(url: str) -> list[Finding]:
    """Everything that can be seen through one URL. Changes nothing."""
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS, statement_cache_size=0)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        raise Problem(
            f"The database cannot be reached: {error}.", "Check DATABASE_URL, and that PostgreSQL runs there."
        ) from error
    try:
        pooled = await _pooled(url, connection)
        if pooled:
            return [pooled, await _skew(connection)]
        findings = [await _version(connection), await _skew(connection), Finding("no transaction pooler in between")]
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
        findings += await _rights(connection, "storage", ["SELECT"])
        findings += await _rights(connection, "trxs", ["SELECT", "INSERT", "UPDATE", "DELETE"])
        if any(finding.wrong for finding in findings[3:]):
            return findings
        findings += await _owners(connection)
        tables = await list_tables(url)
        for table in tables:
            findings += await _table(connection, table)
        findings.append(await _role(connection, [table.ptr for table in tables if table.kind != "missing"]))
    except asyncpg.PostgresError as error:
        raise Problem(
            f"PostgreSQL refused a question: {error} (SQLSTATE {error.sqlstate}).", "Correct what it says; run again."
        ) from error
    finally:
        await connection.close()
    return findings


def looks_pooled(first: Sequence[int], other: int) -> bool:
    """Judge backend process ids: those one connection met, one after the other, and that of another connection.

    Without a pooler a connection keeps its process, and no other connection has it.
    """
    return len(set(first)) > 1 or other in first


async def _pooled(url: str, connection: asyncpg.Connection) -> Finding | None:
    found = Finding(
        "a transaction pooler is in between: statements of one connection run in several sessions",
        "Functions work through it. `kontract migrate`, `table adopt` and the rest of `doctor` need the address of "
        "PostgreSQL itself.",
    )
    question = "SELECT pg_backend_pid()"
    try:
        other = await asyncpg.connect(url, timeout=_CONNECT_SECONDS, statement_cache_size=0)
        try:
            first = [await connection.fetchval(question)]
            async with other.transaction():
                second = await other.fetchval(question)
                first += [await connection.fetchval(question) for _ in range(5)]
        finally:
            await other.close()
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.ProtocolViolationError):
        return found  # it was prepared in one session and looked for in another
    return found if looks_pooled(first, second) else None


async def _version(connection: asyncpg.Connection) -> Finding:
    number, name = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')"
    )
    if number < _OLDEST_VERSION:
        return Finding(f"PostgreSQL {name}", f"Upgrade to {_OLDEST_VERSION // 10_000} or later.", wrong=True)
    return Finding(f"PostgreSQL {name}")


async def _skew(connection: asyncpg.Connection) -> Finding:
    before = time.time()
    there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    return skew_finding((there - (before + after) / 2) * 1000, (after - before) * 500)


def skew_finding(skew: float, uncertain: float) -> Finding:
    """Judge the difference of two clocks, in milliseconds."""
    what = f"the database's clock differs from this machine's by {skew:+.0f} ms (give or take {uncertain:.0f})"
    if abs(skew) - uncertain > _SKEW_MS:
        return Finding(
            what, "Let both follow a time server. Commits do not depend on clocks; retention and logs do.", wrong=True
        )
    return Finding(what)


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
    return [Finding(f"{user} may not {', '.join(missing)} {table}", f"GRANT {', '.join(missing)} ON {table}", True)]


def grants(role: str, tables: Iterable[str]) -> list[str]:
    """Return what a role of the gateway needs, and nothing more, as SQL. ``tables``: those that storage names."""
    names = ", ".join(sql.quote(name) for name in ("trxs", *sorted(set(tables))))
    quoted = '"' + role.replace('"', '""') + '"'
    return [
        f"GRANT SELECT ON storage TO {quoted}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {names} TO {quoted}",
        *(f"GRANT USAGE ON SEQUENCE {sql.quote(f'{name}__order_seq')} TO {quoted}" for name in sorted(set(tables))),
    ]


async def _role(connection: asyncpg.Connection, tables: Sequence[str]) -> Finding:
    """What the role of this URL may do beyond that: a note, because who migrates has to own the tables."""
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
            ("passes row security", row["rolbypassrls"]),
            (f"owns {row['owned']} of the tables", row["owned"]),
        )
        if has
    ]
    if not more:
        return Finding(f"role {row['rolname']} has what it needs and owns nothing")
    needed = ";\n            ".join(grants("gateway", tables))
    return Finding(
        f"role {row['rolname']} {', '.join(more)}: right for migrations, more than a gateway needs",
        f"Let the gateway connect with a role of its own, here called gateway:\n            {needed};",
    )


async def _owners(connection: asyncpg.Connection) -> list[Finding]:
    rows = await connection.fetch(
        """
        SELECT owner,
               max(create_txid) FILTER (WHERE sid LIKE 'epoch/%') AS epoch,
               count(*) FILTER (WHERE sid NOT LIKE 'epoch/%') AS fences,
               count(*) FILTER (WHERE sid NOT LIKE 'epoch/%' AND create_txid < 0) AS aborted,
               coalesce(min(abs(create_txid)) FILTER (WHERE sid NOT LIKE 'epoch/%'), 0) AS oldest,
               coalesce(max(abs(create_txid)) FILTER (WHERE sid NOT LIKE 'epoch/%'), 0) AS newest
        FROM trxs GROUP BY owner ORDER BY owner
        """
    )
    if not rows:
        return [Finding("no coordinator has started on this database yet")]
    findings = []
    for row in rows:
        what = (
            f"owner {row['owner']}: epoch {row['epoch']}, {row['fences']} fences of txids {row['oldest']} to "
            f"{row['newest']}, {row['aborted']} of transactions that were in doubt and aborted"
        )
        if row["epoch"] is None:
            findings.append(
                Finding(
                    what,
                    "Somebody removed its epoch row; the next call that writes makes its coordinator add one.",
                    True,
                )
            )
        elif row["aborted"] > 10 and row["aborted"] * 10 > row["fences"]:
            findings.append(
                Finding(what, "More than a tenth: look for lost connections and statements of more than 5 s.", True)
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
    sequence = await connection.fetchval("SELECT pg_get_serial_sequence($1, '_order')", quoted)
    if sequence and not await connection.fetchval("SELECT has_sequence_privilege($1, 'USAGE')", sequence):
        user = await connection.fetchval("SELECT current_user")
        return [Finding(f"{user} may not use the sequence {sequence}", f"GRANT USAGE ON SEQUENCE {sequence}", True)]
    if not sequence:
        # So it is after CREATE TABLE .. (LIKE .. INCLUDING ALL): the default is copied, and belongs to the other table.
        sequence = sql.quote(f"{table.ptr[:54]}__order_seq")
        findings.append(
            Finding(
                f"{name}: no rows can be inserted, because its column _order has no sequence of its own",
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
                f"{name} has no unique index of its live rows: two versions of a row could be live",
                f"CREATE UNIQUE INDEX {index} ON {quoted} (id) WHERE _deleted_txid IS NULL",
                wrong=True,
            )
        )
    return findings


def _dead(what: str, live: int, dead: int) -> Finding:
    if dead > _MANY_DEAD and dead > _DEAD_PER_LIVE * live:
        return Finding(what, "The collection does not keep up or does not run: look for `collection` in the log.", True)
    return Finding(what)


async def _has_live_index(connection: asyncpg.Connection, quoted: str) -> bool:
    found: Any = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = to_regclass($1) AND indisunique "
        "AND indisvalid AND indnkeyatts = 1 AND pg_get_indexdef(indexrelid, 1, true) = 'id' "
        "AND pg_get_expr(indpred, indrelid) = '(_deleted_txid IS NULL)')",
        quoted,
    )
    return bool(found)
