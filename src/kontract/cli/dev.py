"""`kontract dev`: set up, start PostgreSQL and `wrangler dev`, say how to use it, and stop it all on Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

from kontract.cli.build import ANSWER
from kontract.cli.local import LOOK_SECONDS, Restarts, Schema, changed, greet, quiet, sources, stopping_on_signals
from kontract.cli.toolchain import database_url, dev_vars, local_state, ports, setup
from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.front import Front
from kontract.cli.toolchain.hosts import Hosts
from kontract.cli.toolchain.postgres import DATABASE, Cluster, create_database
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port, group_members, is_running, stop_group
from kontract.cli.toolchain.progress import say, step
from kontract.cli.toolchain.pyodide_bundle import mode
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from kontract.server import env_file

DEFAULT_PORT = 8787
_MEND = "Everything else keeps running. Save a corrected file below src/ to start it again. (Ctrl-C stops everything.)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help=f"port of the gateway (default: PORT, or {DEFAULT_PORT})")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    port = _port(args.port)
    say(f"Kontract: setting up {checkout.root}")
    with ExitStack() as stack:
        stack.enter_context(stopping_on_signals())
        lock = stack.enter_context(checkout.running())
        try:
            return _run(checkout, port, stack, lock)
        finally:
            quiet()  # before the stack stops what was started


def _run(checkout: Checkout, port: int, stack: ExitStack, lock: int) -> int:
    _end_leftovers(checkout)
    ports.check_free(port)
    brought = os.environ.get("DATABASE_URL", "")
    if brought:
        host, port_there = asyncio.run(database_url.check(brought))
        say(f"  Using PostgreSQL at {host}:{port_there} (DATABASE_URL).")
    if dev_vars.ensure(checkout.root / ".dev.vars"):
        say("  Wrote .dev.vars with a fresh KONTRACT_SECRET.")
    front = _listen(checkout, port, stack)  # before anything slow: another process may take the port
    runtime = setup.prepare(checkout, run=False)
    reaper = Reaper(hold=(lock,))
    stack.callback(reaper.close)
    cluster = None if brought else _start_postgres(checkout, stack, reaper)
    url = cluster.url() if cluster else database_url.read(brought).for_hyperdrive
    direct = cluster.url() if cluster else brought
    schema = Schema(checkout, direct)
    with step("Applying the schema"):
        schema.apply()
    objects = asyncio.run(local_state.of_database(checkout, direct, embedded=cluster is not None))
    for name in ("logs", "registry"):
        local_state.make_private(checkout.state / name)
        stack.callback(local_state.make_private, checkout.state / name)  # other users could read wrangler's files
    server = DevServer(
        checkout,
        runtime,
        front.upstream,
        url,
        persist_to=objects,
        state=checkout.state,
        # Mistakes in the application are returned to callers, too, not only shown in the terminal.
        variables=("KONTRACT_SHOW_ERRORS:1",),
        settings={ANSWER: "1"},
        on_spawn=lambda group: _remember(checkout, reaper, group),
    )
    stack.callback(server.stop)
    with step("Starting the gateway (wrangler dev)"):
        server.start()
    server.on_line = _show
    front.open = True
    greet(port)
    if mode.wants_snapshot(checkout, server.runtime.source):
        _set_up_beside(checkout, stack, reaper)
    try:
        return _watch(checkout, server, front, cluster, schema)
    finally:
        say("Stopping ...")


def _listen(checkout: Checkout, port: int, stack: ExitStack) -> Front:
    variables = env_file.parse((checkout.root / ".dev.vars").read_text(encoding="utf-8"))
    front = Front(port, free_port(), Hosts.read(variables | dict(os.environ)))
    stack.callback(front.stop)
    try:
        front.start()
    except OSError as error:
        raise Problem(
            f"Cannot listen on port {port}: {error.strerror}.", "Use another port: `PORT=8788 make dev`."
        ) from None
    return front


def _set_up_beside(checkout: Checkout, stack: ExitStack, reaper: Reaper) -> None:
    """Take the snapshot that makes reloads fast, in the background: `kontract setup` does it."""
    say("Taking a snapshot of the Python runtime in the background; reloads are faster once it is done.")
    process = subprocess.Popen(
        [sys.executable, "-m", "kontract.cli.main", "setup"],
        cwd=checkout.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a group of its own, to be stopped with what it starts
    )
    reaper.watch_group(process.pid)

    def wait() -> None:
        process.wait()
        reaper.forget_group(process.pid)

    waiting = threading.Thread(target=wait, name="snapshot", daemon=True)
    waiting.start()

    def end() -> None:
        if waiting.is_alive():
            stop_group(process.pid, grace=1.0)
            waiting.join(5)

    stack.callback(end)


def _port(option: int | None) -> int:
    text = os.environ.get("PORT", "")
    if option is not None:
        return option
    if not text:
        return DEFAULT_PORT
    if not text.isdigit():
        raise Problem(f"PORT is {text!r}, which is not a number.", "Set it to a TCP port, for example PORT=8788.")
    return int(text)


def _remember(checkout: Checkout, reaper: Reaper, group: int) -> None:
    reaper.watch_group(group)
    write_atomically(checkout.state / "wrangler.group", str(group))


def _end_leftovers(checkout: Checkout) -> None:
    """Stop the wrangler of an earlier run that was killed together with its reaper.

    This run holds the checkout's lock, so nothing here can belong to a living `kontract dev`. The number in the file
    proves nothing by itself: a process of that group must name this checkout's wrangler or workerd.
    """
    record = checkout.state / "wrangler.group"
    text = record.read_text() if record.is_file() else ""
    if text.isdigit():
        ours = (str(checkout.node_modules), str(checkout.state))
        if any(path in member.command for member in group_members(int(text)) for path in ours):
            say("  Stopping the wrangler of an earlier run that was killed.")
            stop_group(int(text), grace=3)
    record.unlink(missing_ok=True)


def _start_postgres(checkout: Checkout, stack: ExitStack, reaper: Reaper) -> Cluster:
    cluster = Cluster(checkout.state / "postgres")
    with step("Starting PostgreSQL (embedded, data in .kontract/postgres)"):
        stack.callback(cluster.stop)
        cluster.start()
        reaper.watch_postgres(cluster.pid)
        asyncio.run(create_database(cluster.url("postgres"), DATABASE))
    return cluster


def _watch(checkout: Checkout, server: DevServer, front: Front, cluster: Cluster | None, schema: Schema) -> int:
    """Watch until a signal ends it (KeyboardInterrupt). The runtime is restarted when it stops; PostgreSQL is not."""
    parent = os.getppid()
    under_make = "MAKELEVEL" in os.environ
    runtime = Runtime(checkout, server, front)
    public = changed(checkout.root / "public")
    try:
        while True:
            time.sleep(LOOK_SECONDS)
            if cluster and not is_running(cluster.pid):
                raise Problem(
                    "PostgreSQL stopped unexpectedly.", f"Its log is {cluster.log}; start again with `make dev`."
                )
            if under_make and os.getppid() != parent:
                return 1  # make was killed and did not pass the signal on
            schema.look()
            if changed(checkout.root / "public") != public:
                public = changed(checkout.root / "public")
                # wrangler lists the files of public/ when it starts a Worker, and watches src/ alone.
                os.utime(checkout.root / "src" / "entry.py")
            runtime.look()
    except KeyboardInterrupt:
        return 0


class Runtime:
    """wrangler and its two workerds, restarted when they end as often as that helps.

    wrangler replaces the Worker's own workerd. It replaces the one in front, which listens, by a process that
    answers nobody, so this class watches for its end. wrangler ends when a reload fails; this then waits for an edit.
    """

    def __init__(self, checkout: Checkout, server: DevServer, front: Front) -> None:
        self._checkout = checkout
        self._server = server
        self._front = front
        self._listener = ports.owner(server.port)
        self._broken_at: int | None = None  # what the sources were when it stopped
        self._restarts = Restarts()

    def look(self) -> None:
        """Restart the runtime if necessary."""
        if self._broken_at is not None:
            if sources(self._checkout) != self._broken_at:
                say("A file changed: restarting the gateway ...")
                self._start()
        elif self._server.running() and (self._listener is None or is_running(self._listener)):
            return
        else:
            self._end()

    def _end(self) -> None:
        failed = self._server.has_failed
        self._stop()
        if failed:
            say(f"\nwrangler stopped: the reason is above. {_MEND}")
        elif self._restarts.one_more():
            say("\nThe runtime (wrangler, workerd) ended unexpectedly: restarting it ...")
            self._start()
        else:
            say(f"\nThe runtime (wrangler, workerd) ended again. {_MEND}")

    def _stop(self) -> None:
        self._front.open = False
        self._server.stop()
        self._broken_at = sources(self._checkout)

    def _start(self) -> None:
        self._broken_at = sources(self._checkout)
        try:
            self._server.start()
        except Problem as problem:
            say(f"{problem.what} {_MEND}")  # its detail was already printed line by line
            return
        self._broken_at = None
        self._listener = ports.owner(self._server.port)
        self._front.open = True
        say("The gateway answers again.")


def _show(line: str) -> None:
    """Wrangler's and the Worker's output, without the table of every module at every reload."""
    if not line.startswith(("┌", "├", "│", "└", "Attaching additional modules")):
        say(line)
