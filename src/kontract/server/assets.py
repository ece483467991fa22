"""The files of public/, as Workers static assets serve them: from memory, with an ETag, under the rules of _headers."""

from __future__ import annotations

import hashlib
import mimetypes
import posixpath
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

RULES = "_headers"
"""The file with the rules; it is not served itself (Cloudflare documentation, "Headers")."""

LARGEST = 25 * 1024 * 1024
"""Bytes of a file; Workers static assets take no larger ones."""

OWN = re.compile(r"/(call|rpc|auth|raystream|\.well-known)/|/stream(/|$)|/(health|ready|openapi\.json)$")
"""Paths that are the gateway's whatever lies in public/: `run_worker_first` of wrangler.toml."""

_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".webmanifest": "application/manifest+json"}
"""Types that the machine's own table, which `mimetypes` reads, says differently on some machines."""

_TEXT = ("text/", "application/json", "application/javascript", "application/manifest+json")


LOOK_SECONDS = 0.3
"""How often, at most, a folder that is watched is looked at."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file: its content, its ETag in quotes, and every header it is sent with."""

    body: bytes
    etag: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """Another way to write the path of a file: it is at ``location``, a path that is ready for a URL."""

    location: str


class Assets:
    """All files below a folder, by path. Read once: what is deployed does not change while it is served."""

    def __init__(self, folder: Path | None, *, watched: bool = False) -> None:
        """Read ``folder``; nothing is served when it is None or not there.

        ``watched``: read it again when something in it has changed, for development.
        """
        self._folder = folder
        self._watched = watched
        self._looked_at = time.monotonic()
        self._seen = state(folder) if watched and folder is not None else 0
        self._read()

    def _read(self) -> None:
        self._files: dict[str, Asset] = {}
        self._aliases: dict[str, str] = {}
        folder = self._folder
        if folder is None or not folder.is_dir():
            return
        root = folder.resolve()
        rules_file = root / RULES
        rules = parse_rules(rules_file.read_text(encoding="utf-8")) if rules_file.is_file() else []
        for path in sorted(root.rglob("*")):
            # A link that leads out of the folder is not followed: what is public is what lies in it.
            if not path.is_file() or path == rules_file or not path.resolve().is_relative_to(root):
                continue
            if path.stat().st_size > LARGEST:
                continue
            self._add("/" + path.relative_to(root).as_posix(), path.read_bytes(), rules)

    def __len__(self) -> int:
        """Count the paths."""
        return len(self._files)

    def find(self, path: str) -> Asset | Moved | None:
        """Return the file at a path of a URL, or where it is; None for everything else and for the gateway's own paths.

        As Workers do with ``html_handling = "auto-trailing-slash"`` (Cloudflare documentation, "HTML handling"; a test
        asks workerd): /about.html is at /about, /docs/index.html at /docs/. Other spellings of a path, also needless
        percent-encoding and doubled slashes, are led there.
        """
        if self._watched:
            self._look()
        if OWN.match(path) or "\0" in path:
            return None
        asset = self._files.get(path)
        if asset is not None and _quoted(path) == path:
            return asset
        plain = posixpath.normpath(re.sub("/+", "/", unquote(path)))
        plain = plain if plain == "/" or not path.endswith("/") else f"{plain}/"
        found = plain if plain in self._files else self._aliases.get(plain)
        if found is None or OWN.match(found):
            return None
        location = _quoted(found)
        return self._files[found] if location == path else Moved(location)

    def _look(self) -> None:
        """Read the folder again if it has changed."""
        now = time.monotonic()
        if self._folder is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at, seen = now, state(self._folder)
        if seen != self._seen:
            self._seen = seen
            self._read()

    def _alias(self, *others: str, of: str) -> None:
        for other in others:
            self._aliases.setdefault(other, of)

    def _add(self, path: str, body: bytes, rules: Sequence[tuple[re.Pattern[str], dict[str, str]]]) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if path.endswith("/index.html"):
            path = path.removesuffix("index.html")
            self._alias(f"{path}index", f"{path}index.html", path.rstrip("/"), of=path)
        kind = _TYPES.get(Path(path).suffix) or mimetypes.guess_type(path or "x.html")[0]
        if path.endswith(("/", ".html")):
            kind = "text/html"
            if path.endswith(".html"):
                path = path.removesuffix(".html")
                self._alias(f"{path}.html", f"{path}/", f"{path}/index", f"{path}/index.html", of=path)
        headers = {
            "content-type": _with_charset(kind or "application/octet-stream"),
            "cache-control": "public, max-age=0, must-revalidate",
            "etag": etag,
        }
        for pattern, named in rules:
            if pattern.fullmatch(path):
                headers |= named
        self._files[path] = Asset(body, etag, tuple(headers.items()))


def _quoted(path: str) -> str:
    return quote(path, safe="/!~*'()")  # what JavaScript's encodeURIComponent leaves, and so Workers


def state(folder: Path) -> int:
    """Return a number that changes when a file below the folder does."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # it was there a moment ago
            if path.is_file():
                found.append((str(path), path.stat().st_mtime_ns))
    return hash(tuple(sorted(found)))


def not_modified(asset: Asset, if_none_match: str | None) -> bool:
    """Whether the caller has this version already (RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    return any(tag.strip().removeprefix("W/") in (asset.etag, "*") for tag in if_none_match.split(","))


def parse_rules(text: str) -> list[tuple[re.Pattern[str], dict[str, str]]]:
    """Read a _headers file: a path (with ``*`` for anything) per line, below it indented ``Name: value`` lines."""
    rules: list[tuple[re.Pattern[str], dict[str, str]]] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line[0].isspace():
            pattern = ".*".join(re.escape(part) for part in line.strip().split("*"))
            rules.append((re.compile(pattern), {}))
        elif rules:
            name, _, value = line.strip().partition(":")
            rules[-1][1][name.strip().lower()] = value.strip()
    return rules


def _with_charset(kind: str) -> str:
    return f"{kind}; charset=utf-8" if kind.startswith(_TEXT) else kind
