"""What was read of files that have not changed since: a build reads the others only."""

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
    """``builder``: by which code it was read."""

    builder: str
    files: dict[str, Read]


class Cache:
    """Reads by the digest of path and text. A file that cannot be used is no cache, and no error."""

    def __init__(self, path: Path | None) -> None:
        """Keep it at ``path``; None keeps nothing."""
        self._path = path
        self._found: Mapping[str, Read] = {}
        self._used: dict[str, Read] = {}
        self.read = 0
        """How many files were read, because they were not known."""
        if path is not None:
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            except (OSError, msgspec.DecodeError):
                return
            if kept.builder == _builder():
                self._found = kept.files

    def get(self, shown: str, text: str) -> Read | None:
        """Return what this text was found to hold."""
        return self._used.setdefault(key, self._found[key]) if (key := _key(shown, text)) in self._found else None

    def put(self, shown: str, text: str, read: Read) -> Read:
        """Keep what was read."""
        self.read += 1
        return self._used.setdefault(_key(shown, text), read)

    def write(self) -> None:
        """Write what was used, if it is not what was found."""
        if self._path is not None and self._used.keys() != self._found.keys():
            with suppress(OSError):  # the next build takes longer
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, msgspec.json.encode(_Kept(_builder(), self._used)).decode())


def _key(shown: str, text: str) -> str:
    return f"{shown} {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


@cache
def _builder() -> str:
    """A digest of this package, of Python, and of what names are looked up in: another version reads anew."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), Path(kontract.__file__)]
    versions = f"{sys.version} {msgspec.__version__}".encode()
    return hashlib.sha256(b"\0".join([versions, *(path.read_bytes() for path in paths)])).hexdigest()[:32]
