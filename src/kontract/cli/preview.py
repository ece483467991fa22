"""`kontract preview`: a Worker and a database for one pull request (docs/how-to/deploy.md), made and removed.

The Worker is deployed from the environment `preview` of wrangler.toml, under its own name. Its Durable Objects are
therefore separate, and so must its database be: two coordinators of one tenant would fence each other off.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import msgspec

from kontract.cli.deploy_check import TOP_LEVEL, read
from kontract.cli.migrate import migrate
from kontract.cli.toolchain import database_url, dev_vars, node, setup
from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say, warn

ENVIRONMENT = "preview"
LONGEST = 63
"""Longest name in characters: of a database in PostgreSQL, and of a Worker on workers.dev."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_URL = re.compile(r"https://[\w.-]+\.workers\.dev")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["up", "down"], help="deploy it, or remove it with its database")
    parser.add_argument("number", type=int, help="the number of the pull request")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="really create or drop the database, but only show what wrangler would do",
    )


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    environments = read(checkout)
    if ENVIRONMENT not in environments:
        raise Problem("wrangler.toml has no environment `preview`.", "Add [env.preview]; see docs/how-to/deploy.md.")
    if args.number < 1:
        raise Problem(
            f"{args.number} is not the number of a pull request.", "Use the number on the page of the pull request."
        )
    worker = f"{environments[TOP_LEVEL]['name']}-pr-{args.number}"
    if len(worker) > LONGEST:
        raise Problem(
            f"The Worker's name {worker} has more than {LONGEST} characters.",
            "Give the project a shorter name in wrangler.toml.",
        )
    if not _NAME.fullmatch(worker):
        raise Problem(
            f"{worker!r} is not a valid name for a Worker.",
            "Use lower case letters, digits and hyphens for its name in wrangler.toml.",
        )
    database = worker.replace("-", "_")
    server = _server()
    if args.action == "up":
        return _up(checkout, worker, server, database, dry=args.dry_run)
    return _down(checkout, worker, server, database, dry=args.dry_run)


def _up(checkout: Checkout, worker: str, server: str, database: str, *, dry: bool) -> int:
    secret = os.environ.get("KONTRACT_SECRET", "")
    if not dev_vars.SECRET_FORM.fullmatch(secret):
        raise Problem(
            "KONTRACT_SECRET for previews is missing or malformed.",
            "Set it to the output of `kontract keygen --bare`, not to the secret of production.",
        )
    url = _with_database(server, database)
    if not asyncio.run(_create(server, database)):
        say(f"Database {database} already exists.")
    asyncio.run(migrate(url, say))
    setup.prepare(checkout, warn, run=False)
    with tempfile.TemporaryDirectory(prefix="kontract-preview-") as folder:
        secrets = Path(folder) / "secrets.json"
        write_atomically(secrets, json.dumps({"KONTRACT_SECRET": secret, "DATABASE_URL": url}), 0o600)
        said = _wrangler(
            checkout,
            ["deploy", "--env", ENVIRONMENT, "--name", worker, "--secrets-file", str(secrets), *_dry(dry)],
        )
    found = _URL.search(said)
    if found:
        say(f"Preview: {found[0]}")
        _tell_github(found[0])
    return 0


def _down(checkout: Checkout, worker: str, server: str, database: str, *, dry: bool) -> int:
    """Remove the Worker, then the database: the Worker holds connections to it."""
    setup.prepare(checkout, warn, run=False)
    _wrangler(checkout, ["delete", worker, "--force", "--env", ENVIRONMENT, *_dry(dry)])
    asyncio.run(_drop(server, database))
    say(f"Removed {worker} and its database {database}.")
    return 0


def _dry(dry: bool) -> list[str]:  # noqa: FBT001 - the argument is what the function asks
    return ["--dry-run"] if dry else []


def _wrangler(checkout: Checkout, arguments: Sequence[str]) -> str:
    """Run wrangler and show its output as it comes; raises Problem when it fails."""
    node_bin = node.bin_folder()
    process = subprocess.Popen(
        [*node.wrangler_command(checkout, node_bin), *arguments],
        cwd=checkout.root,
        env={**node.environment(node_bin), "WRANGLER_SEND_METRICS": "false", "FORCE_COLOR": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    lines = []
    with process:
        for line in process.stdout:
            lines.append(line)
            if not line.startswith(("┌", "├", "│", "└")):
                say(line.rstrip("\n"))
    if process.returncode != 0:
        raise Problem(f"wrangler {arguments[0]} failed.", "Correct the error in its output above.")
    return "".join(lines)


def _tell_github(url: str) -> None:
    """Pass the address to the workflow: its environment links to it, and its summary shows it."""
    for variable, text in (("GITHUB_OUTPUT", f"url={url}\n"), ("GITHUB_STEP_SUMMARY", f"Preview: <{url}>\n")):
        if path := os.environ.get(variable):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text)


# --- the database ----------------------------------------------------------------------------------------------------


def _server() -> str:
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        raise Problem(
            "DATABASE_URL of the server for previews is missing.",
            "Set it to postgresql://user:password@host:5432/postgres?sslmode=require, with a role that may create "
            "databases, on a server that holds nothing else.",
        )
    database_url.read(url)
    return url


def _with_database(url: str, database: str) -> str:
    return msgspec.structs.replace(database_url.read(url), database=database).canonical


async def _create(server: str, database: str) -> bool:
    """Create the database unless it exists; return True if it was created."""
    connection = await database_url.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{database}"')
    except asyncpg.DuplicateDatabaseError:
        return False
    except asyncpg.PostgresError as error:
        raise Problem(f"The database {database} could not be created: {error}.", "The role needs CREATEDB.") from error
    finally:
        await connection.close()
    return True


async def _drop(server: str, database: str) -> None:
    connection = await database_url.connect(server)
    try:
        with contextlib.suppress(asyncpg.InvalidCatalogNameError):
            await connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
    finally:
        await connection.close()
