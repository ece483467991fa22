"""`kontract migrate new`: write a migration from the changes in the structs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kontract.cli.migrations import files, lock, structs
from kontract.cli.toolchain.checkout import write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.core.model import perms
from kontract.core.transaction.sql import quote

TABLE = """CREATE TABLE IF NOT EXISTS {ptr} (
  id            TEXT COLLATE "C" NOT NULL,
  data          JSONB  NOT NULL DEFAULT '{{}}',
  _txid         BIGINT NOT NULL,
  _deleted_txid BIGINT,
  _owner        TEXT   NOT NULL,
  _order        SERIAL,
  PRIMARY KEY (id, _txid)
);
CREATE UNIQUE INDEX IF NOT EXISTS {ptr}_live ON {ptr} (id) WHERE _deleted_txid IS NULL;
CREATE INDEX IF NOT EXISTS {ptr}_data ON {ptr} USING gin (data jsonb_path_ops);
CREATE INDEX IF NOT EXISTS {ptr}_dead ON {ptr} (_deleted_txid) WHERE _deleted_txid IS NOT NULL;
CREATE INDEX IF NOT EXISTS {ptr}_order ON {ptr} (_order, id COLLATE "C")
  WHERE coalesce(_deleted_txid, 0) = 0;
"""
"""A versioned table, as sql/init.sql has them. ``ptr`` is a plain identifier of 57 characters at most."""

REGISTER = "INSERT INTO storage (id, ptr, owner) VALUES ({id}, '{ptr}', {owner}) ON CONFLICT (id) DO NOTHING;\n"

UNREGISTER = "DELETE FROM storage WHERE id = {id} AND ptr = '{ptr}';"

DEFAULT_OWNER = "tenant-1"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,50}")
_SQL = f"""\
-- {files.UNFINISHED} remove this line when the SQL below is complete. Until then the file is not applied.

-- down

