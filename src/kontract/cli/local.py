"""What `kontract dev` and `kontract serve --local` have in common: they follow sql/, greet, and end on signals."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from kontract.cli.build import scan
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say, warn

_RESTARTS, _RESTARTS_SECONDS = 5, 60.0

LOOK_SECONDS = 0.3
"""How often they look for a file that has changed."""


class Schema:
    """Applies sql/ when `make dev` starts and whenever it changes; tells of structs without a migration, once each."""

    def __init__(self, checkout: Checkout, url: str, *, coordination: bool = False) -> None:
        """Use a database. ``coordination``: also what several nodes share."""
        self._checkout = checkout
        self._coordination = coordination
        self._url = url
        self._told: set[str] = set()
        self._sql = self._app = 0

    def apply(self) -> None:
        """Raises Problem; what could not be applied is not tried again before sql/ changes."""
        from kontract.cli.migrate import migrate

        self._sql = changed(self._checkout.root / "sql")
        asyncio.run(
            migrate(self._url, lambda text: say(f"    {text}"), skip_unfinished=True, coordination=self._coordination)
        )
        self._tell()

    def look(self) -> None:
        """Apply again if something below sql/ or src/app has changed."""
        try:
            if changed(self._checkout.root / "sql") != self._sql:
                say("Something changed in sql/: applying it ...")
                self.apply()
            elif changed(self._checkout.root / "src" / "app") != self._app:
                self._tell()
        except Problem as problem:
            say(problem.render())

    def _tell(self) -> None:
        from kontract.cli.migrate import unmigrated

        self._app = changed(self._checkout.root / "src" / "app")
        try:
            sentences = unmigrated(self._checkout.root)
        except Problem:
            return  # `kontract build` has told it
        for sentence in sentences:
            if sentence not in self._told:
                warn(f"    {sentence} There is no migration for it yet: .venv/bin/kontract migrate new NAME")
        self._told = set(sentences)


class Restarts:
    """Counts what was started again because it had ended: more often in a minute, and something else is wrong."""

    def __init__(self) -> None:
        """None so far."""
        self._times: deque[float] = deque(maxlen=_RESTARTS)

    def one_more(self) -> bool:
        """Count one, if there may be one."""
        now = time.monotonic()
        if len(self._times) == _RESTARTS and now - self._times[0] < _RESTARTS_SECONDS:
            return False
        self._times.append(now)
        return True


def greet(port: int) -> None:
    """Say where it answers, and what to try."""
    base = f"http://localhost:{port}"
    call = 'curl -s -H "Authorization: Bearer $TOKEN" --json'
    tries = "\n  ".join(f"{call} '{arguments}' {base}/rpc/{name}" for name, arguments in _examples())
    say(
        f"""
Kontract is ready on {base}  (Ctrl-C stops it; the data stays in .kontract/)

  curl -s {base}/health
  TOKEN=$(curl -s -X POST {base}/auth/anonymous | sed 's/.*"token":"\\([^"]*\\)".*/\\1/')
  {tries}
"""
    )


def _examples() -> list[tuple[str, str]]:
    """Return functions to try, with arguments: the demo's, or the first one that needs none."""
    try:
        functions = [one for one in scan(Checkout.find().root / "src") if one.kind == "backend"]
    except Problem:
        return []  # it has been told
    demo = [("create_task", '["Buy milk"]'), ("list_tasks", "[]")]
    if {name for name, _ in demo} <= {one.name for one in functions}:
        return demo
    easy = [one.name for one in functions if not any(argument.required for argument in one.arguments)]
    return [(name, "[]") for name in easy[:1]]


def sources(checkout: Checkout) -> int:
    """A number that changes when a source file or wrangler.toml does."""
    return hash((changed(checkout.root / "src"), checkout.wrangler_toml.stat().st_mtime_ns))


def changed(folder: Path, but: str = "") -> int:
    """A number that changes when a file below the folder does, ``but`` the one of this name."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # it was there a moment ago
            if path.suffix != ".pyc" and path.name != but and path.is_file():
                found.append((str(path), path.stat().st_mtime_ns))
    return hash(tuple(sorted(found)))


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def quiet() -> None:
    """No second Ctrl-C into the stopping: it takes a few seconds and leaves nothing behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
