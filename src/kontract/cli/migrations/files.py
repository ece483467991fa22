"""The files of sql/migrations: their names, their two directions, and what they may contain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kontract.cli.toolchain.problem import Problem

FOLDER = "sql/migrations"

UNFINISHED = "unfinished:"
"""A file with a comment that begins with this word is not applied: a skeleton is not a migration."""

SEEDS = "seed rows"
"""A file with this comment may insert rows into versioned tables."""

_NAME = re.compile(r"(\d{4})_([a-z][a-z0-9_]{0,50})\.(sql|py)")
_DOWN = re.compile(r"^--\s*down\s*$", re.MULTILINE | re.IGNORECASE)
_ALONE = re.compile(r"^--\s*no transaction\s*$", re.MULTILINE | re.IGNORECASE)
_UNFINISHED = re.compile(rf"^\s*(?:--|#)\s*{UNFINISHED}", re.MULTILINE)
_SEEDS = re.compile(rf"^(?:--|#)\s*{SEEDS}\s*$", re.MULTILINE | re.IGNORECASE)
_CONTROL = re.compile(
    r"(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION)\b", re.IGNORECASE
)
_CONCURRENTLY = re.compile(
    r"(?:CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS|DROP\s+INDEX\s+CONCURRENTLY\s+IF\s+EXISTS)"
    r'\s+"?([A-Za-z_][A-Za-z0-9_]{0,62})"?',
    re.IGNORECASE,
)
# What may hold a semicolon that does not end a statement. E'' strings come first: in them a backslash keeps the quote.
_SKIPPED = re.compile(
    r"--[^\n]*|/\*|\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(\$(?:[A-Za-z_]\w*)?\$).*?\1|;",
    re.DOTALL,
)


@dataclass(frozen=True)
class Migration:
    """One file. ``up`` and ``down`` are SQL; of a Python step both are empty, and ``path`` is loaded."""

    name: str
    path: Path
    checksum: str
    up: str = ""
    down: str | None = None
    alone: bool = False
    unfinished: bool = False
    seeds: bool = False

    @property
    def shown(self) -> str:
        """Return the file as messages name it."""
        return f"{FOLDER}/{self.path.name}"

    @property
    def is_empty(self) -> bool:
        """Return whether the file is still empty, without even a comment."""
        return not self.is_python and not f"{self.up}{self.down or ''}".strip()

    @property
    def is_python(self) -> bool:
        """Whether it is a Python step."""
        return self.path.suffix == ".py"


def read(root: Path) -> list[Migration]:
    """Return the migrations of a checkout in order; a Problem says what is wrong with the files."""
    folder = root / FOLDER
    found: list[Migration] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix not in (".sql", ".py"):
            continue
        if not _NAME.fullmatch(path.name):
            raise Problem(
                f"{FOLDER}/{path.name} is not the name of a migration.",
                "Name it like 0001_add_notes.sql: four digits, then lower case letters, digits and _.",
            )
        one = _read(path)
        if int(one.name[:4]) != len(found) + 1:
            before = found[-1].path.name if found else "the beginning"
            raise Problem(
                f"{one.shown} follows {before}: the numbers must be 0001, 0002 and so on, without gaps or duplicates.",
                "Restore the missing file, or give the newer of two the next free number.",
            )
        found.append(one)
    return found


def _read(path: Path) -> Migration:
    raw = path.read_bytes().replace(b"\r\n", b"\n")  # git may change line endings
    checksum = hashlib.sha256(raw).hexdigest()
    text = raw.decode()
    unfinished = _UNFINISHED.search(text) is not None
    seeds = _SEEDS.search(text) is not None
    if path.suffix == ".py":
        return Migration(path.stem, path, checksum, unfinished=unfinished, seeds=seeds)
    parts = _DOWN.split(text)
    if len(parts) > 2:
        raise Problem(f"{FOLDER}/{path.name} has more than one line `-- down`.", "Keep one.")
    up, down = parts[0], parts[1] if len(parts) == 2 else None
    one = Migration(path.stem, path, checksum, up, down, _ALONE.search(up) is not None, unfinished, seeds)
    for part in (up, down or ""):
        _check(one, part)
    return one


def _check(one: Migration, part: str) -> None:
    found = list(statements(part))
    for statement in found:
        if _CONTROL.match(statement):
            raise Problem(
                f"{one.shown} has its own statement {statement.split()[0]!r}.",
                "Remove it: each migration and its record are written in one transaction.",
            )
    if one.alone and found and (len(found) > 1 or index_name(found[0]) is None):
        raise Problem(
            f"{one.shown} has `-- no transaction`, which allows only one statement, on an index.",
            "Write CREATE INDEX CONCURRENTLY IF NOT EXISTS name, or DROP INDEX CONCURRENTLY IF EXISTS name, without a "
            "schema, and put everything else into another file, which runs in a transaction.",
        )
    if not one.alone and any(re.search(r"\bINDEX\s+CONCURRENTLY\b", statement, re.IGNORECASE) for statement in found):
        raise Problem(
            f"{one.shown} builds an index CONCURRENTLY, which PostgreSQL does not allow in a transaction.",
            "Move it to a separate file that begins with the line `-- no transaction`.",
        )


def index_name(statement: str) -> str | None:
    """Return the index that a statement of a `-- no transaction` file makes or drops; None if it does neither."""
    found = _CONCURRENTLY.match(statement)
    return found[1] if found else None


def statements(text: str) -> Iterator[str]:
    """Return the statements of SQL text, without comments around them."""
    kept, at = "", 0
    while found := _SKIPPED.search(text, at):
        kept += text[at : found.start()]
        at = found.end()
        piece = found[0]
        if piece == "/*":
            at = _after_comment(text, at)
            kept += " "
        elif piece.startswith("--"):
            kept += " "
        elif piece == ";":
            if kept.strip():
                yield kept.strip()
            kept = ""
        else:
            kept += piece
    kept += text[at:]
    if kept.strip():
        yield kept.strip()


def _after_comment(text: str, at: int) -> int:
    depth = 1  # they nest in PostgreSQL
    for found in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if found[0] == "/*" else -1
        if not depth:
            return found.end()
    return len(text)
