"""`kontract serve`: run the application on CPython, without workerd."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from kontract.server import settings as server_settings
from kontract.server.settings import DEFAULT_PORT, Settings, SettingsError

_USAGE = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="IP address to listen on (default: KONTRACT_HOST, or 127.0.0.1)")
    parser.add_argument("--port", help=f"port to listen on (default: PORT, or {DEFAULT_PORT})")
    parser.add_argument("--workers", help="processes (default: KONTRACT_WORKERS, or 1)")
    parser.add_argument(
        "--env-file", type=Path, metavar="FILE", help="file of NAME=value lines; environment variables override it"
    )
    parser.add_argument("--local", action="store_true", help="with the embedded PostgreSQL of `kontract dev`")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # one of several processes: its name,
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)  # and its line to the one that started it
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # that line, of a server of `--local`


def run(args: argparse.Namespace) -> int:
    from kontract.server import serve

    try:
        if args.worker is not None:
            return serve.run_worker(read(args), args.worker, args.channel)
        if args.local:
            from kontract.cli import serve_local

            return serve_local.run(args)
        settings = read(args)
        if args.parent is not None:
            return serve.run(settings, _attach(args.parent))
        _check_table()
        return serve.run(settings)
    except SettingsError as error:
        print(f"kontract serve: {error}", file=sys.stderr)
        return _USAGE


def _attach(descriptor: int) -> Callable[[], None]:
    """Stop when the command at the other end of a socket ends; returns a callable that reports readiness to it."""
    line = socket.socket(fileno=descriptor)

    def wait() -> None:
        with suppress(OSError):
            line.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
    return lambda: line.sendall(b"ready\n")


def _check_table() -> None:
    """Refuse to serve with an outdated route table: it may lack a guard that was added since.

    The server itself reports a missing application or route table.
    """
    from kontract.cli import build

    source = Path.cwd() / "src"
    if (source / "app").is_dir() and (source / "routes.py").is_file():
        build.check(source)


def read(args: argparse.Namespace, defaults: Mapping[str, str] | None = None) -> Settings:
    """Return the settings from flags, environment, env file and ``defaults``, in this order; raises SettingsError."""
    file = dict(defaults or {})
    if args.env_file is not None:
        file |= server_settings.read_env_file(args.env_file)
    flags = {"KONTRACT_HOST": args.host, "PORT": args.port, "KONTRACT_WORKERS": args.workers}
    return server_settings.read(file | dict(os.environ), flags)