"""
_PYTHON = f'''"""Why this step is needed."""
# {files.UNFINISHED} remove this line when the two functions are complete. Until then the file is not applied.

import asyncpg


async def up(connection: asyncpg.Connection) -> None:
    """Runs in one transaction with the record of the migration. Must not change rows of versioned tables."""


async def down(connection: asyncpg.Connection) -> None:
    """Undoes it."""
'''


def literal(text: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


@dataclass
class Text:
    """The text of a migration."""

    up: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    alone: bool = False

    def render(self) -> str:
        """Return the file."""
        head = "-- no transaction\n" if self.alone else ""
        return f"{head}{chr(10).join(self.up)}\n-- down\n{chr(10).join(self.down)}"


@dataclass(frozen=True)
class Wishes:
    """Other options of the command line: ``index`` "notes.text", ``permissions`` "notes=RW_"."""

    index: str | None = None
    permissions: Sequence[str] = ()
    skeleton: bool = False
    python: bool = False
    owner: str = DEFAULT_OWNER


def write(root: Path, name: str, wishes: Wishes) -> Path:
    """Write the next migration and the lock file; if a change is unsafe, write nothing and raise Problem."""
    if not _NAME.fullmatch(name):
        raise Problem(
            f"{name!r} is not a name for a migration.", "Use lower case letters, digits and _, such as add_notes."
        )
    existing = files.read(root)
    locked, declared = lock.load(root), structs.read(root / "src")
    _take_base(root, locked, declared)
    difference = lock.compare(locked, declared)
    if wishes.index and (difference or wishes.permissions):
        raise Problem(
            "An index is built outside a transaction, so its file holds nothing else, but there are other changes.",
            "Write that first: kontract migrate new NAME.",
        )
    if difference.refused and not wishes.skeleton:
        raise Problem(
            "These changes are not safe while old and new code run:\n" + _reasons(difference.refused),
            f"Revert the struct, or write a safe migration by hand: kontract migrate new {name} --skeleton. "
            "docs/how-to/migrations.md has the steps for each.",
        )
    text = Text()
    for table in difference.added:
        _add_table(text, locked, table, declared[table], wishes.owner)
    _comment(text, difference)
    for table in declared.keys() & locked.keys():
        locked[table] = {**locked[table], **declared[table]}
    for table in locked.keys() - declared.keys():
        del locked[table]
    for one in wishes.permissions:
        _permit(text, locked, one, wishes.owner)
    if wishes.index:
        text = index_of(locked, wishes.index)
    stem = f"{len(existing) + 1:04}_{name}"
    if wishes.python and (text.up or text.down):
        raise Problem(
            "The structs have changed, which needs an SQL migration.", "Write that first: kontract migrate new NAME."
        )
    path = root / files.FOLDER / f"{stem}.{'py' if wishes.python else 'sql'}"
    own = _PYTHON if wishes.python else _SQL
    write_atomically(path, text.render() if text.up else own)
    # The lock file comes last: an interrupted run leaves an extra migration, which `check` then shows.
    lock.save(root, locked, stem)
    return path


def unmigrated(root: Path) -> list[str]:
    """Return what the structs have and the lock file lacks, one sentence each."""
    locked, declared = lock.load(root), structs.read(root / "src")
    _take_base(root, locked, declared)
    return list(lock.compare(locked, declared).sentences())


def _take_base(root: Path, locked: dict[str, dict[str, Any]], declared: dict[str, structs.Table]) -> None:
    """Accept the tables of sql/init.sql that the lock file lacks as they are: they exist."""
    for name, ptr in lock.base(root).items():
        if name in declared and name not in locked:
            locked[name] = lock.entry(declared[name], ptr)


def _reasons(changes: Sequence[lock.SchemaChange]) -> str:
    return "\n".join(f"  - {change.what} {change.why}" for change in changes)


def _add_table(text: Text, locked: dict[str, dict[str, Any]], name: str, declared: structs.Table, owner: str) -> None:
    ptr = lock.physical(name, owner)
    try:
        quote(ptr)
        quote(name)
    except ValueError as error:
        raise Problem(f"Table {name!r} cannot be created: {error}.", "Rename it: use letters, digits and _.") from error
    locked[name] = lock.entry(declared, ptr)
    # The first tenant has the short names; another tenant may already have a table of that name.
    row = literal(name if owner == DEFAULT_OWNER else f"{owner}/{name}")
    text.up += [TABLE.format(ptr=ptr), REGISTER.format(id=row, ptr=ptr, owner=literal(owner))]
    text.down += [UNREGISTER.format(id=row, ptr=ptr), f"DROP TABLE {ptr};\n"]


def _comment(text: Text, difference: lock.Difference) -> None:
    if difference.refused:
        text.up.append(f"-- {files.UNFINISHED} remove this line when everything below is done.")
    for change in difference.changes:
        text.up.append(f"-- {change.what}")
        if change.why is None:
            text.up.append("-- Nothing to do: rows are JSON, and rows without the field are read with the default.\n")
        else:
            text.up += [f"-- {change.why}", "-- How: docs/how-to/migrations.md\n"]


def _permit(text: Text, locked: dict[str, dict[str, Any]], wish: str, owner: str) -> None:
    name, _, written = wish.partition("=")
    bits = perms.NAMES.get(written)
    if name not in locked or bits is None:
        raise Problem(
            f"--permissions {wish} does not name a table and a permission.",
            f"Write TABLE=PERMISSION, with a table of {', '.join(sorted(locked))} and a permission of "
            f"{', '.join(perms.NAMES)}.",
        )
    before = locked[name]["permissions"]
    locked[name]["permissions"] = bits
    change = "UPDATE storage SET permissions = {bits} WHERE ptr = '{ptr}' AND owner = {owner}; -- {name}\n"
    for lines, now in ((text.up, bits), (text.down, before)):
        lines.append(change.format(bits=now, ptr=locked[name]["ptr"], owner=literal(owner), name=perms.name_of(now)))


def index_of(locked: dict[str, dict[str, Any]], wish: str) -> Text:
    """Return the migration that builds an index on ``wish``, such as "notes.text"."""
    table, _, name = wish.partition(".")
    if table not in locked or name not in locked[table]["fields"]:
        raise Problem(f"--index {wish}: there is no such field.", "Write TABLE.FIELD, for example --index notes.text.")
    if locked[table]["options"].get("rename"):
        raise Problem(
            f"--index {wish}: the struct renames its fields.",
            "Write the index by hand, on the stored name of the field.",
        )
    ptr = locked[table]["ptr"]
    index = f"{ptr[:40]}_{name[:22]}"
    text = Text(alone=True)
    text.up.append(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {ptr} ((data->>'{name}')) WHERE _deleted_txid IS NULL;\n"
    )
    text.down.append(f"DROP INDEX CONCURRENTLY IF EXISTS {index};\n")
    return text
