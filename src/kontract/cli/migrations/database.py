"""Migrations and their records in the database."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile
from types import ModuleType
from typing import Any

import asyncpg

from kontract.cli.migrations.files import SEEDS, Migration, index_name, statements
from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.problem import Problem

OWNER = "__migrations"
"""The owner of the rows in storage that say which migrations ran. It is not a tenant, and a look-up of
its tables finds none, because ``ptr`` holds a checksum."""

LOCK_MS = 2_000
"""How long a statement waits for a lock, in ms. Later statements queue behind it, so it must not wait for long."""

STATEMENT_MS = 60_000
"""How long one statement of a migration may run, in ms: it may hold a lock. A file that needs more time sets it."""

_HALF_DONE = (
    "It ran outside a transaction: an invalid index may remain, maintained but never used, until the next run of this "
    "file drops it."
)
_NOT_RECORDED = "Its index was created or dropped, but this was not recorded; the next run repeats both."

_LOST = (
    "PostgreSQL rolled back what was running, except for an index of a `-- no transaction` file, which may be invalid. "
    "Run the command again to continue."
)

TRIES = 5
PAUSE_SECONDS = 1.0
_OTHER_RUN_SECONDS = 300.0

_ROWS_CHANGED = """
SELECT s.relname, s.n_tup_ins AS inserted, s.n_tup_upd AS updated, s.n_tup_del AS deleted
FROM pg_catalog.pg_stat_xact_user_tables AS s
WHERE 2 = (SELECT count(*) FROM pg_catalog.pg_attribute AS a
           WHERE a.attrelid = s.relid AND a.attname IN ('_txid', '_deleted_txid') AND NOT a.attisdropped)
"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the database itself; raise Problem when it is unreachable or behind a pooler."""
    async with database_url.connected(url, _LOST) as connection:
        # A pooler invents the process id that it reports at login.
        if await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid():
            raise Problem(
                "There is a pooler between this command and PostgreSQL: the lock that keeps two runs apart would "
                "belong to a connection that other clients use next.",
                "Set DATABASE_URL to the address of the database itself. Nothing was changed.",
            )
        encoding = await connection.fetchval("SHOW server_encoding")
        if encoding != "UTF8" and await connection.fetchval("SELECT to_regclass('storage') IS NULL"):
            raise Problem(
                f"The database has the encoding {encoding}: rows with other characters cannot be stored.",
                "Create it with: createdb --encoding=UTF8 --template=template0 NAME",
            )
        yield connection


