"""What `kontract dev` and `kontract serve --local` share: applying sql/ when it changes, the greeting, and signals."""

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
"""Seconds between two checks for changed files."""


class Schema:
    """Applies sql/ at the start and whenever it changes; reports each struct without a migration once."""

    def __init__(self, checkout: Checkout, url: str, *, coordination: bool = False) -> None:
        """``coordination``: also create the tables that several nodes share."""
        self._checkout = checkout
        self._coordination = coordination
        self._url = url
        self._told: set[str] = set()
        self._sql = self._app = 0

    def apply(self) -> None:
        """Apply sql/; raises Problem. What failed is not retried until sql/ changes."""
        from kontract.cli.migrate import migrate

        self._sql = changed(self._checkout.root / "sql")
        asyncio.run(
            migrate(self._url, lambda text: say(f"    {text}"), skip_unfinished=True, coordination=self._coordination)
        )
        self._tell()

    def look(self) -> None:
        """Apply sql/ again if something below sql/ or src/app has changed."""
        try:
            if changed(self._checkout.root / "sql") != self._sql:
                say("sql/ has changed: applying it ...")
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
            return  # `kontract build` has reported it
        for sentence in sentences:
            if sentence not in self._told:
                warn(f"    {sentence} There is no migration for this yet. Run: .venv/bin/kontract migrate new NAME")
        self._told = set(sentences)


class Restarts:
    """Counts restarts: too many within a minute mean that something else is wrong."""

    def __init__(self) -> None:
        """Begin without restarts."""
        self._times: deque[float] = deque(maxlen=_RESTARTS)

    def one_more(self) -> bool:
        """Count a restart and return True; False when there were too many."""
        now = time.monotonic()
        if len(self._times) == _RESTARTS and now - self._times[0] < _RESTARTS_SECONDS:
            return False
        self._times.append(now)
        return True


def greet(port: int) -> None:
    """Print the address and commands to try."""
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
    """Return functions to try with their arguments: the demo's, or the first one without required arguments."""
    try:
        functions = [one for one in scan(Checkout.find().root / "src") if one.kind == "backend"]
    except Problem:
        return []  # already reported
    demo = [("create_task", '["Buy milk"]'), ("list_tasks", "[]")]
    if {name for name, _ in demo} <= {one.name for one in functions}:
        return demo
    easy = [one.name for one in functions if not any(argument.required for argument in one.arguments)]
    return [(name, "[]") for name in easy[:1]]


def sources(checkout: Checkout) -> int:
    """Return a number that changes when a source file or wrangler.toml does."""
    return hash((changed(checkout.root / "src"), checkout.wrangler_toml.stat().st_mtime_ns))


def changed(folder: Path, but: str = "") -> int:
    """Return a number that changes when a file below the folder does; the file named ``but`` is ignored."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # it was there a moment ago
            if path.suffix != ".pyc" and path.name != but and path.is_file():
                found.append((str(path), path.stat().st_mtime_ns))
    return hash(tuple(sorted(found)))


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does."""

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
    """Ignore further signals while stopping: it takes a few seconds and leaves nothing behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
