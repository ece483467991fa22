"""`kontract serve --local`: what `kontract dev` does for Workers, on CPython.

It has the same database, secret, variables, addresses and errors as `kontract dev`, and reloads saved files.
The server is a separate process behind the socket here: when a file changes a second one is started, and the first
is stopped once the second answers. Both have the terminal, so a function can stop at a breakpoint().
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from kontract.cli import build, serve
from kontract.cli.local import LOOK_SECONDS, Restarts, Schema, changed, greet, quiet, stopping_on_signals
from kontract.cli.toolchain import database_url, dev_vars
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import DATABASE, Cluster, create_database
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port, is_running
from kontract.cli.toolchain.progress import say, step
from kontract.cli.toolchain.reaper import Reaper
from kontract.server import env_file
from kontract.server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from kontract.cli.toolchain.front import Front

FORMER_DATABASE = "kontract_serve"
"""The database that `make serve` used before it shared that of `make dev`."""

_STOP_SECONDS = 40.0  # running calls may take 20 s, and what follows them 5 (kontract.server.serve)


def run(args: argparse.Namespace) -> int:
    """Run until a signal; raises Problem and SettingsError."""
    os.environ[build.ANSWER] = "1"  # mistakes in the application are returned to callers, too
    checkout = Checkout.find()
    with ExitStack() as stack:
        stack.enter_context(stopping_on_signals())
        lock = stack.enter_context(checkout.running())
        try:
            return _run(args, checkout, stack, lock)
        except KeyboardInterrupt:
            return 0
        finally:
            quiet()  # before the stack stops what was started


def _run(args: argparse.Namespace, checkout: Checkout, stack: ExitStack, lock: int) -> int:
    secrets = checkout.root / ".dev.vars"
    if dev_vars.ensure(secrets):
        say("  Wrote .dev.vars with a fresh KONTRACT_SECRET.")
    with checkout.wrangler_toml.open("rb") as file:
        variables = tomllib.load(file).get("vars", {})
    variables |= {"KONTRACT_SHOW_ERRORS": "1"} | env_file.parse(secrets.read_text(encoding="utf-8"))
    cluster = None
    if os.environ.get("DATABASE_URL"):
        host, port = asyncio.run(database_url.check(os.environ["DATABASE_URL"]))
        say(f"  Using PostgreSQL at {host}:{port} (DATABASE_URL).")
    else:
        cluster = _start_postgres(checkout, stack, lock)
        variables["DATABASE_URL"] = cluster.url()
    settings = serve.read(args, {name: str(value) for name, value in variables.items()})
    front = _listen(settings, stack)
    schema = Schema(checkout, settings.database_url, coordination=settings.coordination == "postgres")
    with step("Applying the schema"):
        schema.apply()
    server = Server(checkout, settings, front)
    stack.callback(server.stop)
    server.start()
    greet(front.port)
    while True:
        time.sleep(LOOK_SECONDS)
        if cluster and not is_running(cluster.pid):
            raise Problem(
                "PostgreSQL stopped unexpectedly.", f"Its log is {cluster.log}; start again with `make serve`."
            )
        schema.look()
        server.look()


def _start_postgres(checkout: Checkout, stack: ExitStack, lock: int) -> Cluster:
    reaper = Reaper(hold=(lock,))
    stack.callback(reaper.close)
    cluster = Cluster(checkout.state / "postgres")
    with step("Starting PostgreSQL (embedded, data in .kontract/postgres)"):
        stack.callback(cluster.stop)
        cluster.start()
        reaper.watch_postgres(cluster.pid)
        asyncio.run(create_database(cluster.url("postgres"), DATABASE))
    if asyncio.run(_has(cluster.url("postgres"), FORMER_DATABASE)):
        say(
            f"  `make serve` now uses the database of `make dev`. Data from earlier versions is still in: "
            f"DATABASE_URL={cluster.url(FORMER_DATABASE)}"
        )
    return cluster


async def _has(url: str, name: str) -> bool:
    connection: asyncpg.Connection
    async with database_url.connected(url) as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name))


def _listen(settings: Settings, stack: ExitStack) -> Front:
    """Listen where `kontract dev` does, for the same names and with the same errors, unless a host is set."""
    from kontract.cli.toolchain.front import LOOPBACK, Front
    from kontract.cli.toolchain.hosts import Hosts

    named = settings.environment.get("KONTRACT_HOST", "localhost") != "localhost"
    addresses = (settings.host,) if named else LOOPBACK
    front = Front(settings.port, 0, Hosts.read(settings.environment), addresses)
    stack.callback(front.stop)
    try:
        front.start()
    except OSError as error:
        message = (
            f"cannot listen on port {settings.port} ({error.strerror}): stop the process that uses it, or change PORT"
        )
        raise SettingsError(message) from None
    return front


class _Process:
    """One server process on its own port. It stops when this command ends."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.port = free_port()
        self._line, theirs = socket.socketpair()
        environment = dict(settings.environment) | {"KONTRACT_HOST": "127.0.0.1", "PORT": str(self.port)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kontract.cli.main", "serve", "--parent", str(theirs.fileno())],
                cwd=root,
                env=environment,
                pass_fds=(theirs.fileno(),),
            )

    def answers(self) -> bool:
        """Wait until the server answers; False if it ended instead."""
        return self._line.recv(6) == b"ready\n"

    def runs(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server after running calls have finished."""
        self._line.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Server:
    """The current server, replaced when a source file changes."""

    def __init__(self, checkout: Checkout, settings: Settings, front: Front) -> None:
        """Only keep the arguments; :meth:`start` starts the server."""
        self._checkout = checkout
        self._settings = settings
        self._front = front
        self._process: _Process | None = None
        self._sources = 0
        self._restarts = Restarts()
        self._told = False

    def start(self) -> None:
        """Build, start a server, and switch to it once it answers; raises Problem when the first one does not."""
        self._sources = self._look()
        build.run(argparse.Namespace(check=False))
        started = _Process(self._checkout.root, self._settings)
        if not started.answers():
            started.stop()
            if self._process is None:
                raise Problem("The server did not start.", "The reason is above.")
            goes_on = " The previous one keeps running." if self._process.runs() else ""
            say(f"The server did not start; the reason is above.{goes_on} Save a corrected file.")
            return
        before, self._process = self._process, started
        self._front.upstream, self._front.open, self._told = started.port, True, False
        if before is not None:
            before.stop()

    def look(self) -> None:
        """Replace the server if a source file has changed; restart it if it has ended."""
        if self._look() != self._sources:
            say("A file changed: restarting the server ...")
            self.start()
        elif self._process is not None and not self._process.runs() and not self._told:
            self._front.open = False
            if self._restarts.one_more():
                say("The server ended unexpectedly: restarting it ...")
                self.start()
                if self._front.open:
                    say("The server answers again.")
            else:
                self._told = True
                say("The server ended again. Save a file below src/ to start it again. (Ctrl-C stops everything.)")

    def _look(self) -> int:
        return changed(self._checkout.root / "src", but="routes.py")  # which the build writes

    def stop(self) -> None:
        """Stop the server."""
        self._front.open = False
        if self._process is not None:
            self._process.stop()