@asynccontextmanager
async def alone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Allow one run at a time; others wait. PostgreSQL releases the lock when the session ends."""
    # This polls instead of waiting: a session that waits inside a statement holds a snapshot, and CREATE
    # INDEX CONCURRENTLY waits for all snapshots.
    for _ in range(int(_OTHER_RUN_SECONDS / 0.1)):
        if await connection.fetchval("SELECT pg_try_advisory_lock(hashtext('kontract migrate'))"):
            break
        await asyncio.sleep(0.1)
    else:
        raise Problem(
            f"Another `kontract migrate` has been running on this database for {_OTHER_RUN_SECONDS:.0f} s.",
            "Wait until it ends, or find it in pg_stat_activity.",
        )
    await connection.execute(f"SET lock_timeout = {LOCK_MS}")
    yield


async def applied(connection: asyncpg.Connection) -> dict[str, str]:
    """Return the checksums of the migrations that ran, by name."""
    rows = await connection.fetch('SELECT id, ptr FROM storage WHERE owner = $1 ORDER BY id COLLATE "C"', OWNER)
    return {row["id"].removeprefix(f"{OWNER}/"): row["ptr"] for row in rows}


async def has_records(connection: asyncpg.Connection) -> bool:
    """Return whether sql/init.sql has been applied."""
    return bool(await connection.fetchval("SELECT to_regclass('storage') IS NOT NULL"))


def pending(files: Sequence[Migration], ran: dict[str, str]) -> list[Migration]:
    """Return the migrations to apply, in order; raise Problem when files and records do not match."""
    known = {one.name: one for one in files}
    for name in ran:
        if name not in known:
            raise Problem(
                f"The database has the migration {name}, for which there is no file.",
                "Restore the file, or check out the release that has it: an older release must not migrate this "
                "database.",
            )
    for one in files:
        if one.name in ran and ran[one.name] != one.checksum:
            raise Problem(
                f"{one.shown} was changed after it was applied.",
                "Restore the old text (see git log) and write the change as a new migration.",
            )
    todo = [one for one in files if one.name not in ran]
    newest = max(ran, default="")
    late = next((one for one in todo if one.name < newest), None)
    if late is not None:
        raise Problem(
            f"{late.shown} was never applied here, but the later {newest} was.",
            "Give it the next free number, so that the order is the same everywhere.",
        )
    return todo


def ready(todo: Sequence[Migration], *, skip_unfinished: bool) -> list[Migration]:
    """Return the pending migrations to apply: all but the empty files at the end.

    ``skip_unfinished``: also leave out the first unfinished one, which :func:`up` refuses, and those after it.
    """
    found = list(todo)
    while found and found[-1].is_empty:
        found.pop()
    return list(takewhile(lambda one: not one.unfinished, found)) if skip_unfinished else found


async def up(connection: asyncpg.Connection, one: Migration) -> None:
    """Apply a migration and record it, atomically."""
    if one.unfinished:
        raise Problem(
            f"{one.shown} is unfinished.",
            "Write what is missing and remove the line that begins with `unfinished:`.",
        )

    async def record() -> None:
        await connection.execute(
            "INSERT INTO storage (id, ptr, owner, permissions) VALUES ($1, $2, $3, 0)",
            f"{OWNER}/{one.name}",
            one.checksum,
            OWNER,
        )

    await _run(connection, one, one.up, "up", record)


async def down(connection: asyncpg.Connection, one: Migration) -> None:
    """Undo a migration and delete its record, atomically."""
    if not one.is_python and one.down is None:
        raise Problem(f"{one.shown} has no `-- down` part.", "It cannot be undone: write a new migration.")

    async def forget() -> None:
        await connection.execute("DELETE FROM storage WHERE id = $1 AND owner = $2", f"{OWNER}/{one.name}", OWNER)

    await _run(connection, one, one.down or "", "down", forget)


async def _run(
    connection: asyncpg.Connection, one: Migration, text: str, direction: str, then: Callable[[], Awaitable[None]]
) -> None:
    if one.alone:
        await patiently(one.shown, lambda: without_transaction(connection, text), _HALF_DONE)
        await patiently(one.shown, then, _NOT_RECORDED)
        return
    step = _function(one, direction) if one.is_python else None

    async def work() -> None:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
            before = await _rows_changed(connection)
            if step is not None:
                await _step(one, step, connection)
            elif next(statements(text), None):
                await connection.execute(text)
            changed = {name: now - before[name] for name, now in (await _rows_changed(connection)).items()}
            _check_rows(one, changed, direction)
            if one.seeds:
                await _check_seeds(connection, one, [name for name, counts in changed.items() if counts["inserted"]])
            await then()

    await patiently(one.shown, work)


async def _rows_changed(connection: asyncpg.Connection) -> dict[str, Counter[str]]:
    """Count the rows of versioned tables that this database transaction has changed, by table."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in await connection.fetch(_ROWS_CHANGED):
        found[row["relname"]].update({how: row[how] for how in ("inserted", "updated", "deleted")})
    return found


