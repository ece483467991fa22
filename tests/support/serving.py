"""`kontract serve` as a process of its own, on a free port: started, asked, and stopped by its id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kontract.cli import build
from kontract.cli.toolchain import dev_vars
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.processes import free_port
from kontract.cli.toolchain.reaper import Reaper
from support.sessions import ENVIRONMENT

START_SECONDS = 120

OURS = ("KONTRACT_", "DATABASE_URL", "PORT", "TIKV_PD_ENDPOINT", "PYTHONPATH")
"""Variables that a test is not to inherit from whoever runs it."""


class Server:
    """A server. It has what tests use of :class:`~kontract.cli.toolchain.wrangler.DevServer`, too."""

    def __init__(
        self, folder: Path, database_url: str, reaper: Reaper | None, variables: dict[str, str], arguments: list[str]
    ) -> None:
        self.folder = folder
        self.database_url = database_url
        self.port = free_port()
        self.env_file = folder / "dev.vars"
        self.arguments = arguments
        self.lines: list[str] = []
        self._reaper = reaper
        self._process: subprocess.Popen[str] | None = None
        variables = ENVIRONMENT | {"KONTRACT_COORDINATION": "memory"} | variables
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items() if value is not None))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment |= {"PYTHONPATH": str(folder / "src"), "PYTHONUNBUFFERED": "1"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> subprocess.Popen[str]:
        """Start it, and do not wait."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "kontract.cli.main", "serve", "--env-file", str(self.env_file), *self.arguments],
            cwd=self.folder,
            env=self.environment | {"PORT": str(self.port), "DATABASE_URL": self.database_url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if self._reaper is not None:
            self._reaper.watch_group(process.pid)
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()
        return process

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.spawn()
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        process = self._process
        assert process is not None
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert process.poll() is None, self.log_text()
            assert time.monotonic() < end, f"no answer within {START_SECONDS} s:\n{self.log_text()}"
            time.sleep(0.02)

    def send(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process that was started."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end and return its exit code."""
        assert self._process is not None
        code = self._process.wait(seconds)
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._reaper is not None:
            self._reaper.forget_group(self._process.pid)
        return code

    def stop(self) -> int:
        """Stop it as an operator does, and return its exit code."""
        if self._process is None or self._process.returncode is not None:
            return -1
        if self._process.poll() is None:
            self.send()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a lost machine does."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def log_text(self) -> str:
        return "\n".join(tuple(self.lines))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one kind."""
        found = [json.loads(line) for line in tuple(self.lines) if line.startswith("{")]
        return [line for line in found if line["event"] == name]

    def wait_for(self, name: str, count: int = 1, seconds: float = 60) -> list[dict[str, Any]]:
        """Wait until there are so many log lines of a kind."""
        end = time.monotonic() + seconds
        while len(found := self.events(name)) < count:
            assert time.monotonic() < end, f"no {name} within {seconds} s:\n{self.log_text()}"
            time.sleep(0.02)
        return found

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line.rstrip("\n"))

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/health", timeout=10):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


def make_application(checkout: Checkout, folder: Path, modules: Iterable[Path] = ()) -> None:
    """Lay out src/app with the demo and more modules, src/routes.py, and public/."""
    source = folder / "src"
    shutil.copytree(checkout.root / "src" / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for module in modules:
        shutil.copyfile(module, source / "app" / module.name)
    (source / "routes.py").write_text(build.render(build.scan(source)))
    (folder / "public").symlink_to(checkout.root / "public")


def new_server(
    checkout: Checkout,
    database_url: str,
    folder: Path,
    reaper: Reaper | None = None,
    *,
    modules: Iterable[Path] = (),
    arguments: Iterable[str] = (),
    **variables: str | None,
) -> Server:
    """A server that has not been started. A variable that is None is not set."""
    folder.mkdir(parents=True, exist_ok=True)
    make_application(checkout, folder, modules)
    given = {"KONTRACT_SECRET": dev_vars.new_secret()} | variables
    return Server(folder, database_url, reaper, given, list(arguments))


@contextmanager
def running_server(
    checkout: Checkout, database_url: str, folder: Path, reaper: Reaper, **more: Any
) -> Iterator[Server]:
    """A server that answers; stopped at the end, whatever happened to it meanwhile."""
    server = new_server(checkout, database_url, folder, reaper, **more)
    try:
        server.start()
        yield server
    finally:
        server.stop()
