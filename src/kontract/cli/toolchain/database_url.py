"""Finds the database of a command and connects to it; each kind of failure has its own message."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import Cluster
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say
from kontract.core import database_url
from kontract.core.database_url import DatabaseUrl, DatabaseUrlError

OPTION_HELP = "postgresql://... (default: DATABASE_URL, else the database of a running `make dev`)"

_CONNECT_SECONDS = 5.0


def find(option: str | None) -> str:
    """Return the URL that a command was given, or that of a running `make dev`; empty when there is neither."""
    given = option or os.environ.get("DATABASE_URL", "")
    if given:
        return given
    running = Cluster.running(Checkout.find().state / "postgres")
    if running is None:
        return ""
    say("  Using the database of the running `make dev` (to use another, set DATABASE_URL or pass --database-url).")
    return running.url()


def required(option: str | None) -> str:
    """Return the URL that a command was given, or that of a running `make dev`; raise Problem when there is neither."""
    url = find(option)
    if not url:
        raise Problem(
            "No database is configured.",
            "Set DATABASE_URL, pass --database-url postgresql://user@host/db, or start `make dev`.",
        )
    return url


def read(url: str) -> DatabaseUrl:
    """Parse a URL; raise Problem when it cannot be used."""
    try:
        return database_url.read(url)
    except DatabaseUrlError as error:
        raise Problem(error.what, error.fix) from None


def check_form(url: str) -> tuple[str, int]:
    """Return host and port of a URL; raise Problem when workerd cannot use it."""
    try:
        return read(url).only_host("workerd")
    except DatabaseUrlError as error:
        raise Problem(error.what, error.fix) from None


async def check(url: str) -> tuple[str, int]:
    """Connect once, and return host and port; raise Problem when workerd cannot use the URL or the server is down."""
    host, port = check_form(url)
    connection = await connect(url, instead=" Unset DATABASE_URL to use the embedded PostgreSQL.")
    await connection.close()
    return host, port


async def connect(url: str, instead: str = "") -> Any:
    """Open an asyncpg connection; raise Problem when that fails. No message contains the password.

    ``instead``: what the command could do without that database.
    """
    import asyncpg

    from kontract.server import connect as connecting

    target = read(url)
    where = " or ".join(f"{host}:{port}" for host, port in target.hosts)
    who = f"PostgreSQL at {where} (DATABASE_URL)"
    try:
        return await connecting.connect(url, seconds=_CONNECT_SECONDS, statement_cache_size=0)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise Problem(f"{who} rejected the login.", "Check user and password in DATABASE_URL.", str(error)) from None
    except asyncpg.InvalidCatalogNameError as error:
        raise Problem(
            f"{who} has no such database.", "Create it (`createdb`), or name one that exists.", str(error)
        ) from None
    except (OSError, TimeoutError) as error:
        raise Problem(
            f"{who} is unreachable.",
            f"Start that server, or correct host and port.{instead}",
            str(error) or f"no answer within {target.connect_seconds or _CONNECT_SECONDS:.0f} s",
        ) from None
    except asyncpg.PostgresError as error:
        raise Problem(f"{who} refused the connection.", "Correct the error that it reports.", str(error)) from None
    except (ValueError, asyncpg.InterfaceError) as error:
        raise Problem(
            "DATABASE_URL cannot be used: its TLS settings are wrong.",
            "With sslmode=verify-full add sslrootcert=system, or the path of the CA certificate.",
            str(error),
        ) from None


@asynccontextmanager
async def connected(url: str, lost: str = "") -> AsyncIterator[Any]:
    """Connect, and close at the end; database errors in between become a Problem.

    ``lost``: what to do when the connection breaks.
    """
    import asyncpg

    connection = await connect(url)
    try:
        yield connection
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError, OSError) as error:
        raise Problem(
            f"The connection to the database was lost: {error}.",
            lost or "PostgreSQL rolled back what was running. Run the command again.",
        ) from error
    except asyncpg.UndefinedTableError as error:
        raise Problem(f"The schema is missing: {error}.", "Run: kontract migrate") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Problem(
            f"The role of DATABASE_URL lacks a right: {error}.",
            "Run the command as the owner of the database, or let its owner grant the right "
            "(docs/how-to/self-hosting.md lists the rights).",
        ) from error
    except asyncpg.PostgresError as error:
        raise Problem(
            f"The database reported an error: {error} (SQLSTATE {error.sqlstate}).", "This step was rolled back."
        ) from error
    finally:
        if connection.is_closed():
            connection.terminate()
        else:
            await connection.close(timeout=5)
