"""State of local runs: each database has its own folder, private to its user; outdated state is dropped.

A coordinator's journal belongs to one database. With one folder for all databases, `make dev` on a second database
would continue from the journal of the first, and raise an epoch that the first then refuses forever. The same happens
to a journal whose database another clone or `make serve` has taken over since: it can commit nothing any more. Starting
`make dev` means this run, so it takes over and begins without that journal.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.checkout import Checkout

_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
_DATABASE = "SELECT oid::bigint, datname FROM pg_database WHERE datname = current_database()"
_EPOCHS = "SELECT substr(sid, 7), create_txid FROM trxs WHERE sid LIKE 'epoch/%'"


async def of_database(checkout: Checkout, url: str, *, embedded: bool) -> Path:
    """Return the folder for Durable Objects of a run on the database at ``url``, which has been migrated.

    ``embedded``: it is the checkout's own, which has what earlier versions kept in one folder for every database.
    """
    async with database_url.connected(url) as connection:
        folder = checkout.state / "wrangler" / await _identity(connection, url)
        epochs = {owner: int(epoch) for owner, epoch in await connection.fetch(_EPOCHS)}
    if embedded and not folder.exists():
        _adopt(folder)
    make_private(folder.parent)
    make_private(folder)
    forget_superseded(folder, epochs)
    return folder


async def _identity(connection: Any, url: str) -> str:
    """A name for this database and no other: of the cluster, and in it. A dropped one that was made again is another.

    Where PostgreSQL does not tell its identifier (a service that forbids it), the address stands in.
    """
    import asyncpg

    oid, name = await connection.fetchrow(_DATABASE)
    try:
        server = await connection.fetchval(_SYSTEM)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError, asyncpg.FeatureNotSupportedError):
        server = "-".join(f"{host}-{port}" for host, port in database_url.read(url).hosts)
    return re.sub(r"[^A-Za-z0-9.-]+", "_", f"{server}-{oid}-{name}")[:120]


def _adopt(folder: Path) -> None:
    """Take over the folder that was once that of all databases; most have used the embedded one alone."""
    old = folder.parent / "v3"
    if old.is_dir():
        folder.mkdir(mode=0o700)
        old.rename(folder / "v3")


def make_private(folder: Path) -> None:
    """Make a folder, and close it and everything in it to other users: it holds tokens and rows."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)


def forget_superseded(folder: Path, epochs: dict[str, int]) -> list[str]:
    """Let coordinators begin without their journal whose epoch is not the database's any more; returns their owners.

    ``epochs``: owner to epoch, of the database. No Worker may be running on the folder. A database that knows nothing
    of an owner is recognised by the coordinator itself.
    """
    forgotten = []
    for path in sorted(folder.glob("v3/do/*/*.sqlite")):
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(path)) as journal:
            if not _is_journal(journal):
                continue
            owner = journal.execute("SELECT name FROM owner").fetchone()
            head = journal.execute("SELECT epoch FROM head").fetchone()
            if owner and head and owner[0] in epochs and epochs[owner[0]] != head[0]:
                journal.execute("DELETE FROM head")  # without it the rest does not count
                journal.commit()
                forgotten.append(str(owner[0]))
    return forgotten


def _is_journal(database: sqlite3.Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('owner', 'head')"
    return bool(database.execute(query).fetchone()[0] == 2)
