"""Cache of what was read from each file, so that a build parses only files that have changed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

import kontract
from kontract.cli.build.declared import Read
from kontract.cli.toolchain.checkout import write_atomically


class _Kept(msgspec.Struct):
    """``builder``: digest of the code that read it."""

    builder: str
    files: dict[str, Read]


class Cache:
    """Results by the digest of path and text. An unusable cache file is ignored."""

    def __init__(self, path: Path | None) -> None:
        """Keep the cache at ``path``; None keeps nothing."""
        self._path = path
        self._found: Mapping[str, Read] = {}
        self._used: dict[str, Read] = {}
        self.read = 0
        """How many files were not in the cache."""
        if path is not None:
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            except (OSError, msgspec.DecodeError):
                return
            if kept.builder == _builder():
                self._found = kept.files

    def get(self, shown: str, text: str) -> Read | None:
        """Return what was read from this text before; None if it is not in the cache."""
        return self._used.setdefault(key, self._found[key]) if (key := _key(shown, text)) in self._found else None

    def put(self, shown: str, text: str, read: Read) -> Read:
        """Store what was read from a text."""
        self.read += 1
        return self._used.setdefault(_key(shown, text), read)

    def write(self) -> None:
        """Write the entries that were used, if they changed."""
        if self._path is not None and self._used.keys() != self._found.keys():
            with suppress(OSError):  # the next build takes longer
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, msgspec.json.encode(_Kept(_builder(), self._used)).decode())


def _key(shown: str, text: str) -> str:
    return f"{shown} {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


@cache
def _builder() -> str:
    """A digest of this package, of Python and of the modules names are looked up in: a new version reads all files."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), Path(kontract.__file__)]
    versions = f"{sys.version} {msgspec.__version__}".encode()
    return hashlib.sha256(b"\0".join([versions, *(path.read_bytes() for path in paths)])).hexdigest()[:32]
