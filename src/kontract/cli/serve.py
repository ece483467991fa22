"""`kontract serve`: the application on this machine's own CPython, without workerd."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from kontract.server import settings as server_settings
from kontract.server.settings import DEFAULT_PORT, Settings, SettingsError

_USAGE = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="IP address to listen on (default: KONTRACT_HOST, or 127.0.0.1)")
    parser.add_argument("--port", help=f"port to listen on (default: PORT, or {DEFAULT_PORT})")
    parser.add_argument("--workers", help="processes (default: KONTRACT_WORKERS, or 1)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="NAME=value lines; the environment wins over it")


def run(args: argparse.Namespace) -> int:
    try:
        settings = read(args)
        from kontract.server import serve

        serve.check_port(settings.host, settings.port)
        serve.run(settings)
    except SettingsError as error:
        print(f"kontract serve: {error}", file=sys.stderr)
        return _USAGE
    return 0


def read(args: argparse.Namespace) -> Settings:
    """Return the settings of flags, environment and env file; raises SettingsError."""
    file = server_settings.read_env_file(args.env_file) if args.env_file is not None else {}
    flags = {"KONTRACT_HOST": args.host, "PORT": args.port, "KONTRACT_WORKERS": args.workers}
    return server_settings.read(file | dict(os.environ), flags)
