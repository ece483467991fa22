"""Runs `kontract dev` (or `make dev`) as a person does: output on a pipe, stopped by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Dev:
    """A running command and everything it has printed."""

    def __init__(self, folder: Path, command: Sequence[str | Path], env: dict[str, str]) -> None:
        plain = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "PORT", "MAKELEVEL")}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**plain, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # its own group, as a shell gives it: a signal there is not one for pytest
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Until a line with `text` was printed; an assertion with all output if the command ends without it."""
        end = time.monotonic() + seconds
        while not any(text in line for line in tuple(self.lines)):
            assert time.monotonic() < end, f"{text!r} not printed within {seconds} s:\n{self.output}"
            if self.process.poll() is not None:
                self._reader.join(5)
                assert text in self.output, f"ended with {self.process.returncode}:\n{self.output}"
                return
            time.sleep(0.05)

    def wait_for_count(self, text: str, count: int, seconds: float = 60) -> None:
        """Until it was printed so often."""
        end = time.monotonic() + seconds
        while self.output.count(text) < count:
            assert time.monotonic() < end, f"{text!r} not printed {count} times within {seconds} s:\n{self.output}"
            time.sleep(0.05)

    def curl_lines(self) -> list[str]:
        """The commands that it printed to be pasted."""
        return [line.strip() for line in self.lines if line.strip().startswith(("curl ", "TOKEN=$(curl "))]

    def send(self, number: signal.Signals) -> None:
        """To the whole group, as the terminal does on Ctrl-C."""
        os.killpg(self.process.pid, number)

    def wait(self, seconds: float = 60) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code


@contextmanager
def dev(folder: Path, *, port: int | str, command: Sequence[str | Path] = (), **env: str) -> Iterator[Dev]:
    """`kontract dev` in a checkout; ended with SIGINT if the test has not done it, and killed if that does not help."""
    start = command or (sys.executable, "-m", "kontract.cli.main", "dev")
    # A checkout of a test starts once or twice: a snapshot of its own would cost more than it saves.
    running = Dev(folder, start, {"PORT": str(port), "KONTRACT_SNAPSHOT": "keep", **env})
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.send(signal.SIGINT)
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.send(signal.SIGKILL)
        running.wait()
        assert running.process.stdout is not None
        running.process.stdout.close()
