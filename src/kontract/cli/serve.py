"""`kontract serve`: the application on this machine's own CPython, without workerd."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kontract.server import settings as server_settings
from kontract.server.settings import DEFAULT_PORT, Settings, SettingsError

if TYPE_CHECKING:
    from kontract.cli.toolchain.front import Front

LOCAL_DATABASE = "kontract_serve"

_USAGE = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="IP address to listen on (default: KONTRACT_HOST, or 127.0.0.1)")
    parser.add_argument("--port", help=f"port to listen on (default: PORT, or {DEFAULT_PORT})")
    parser.add_argument("--workers", help="processes (default: KONTRACT_WORKERS, or 1)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="NAME=value lines; the environment wins over it")
    parser.add_argument("--local", action="store_true", help="with the embedded PostgreSQL of `kontract dev`")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # one of several processes: its name,
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)  # and its line to the one that started it


def run(args: argparse.Namespace) -> int:
    from kontract.server import serve

    try:
        if args.worker is not None:
            return serve.run_worker(read(args), args.worker, args.channel)
        if args.local:
            return _run_local(args)
        settings = read(args)
        _check_table()
        return serve.run(settings)
    except SettingsError as error:
        print(f"kontract serve: {error}", file=sys.stderr)
        return _USAGE


def _check_table() -> None:
    """Refuse to serve with a route table of another day: a guard that was added since would be missing in it.

    Where there is no application beside it, or no table at all, that is for the server to say.
    """
    from kontract.cli import build

    source = Path.cwd() / "src"
    if (source / "app").is_dir() and (source / "routes.py").is_file():
        build.check(source)


def _run_local(args: argparse.Namespace) -> int:
    """Run with what `kontract dev` has on this machine: the same PostgreSQL server, secret and variables.

    The database is another one. A tenant has one coordinator; two that took turns would shut each other out.
    """
    from kontract.cli import dev
    from kontract.cli.migrate import migrate
    from kontract.cli.toolchain import dev_vars
    from kontract.cli.toolchain.checkout import Checkout
    from kontract.cli.toolchain.postgres import Cluster, create_database
    from kontract.cli.toolchain.progress import say, step
    from kontract.cli.toolchain.reaper import Reaper
    from kontract.server import serve

    checkout = Checkout.find()
    secrets = checkout.root / ".dev.vars"
    with ExitStack() as stack:
        lock = stack.enter_context(checkout.running())
        if dev_vars.ensure(secrets):
            say("  Wrote .dev.vars with a fresh KONTRACT_SECRET.")
        with checkout.wrangler_toml.open("rb") as file:
            variables = tomllib.load(file).get("vars", {})
        variables |= dev_vars.parse(secrets.read_text(encoding="utf-8"))
        if not os.environ.get("DATABASE_URL"):
            reaper = Reaper(hold=(lock,))
            stack.callback(reaper.close)
            cluster = Cluster(checkout.state / "postgres")
            with step("Starting PostgreSQL (embedded, data in .kontract/postgres)"):
                stack.callback(cluster.stop)
                cluster.start()
                reaper.watch_postgres(cluster.pid)
                asyncio.run(create_database(cluster.url("postgres"), LOCAL_DATABASE))
            variables["DATABASE_URL"] = cluster.url(LOCAL_DATABASE)
        settings = read(args, {name: str(value) for name, value in variables.items()})
        settings, front = _behind_a_front(settings)
        stack.callback(front.stop)
        with step("Applying the schema"):
            asyncio.run(
                migrate(
                    settings.database_url,
                    lambda text: say(f"    {text}"),
                    coordination=settings.coordination == "postgres",
                )
            )

        def ready() -> None:
            front.open = True
            dev.greet(front.port)

        return serve.run(settings, ready)


def _behind_a_front(settings: Settings) -> tuple[Settings, Front]:
    """Put the server behind what listens for `kontract dev`, too: for the same addresses, names and errors."""
    from kontract.cli.toolchain.front import LOOPBACK, Front
    from kontract.cli.toolchain.hosts import Hosts
    from kontract.cli.toolchain.processes import free_port

    named = settings.environment.get("KONTRACT_HOST", "localhost") != "localhost"
    addresses = (settings.host,) if named else LOOPBACK
    front = Front(settings.port, free_port(), Hosts.read(settings.environment), addresses)
    try:
        front.start()
    except OSError as error:
        front.stop()
        message = f"port {settings.port} cannot be listened on ({error.strerror}): stop what has it, or change PORT"
        raise SettingsError(message) from None
    inside = {"KONTRACT_HOST": "127.0.0.1", "PORT": str(front.upstream)}
    environment = dict(settings.environment) | inside  # also of the processes that --workers asks for
    return msgspec.structs.replace(
        settings, host=inside["KONTRACT_HOST"], port=front.upstream, environment=environment
    ), front


def read(args: argparse.Namespace, defaults: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of flags, environment and env file, and of ``defaults`` below them; raises SettingsError."""
    file = dict(defaults or {})
    if args.env_file is not None:
        file |= server_settings.read_env_file(args.env_file)
    flags = {"KONTRACT_HOST": args.host, "PORT": args.port, "KONTRACT_WORKERS": args.workers}
    return server_settings.read(file | dict(os.environ), flags)
