"""`wrangler dev` as a thing with start, stop and kill: used by `kontract dev` and by the tests alike."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kontract.cli.toolchain import node
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port, group_members, stop_group, wait_until
from kontract.cli.toolchain.pyodide_bundle import mode
from kontract.cli.toolchain.pyodide_bundle.mode import Runtime

READY_SECONDS = 120.0  # 5 to 8 s on a quiet machine; a busy one with cold caches gets its time
_STOP_SECONDS = 6.0
_POLL_SECONDS = 0.15
_SILENCE_SECONDS = 1.0  # without a line, and the traceback is complete
_SILENCE_AT_MOST = 10.0
_REQUEST_SECONDS = 60.0  # the first request waits for the Python runtime to start

# Lines after which waiting is pointless. "[ERROR]" is not among them: wrangler puts it before everything that the
# Worker writes to stderr, a warning of Python's included.
_FATAL_SIGNS = ("The Workers runtime failed to start", "Uncaught Error: PythonError")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Listener = Callable[[str], None]


def environment(runtime: Runtime, database_url: str, state: Path, node_bin: Path) -> dict[str, str]:
    """Return wrangler's environment variables: no prompts, no telemetry."""
    return {
        **node.environment(node_bin),
        **runtime.environment,
        "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE": database_url,
        "CLOUDFLARE_CF_FETCH_ENABLED": "false",  # request.cf is a placeholder in development; no download for it
        "FORCE_COLOR": "0",  # its output is read, kept and shown in pieces
        "WRANGLER_SEND_METRICS": "false",
        "WRANGLER_HIDE_BANNER": "true",  # and with it the look for a newer version
        "WRANGLER_LOG_PATH": str(state / "logs"),
        # Workers find one another by name through this folder. Each checkout has its own, so that two clones (or the
        # tests beside `make dev`) do not talk to each other's Durable Objects.
        "WRANGLER_REGISTRY_PATH": str(state / "registry"),
    }


@dataclass
class DevServer:
    """One `wrangler dev` on 127.0.0.1:`port`. After `kill` or `stop`, `start` runs it again on the same state."""

    checkout: Checkout
    runtime: Runtime
    port: int
    database_url: str
    persist_to: Path
    state: Path
    env_file: Path | None = None
    variables: tuple[str, ...] = ()  # NAME:VALUE, for the Worker
    settings: Mapping[str, str] = field(default_factory=dict)  # for what wrangler starts: the build
    on_line: Listener | None = None  # told every line of output
    on_spawn: Callable[[int], None] | None = None  # told the process group before anything is waited for
    node_bin: Path = field(default_factory=node.bin_folder)
    group: int = 0
    has_failed: bool = False  # the Worker does not start, and the log says why: another try would end in the same way
    _process: subprocess.Popen[str] | None = None
    _reader: threading.Thread | None = None
    _lines: deque[str] = field(default_factory=lambda: deque(maxlen=5000))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_text(self) -> str:
        """Everything wrangler and the Worker have printed since this object was made (the last 5,000 lines)."""
        return "\n".join(tuple(self._lines))

    def command(self) -> list[str]:
        # A port of its own for the inspector: with the default one, two wranglers would collide.
        inspector = free_port()
        return [
            *node.wrangler_command(self.checkout, self.node_bin),
            *("dev", "--config", str(self.checkout.wrangler_toml)),
            *("--ip", "127.0.0.1", "--port", str(self.port), "--inspector-port", str(inspector)),
            *("--persist-to", str(self.persist_to), "--show-interactive-dev-session", "false"),
            *(("--env-file", str(self.env_file)) if self.env_file else ()),
            *(part for variable in self.variables for part in ("--var", variable)),
            *self.runtime.arguments,
        ]

    def start(self) -> None:
        """Start and return once GET /health answers 200. Raises `Problem` with the log if it does not.

        If the published Python runtime is to blame, the assembled one takes its place.
        """
        try:
            self._start()
        except Problem:
            instead = mode.instead_of(self.checkout, self.runtime)
            if instead is None:
                raise
            self.runtime = instead
            self._start()

    def _start(self) -> None:
        mark = len(self._lines)
        self.has_failed = False
        self._process = subprocess.Popen(
            self.command(),
            cwd=self.checkout.root,
            env={**environment(self.runtime, self.database_url, self.state, self.node_bin), **self.settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # one group for wrangler and its workerds: they are stopped together, by its id
        )
        self.group = self._process.pid
        if self.on_spawn:
            self.on_spawn(self.group)
        self._reader = threading.Thread(target=self._read, args=(self._process,), name="wrangler", daemon=True)
        self._reader.start()
        try:
            self._wait_ready(mark)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End wrangler and every workerd of it; a Durable Object's state is on disk already."""
        self._end(lambda group: stop_group(group, grace=_STOP_SECONDS))

    def kill(self) -> None:
        """SIGKILL to all of them at once: what a crash or a lost machine looks like."""

        def strike(group: int) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            wait_until(lambda: not group_members(group), 5)

        self._end(strike)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, how: Callable[[int], None]) -> None:
        if self.group and group_members(self.group):
            how(self.group)
        if self._process:
            self._process.wait()
        if self._reader:
            self._reader.join(2)
        if self._process and self._process.stdout:
            self._process.stdout.close()
        self._process, self._reader, self.group = None, None, 0

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = _COLOUR.sub("", line.rstrip("\n"))  # esbuild colours its messages whatever one asks
            self._lines.append(text)
            self.has_failed = self.has_failed or any(sign in text for sign in _FATAL_SIGNS)
            if self.on_line:
                with contextlib.suppress(OSError):  # `make dev | head`: the reader is gone, the server stays
                    self.on_line(text)

    def _wait_ready(self, mark: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if not self.running():
                raise self._failed("wrangler stopped before the gateway answered.", mark)
            answer = self._ask_health()
            if answer == 200:
                return
            if answer is not None or self.has_failed:
                self._wait_for_silence(mark)
                raise self._failed(
                    f"The gateway does not start (GET /health returns {answer})."
                    if answer
                    else "The gateway does not start.",
                    mark,
                )
            time.sleep(_POLL_SECONDS)
        raise self._failed(f"The gateway did not answer within {READY_SECONDS:.0f} s.", mark)

    def _wait_for_silence(self, mark: int) -> None:
        """Wait until nothing more is printed: the traceback comes after the answer, line by line."""
        seen, since, end = -1, time.monotonic(), time.monotonic() + _SILENCE_AT_MOST
        while time.monotonic() < min(since + _SILENCE_SECONDS, end):
            told = len(list(self._lines)[mark:])
            if told != seen:
                seen, since = told, time.monotonic()
            time.sleep(_POLL_SECONDS)

    def _ask_health(self) -> int | None:
        """The status of GET /health; None while nobody listens."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through HTTP_PROXY
        try:
            with opener.open(f"{self.url}/health", timeout=_REQUEST_SECONDS) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def _failed(self, what: str, mark: int) -> Problem:
        return Problem(
            what,
            "The lines below are from wrangler and the Worker; correct the error and start again.",
            "\n".join(list(self._lines)[mark:][-60:]),
        )
