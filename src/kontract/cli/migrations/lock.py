"""sql/schema.lock.json: the ``@table`` structs as of the last migration, and changes since."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kontract.cli.migrations.structs import Table
from kontract.cli.toolchain.checkout import write_atomically
from kontract.cli.toolchain.problem import Problem

LOCK = "sql/schema.lock.json"

_LONGEST = 47
# Characters of a table's name in a physical one: tbl_<name>_<6 digits> has 58 at most, so that the names of its indexes
# (sql/init.sql) stay within PostgreSQL's 63.

_BASE = re.compile(r"\('(\w+)',\s*'(\w+)',\s*'tenant-1'")
"""A table that sql/init.sql registers."""

SIDE_BY_SIDE = "During a deploy old and new code run side by side, and rows written by old code do not change."


@dataclass(frozen=True)
class SchemaChange:
    """One difference. ``why``: why it is refused; None if the change is safe."""

    what: str
    why: str | None = None


@dataclass
class Difference:
    """The differences between the lock file and the application."""

    added: list[str] = field(default_factory=list)
    changes: list[SchemaChange] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether there are any differences."""
        return bool(self.added or self.changes)

    @property
    def refused(self) -> list[SchemaChange]:
        """Return the changes that are not safe."""
        return [change for change in self.changes if change.why is not None]

    def sentences(self) -> Iterator[str]:
        """Return the differences, one sentence each."""
        yield from (f"Table {name} is new." for name in self.added)
        yield from (change.what for change in self.changes)


def load(root: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of the lock file, by name; tables that only sql/init.sql has get no fields."""
    path = root / LOCK
    tables: dict[str, dict[str, Any]] = {}
    if path.is_file():
        try:
            tables = json.loads(path.read_text())["tables"]
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(
                f"{LOCK} cannot be read: {error!r}.", "Restore it from the last commit: git checkout {LOCK}"
            ) from error
    return tables


def base(root: Path) -> dict[str, str]:
    """Return the physical tables that sql/init.sql registers for tenant-1, by name."""
    path = root / "sql" / "init.sql"
    return dict(_BASE.findall(path.read_text())) if path.is_file() else {}


def save(root: Path, tables: dict[str, dict[str, Any]], migration: str | None) -> None:
    """Write the lock file; the same tables always give the same text."""
    content = {"about": "Written by `kontract migrate new`. Commit it.", "migration": migration, "tables": tables}
    write_atomically(root / LOCK, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def physical(name: str, owner: str) -> str:
    """Return the name of the physical table, the same on every machine."""
    digest = hashlib.sha256(f"{owner}/{name}".encode()).hexdigest()
    return f"tbl_{name[:_LONGEST]}_{digest[:6]}"


def entry(table: Table, ptr: str, permissions: int = 7) -> dict[str, Any]:
    """Return the entry of a table in the lock file."""
    return {**table, "ptr": ptr, "permissions": permissions}


def compare(locked: dict[str, dict[str, Any]], declared: dict[str, Table]) -> Difference:
    """Return what has changed; dangerous changes have a reason."""
    difference = Difference()
    for name, table in sorted(declared.items()):
        if name in locked:
            difference.changes += _changes(name, locked[name], table)
        else:
            difference.added.append(name)
    for name in sorted(locked.keys() - declared.keys()):
        difference.changes.append(
            SchemaChange(
                f"Table {name} no longer has a struct.",
                f"{SIDE_BY_SIDE} Running code would lose its table: first deploy code that does not use it, and drop "
                "the table in a later release.",
            )
        )
    return difference


def _changes(name: str, old: dict[str, Any], new: Table) -> Iterator[SchemaChange]:
    before, after = old["fields"], new["fields"]
    gone = [one for one in before if one not in after]
    for one in gone:
        yield SchemaChange(
            f"Field {name}.{one} was removed or renamed.",
            f"{SIDE_BY_SIDE} Old code would miss the field in rows written by new code, and old values would never be "
            "read. Add a new field beside it, copy the values in functions, and remove the old field last.",
        )
    for one, now in after.items():
        if one not in before:
            yield _added(name, one, now, old)
        elif before[one] != now:
            yield from _altered(f"{name}.{one}", before[one], now)
    if old["rows"] != new["rows"]:
        why = None
        if new["rows"] == "own":
            why = "During the deploy users would no longer see the rows that others created."
        yield SchemaChange(f"Table {name} has rows={new['rows']!r} instead of {old['rows']!r}.", why)
    if old["stream"] != new["stream"]:
        yield SchemaChange(f"Table {name} has stream={new['stream']!r} instead of {old['stream']!r}.")
    if old["options"] != new["options"]:
        yield SchemaChange(
            f"The struct of table {name} has {new['options'] or 'no options'} instead of {old['options'] or 'none'}.",
            "Options such as rename= change under which names, or whether, fields are stored: old and new code would "
            "write different rows.",
        )


def _added(table: str, name: str, now: dict[str, Any], old: dict[str, Any]) -> SchemaChange:
    what = f"Field {table}.{name} is new."
    if now["default"] is None:
        return SchemaChange(
            what,
            f"It has no default. {SIDE_BY_SIDE} Old rows lack the field, so reading them would fail: give it a "
            "default, fill it in a function, and remove the default in a later release.",
        )
    if old["options"].get("forbid_unknown_fields"):
        return SchemaChange(
            what,
            f"The struct has forbid_unknown_fields. {SIDE_BY_SIDE} Old code could not read rows written by new code: "
            "first deploy without that option.",
        )
    return SchemaChange(what)


_PERM = re.compile(r"(?:\w+\.)*perm\((?:\w+\.)*perms\.(\w+)\)")


def _altered(name: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[SchemaChange]:
    if _PERM.sub("perm()", before["type"]) != _PERM.sub("perm()", now["type"]) and not _only_perm(before, now):
        yield SchemaChange(
            f"Field {name} has the type {now['type']} instead of {before['type']}.",
            f"{SIDE_BY_SIDE} Each has to read what the other writes. If both types accept all values of the other, use "
            "--skeleton; otherwise add a new field.",
        )
    elif before["type"] != now["type"]:
        yield SchemaChange(f"The permission of field {name} has changed.")
    if before["default"] is not None and now["default"] is None:
        yield SchemaChange(
            f"Field {name} no longer has a default.",
            f"{SIDE_BY_SIDE} Rows without the field could no longer be read: first fill it in all rows.",
        )
    elif before["default"] != now["default"]:
        yield SchemaChange(f"Field {name} has the default {now['default']} instead of {before['default']}.")


def _only_perm(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether two types differ only in that one is ``Annotated[T, perm(...)]`` and the other ``T``."""
    bare = [re.sub(rf", {_PERM.pattern}", "", one["type"]) for one in (before, now)]
    return len({re.sub(r"^Annotated\[([^,\[\]]+|\w+\[[^\[\]]*\])\]$", r"\1", one) for one in bare}) == 1
