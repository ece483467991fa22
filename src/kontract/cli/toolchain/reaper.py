"""Stops what a command started when the command was killed and could not do so itself.

`kontract dev` and the tests start this as a separate small process and tell it, line by line on its stdin, what they
run: `group 123` for a process group, `postgres 456` for a server, `folder /tmp/x` for temporary files.
`forget ...` takes a line back. When the pipe closes and something is left, its owner has died, whatever the signal, and
this process stops the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_GROUP, _POSTGRES, _FOLDER = "group", "postgres", "folder"
_ORDER = (_GROUP, _POSTGRES, _FOLDER)  # clients first, then what they use


class Reaper:
    """The owner's end of the pipe."""

    def __init__(self, *, hold: tuple[int, ...] = ()) -> None:
        """`hold` are descriptors (locks) that stay open until the reaper has ended too."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kontract.cli.toolchain.reaper"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=hold,
            start_new_session=True,  # out of reach of the Ctrl-C that ends its owner
            text=True,
        )

    def watch_group(self, group: int) -> None:
        self._tell(f"{_GROUP} {group}")

    def forget_group(self, group: int) -> None:
        self._tell(f"forget {_GROUP} {group}")

    def watch_postgres(self, pid: int) -> None:
        self._tell(f"{_POSTGRES} {pid}")

    def forget_postgres(self, pid: int) -> None:
        self._tell(f"forget {_POSTGRES} {pid}")

    def watch_folder(self, path: Path) -> None:
        self._tell(f"{_FOLDER} {path}")

    def close(self) -> None:
        """The owner stops what it started itself; what it forgot about is stopped here."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # without it everything works, except after a kill -9
            if self._process.stdin:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()


def main() -> None:
    """The reaper's own process: remember lines until the pipe closes, then stop what is left, servers last."""
    from kontract.cli.toolchain.postgres import stop_server
    from kontract.cli.toolchain.processes import stop_group

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[str, None] = {}
    for line in sys.stdin:
        what = line.strip()
        if what.startswith("forget "):
            watched.pop(what.removeprefix("forget "), None)
        else:
            watched[what] = None
    for kind, _, name in sorted((what.partition(" ") for what in watched), key=lambda parts: _ORDER.index(parts[0])):
        if kind == _GROUP:
            stop_group(int(name), grace=3.0)
        elif kind == _POSTGRES:
            stop_server(int(name))
        else:
            shutil.rmtree(name, ignore_errors=True)


if __name__ == "__main__":
    main()