def _check_rows(one: Migration, changed: dict[str, Counter[str]], direction: str) -> None:
    """Raise Problem when rows were changed; a file of seed rows may insert them, and delete them in `down`."""
    may = ({"up": "inserted", "down": "deleted"}[direction],) if one.seeds else ()
    touched = sorted(
        name for name, counts in changed.items() if any(n > 0 for how, n in counts.items() if how not in may)
    )
    if not touched:
        return
    raise Problem(
        f"{one.shown} changes rows of {', '.join(touched)}, which only transactions may change.",
        "It was rolled back. Change rows in a backend function: only the coordinator can order changes "
        "(docs/how-to/migrations.md). "
        + (
            f"`{SEEDS}` allows a file to insert rows, and its `down` part to delete them."
            if one.seeds
            else f"A file with the line `-- {SEEDS}` may insert new rows."
        ),
    )


async def _check_seeds(connection: asyncpg.Connection, one: Migration, tables: Sequence[str]) -> None:
    """Raise Problem when inserted rows do not have the _txid 1, before all transactions: readers might miss them."""
    for table in tables:
        quoted = '"' + table.replace('"', '""') + '"'
        if await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {quoted} WHERE xmin = pg_current_xact_id()::xid AND _txid <> 1)"  # noqa: S608
        ):
            raise Problem(
                f"{one.shown} inserts rows into {table} whose _txid is not 1.",
                "It was rolled back. Write 1, which is before every transaction.",
            )


async def _step(
    one: Migration, step: Callable[[asyncpg.Connection], Awaitable[None]], connection: asyncpg.Connection
) -> None:
    try:
        await step(connection)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, Problem):
        raise
    except Exception as error:
        raise Problem(
            f"{one.shown} failed: {error!r}.", "It was rolled back. Correct it and run the command again."
        ) from error


async def patiently(what: str, work: Callable[[], Awaitable[Any]], kept: str = "It was rolled back.") -> None:
    """Run ``work``; when a lock takes too long, give up, let the queue behind it go first, and retry.

    ``kept``: a sentence on what a failure leaves behind.
    """
    for tried in range(1, TRIES + 1):
        try:
            await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if tried == TRIES:
                raise Problem(
                    f"{what} did not get a lock in {TRIES} attempts of {LOCK_MS // 1000} s: {error}.",
                    f"{kept} Look for long transactions in pg_stat_activity and run the command again.",
                ) from error
            await asyncio.sleep(PAUSE_SECONDS)
        except asyncpg.PostgresConnectionError:
            raise
        except asyncpg.AdminShutdownError:
            raise
        except asyncpg.PostgresError as error:
            raise Problem(
                f"{what} could not be applied: {error} (SQLSTATE {error.sqlstate}).",
                f"{kept} Correct it and run the command again.",
            ) from error
        else:
            return


async def without_transaction(connection: asyncpg.Connection, text: str) -> None:
    """Make or drop an index CONCURRENTLY; one that a run before this left half made is made again."""
    statement = next(statements(text), None)
    if statement is None:
        return
    name = index_name(statement)
    await connection.execute("SET lock_timeout = 0")  # its locks block neither reads nor writes
    try:
        # An interrupted run leaves an invalid index, maintained but never used; IF NOT EXISTS would accept it.
        if await connection.fetchval("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", name):
            await connection.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"')
        await connection.execute(statement)
    finally:
        if not connection.is_closed():
            await connection.execute(f"SET lock_timeout = {LOCK_MS}")


def _function(one: Migration, direction: str) -> Callable[[asyncpg.Connection], Awaitable[None]]:
    try:
        module = _module(one)
    except Exception as error:
        raise Problem(f"{one.shown} cannot be imported: {error!r}.", "Correct it and run the command again.") from error
    step = getattr(module, direction, None)
    if step is None or not inspect.iscoroutinefunction(step):
        raise Problem(
            f"{one.shown} has no `async def {direction}(connection)`.",
            "Write it." if direction == "up" else "It cannot be undone: write a new migration.",
        )
    return step  # type: ignore[no-any-return]


def _module(one: Migration) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kontract_migration_{one.name}", one.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
