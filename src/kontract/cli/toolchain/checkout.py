"""The paths of a checkout, and how its generated parts are replaced atomically."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import is_running, wait_until
from kontract.cli.toolchain.progress import Say, say

# What a first set-up writes: node_modules 260 MB, PostgreSQL 50 MB, python_modules and the runtime 20 MB, and as much
# again while a new folder waits beside the old one.
NEEDED_BYTES = 700 * 1024 * 1024
_REAP_SECONDS = 45.0  # more than the reaper needs for its slowest case, a server that must be stopped the hard way


@dataclass(frozen=True, slots=True)
class Checkout:
    """The paths of one clone. Everything generated is in folders that .gitignore names."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Checkout:
        """The checkout around `start` (default: the working directory)."""
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "wrangler.toml").is_file() and (folder / "pyproject.toml").is_file():
                return cls(folder)
        raise Problem(
            f"No wrangler.toml with a pyproject.toml beside it in {here} or above it.",
            "Run the command inside the folder that you cloned.",
        )

    @property
    def state(self) -> Path:
        """Local state across runs: PostgreSQL's data, stamps, logs."""
        return self.root / ".kontract"

    @property
    def node_modules(self) -> Path:
        return self.root / "node_modules"

    @property
    def python_modules(self) -> Path:
        return self.root / "python_modules"

    @property
    def wrangler_toml(self) -> Path:
        return self.root / "wrangler.toml"

    # --- stamps: what a generated folder was made from -----------------------------------------------------------

    def is_fresh(self, name: str, made_from: str) -> bool:
        stamp = self.state / "stamps" / name
        return stamp.is_file() and stamp.read_text() == made_from

    def mark(self, name: str, made_from: str) -> None:
        write_atomically(self.state / "stamps" / name, made_from)

    def forget(self, name: str) -> None:
        (self.state / "stamps" / name).unlink(missing_ok=True)

    # --- replacing folders ----------------------------------------------------------------------------------------

    @contextmanager
    def replacing(self, target: Path, name: str, made_from: str) -> Iterator[Path]:
        """Yield an empty folder that becomes `target` when the block succeeds; otherwise nothing changes.

        The stamp is removed first and written last, so an interrupted run leaves either the old folder, or
        none without a stamp, and the next run rebuilds it.
        """
        self.check_space()
        scratch = self.state / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
        work.chmod(0o755)  # mkdtemp makes it private; PostgreSQL's user and other tools must be able to look inside
        try:
            yield work
            self.forget(name)
            if target.exists():
                target.rename(scratch / f"{work.name}.old")
            work.rename(target)
            self.mark(name, made_from)
        except OSError as error:
            raise out_of_space(error, self.root) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(scratch / f"{work.name}.old", ignore_errors=True)

    def check_space(self, needed: int = NEEDED_BYTES) -> None:
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise Problem(
                f"Only {free // 2**20} MB are free on the disk of {self.root}; the set-up needs {needed // 2**20} MB.",
                "Free some space and run the command again; nothing was changed.",
            )

    # --- locks ----------------------------------------------------------------------------------------------------

    @contextmanager
    def setting_up(self, tell: Say = say) -> Iterator[None]:
        """Allow one set-up at a time in a checkout: `make test` beside `make dev` waits for it."""
        with (self._lock_file("setup.lock")).open("a+") as file:
            if not _locked(file):
                tell("  Waiting for another set-up of this checkout to finish ...")
                fcntl.flock(file, fcntl.LOCK_EX)
            shutil.rmtree(self.state / "tmp", ignore_errors=True)  # what a killed set-up left behind
            yield

    @contextmanager
    def running(self) -> Iterator[int]:
        """Allow one `kontract dev` at a time in a checkout: it owns the database folder. Yields the lock's descriptor.

        The lock is free when every process that holds the descriptor has ended. The reaper holds it too, so after a
        `kill -9` the next run waits here until the reaper has cleaned up.
        """
        path = self._lock_file("dev.lock")
        with path.open("a+") as file:
            if not _locked(file):
                file.seek(0)
                owner = file.read().strip()
                dead = owner.isdigit() and not is_running(int(owner))
                if not (dead and wait_until(lambda: _locked(file), _REAP_SECONDS, 0.1)):
                    raise Problem(
                        f"`kontract dev` is already running in this checkout (process {owner or 'unknown'}).",
                        "Use that one, or stop it with Ctrl-C in its terminal first.",
                    )
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield file.fileno()

    def _lock_file(self, name: str) -> Path:
        self.state.mkdir(parents=True, exist_ok=True)
        return self.state / name


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically; it has the permissions `mode` from the beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    except OSError as error:
        raise out_of_space(error, path.parent) from error
    finally:
        part.unlink(missing_ok=True)


def digest(*parts: Path | str) -> str:
    """Return a fingerprint of files and texts; a missing file changes it."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part.read_bytes() if part.is_file() else b"<missing>"
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def out_of_space(error: OSError, where: Path) -> BaseException:
    """Return `error` itself, or a Problem for a full disk (ENOSPC, or EDQUOT for a quota)."""
    import errno

    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return Problem(
        f"The disk of {where} is full.",
        "Free some space and run the command again; what was being written has been removed.",
    )
