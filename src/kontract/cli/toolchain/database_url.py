"""Checks a DATABASE_URL that the person brought along, before anything is started with it."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from kontract.cli.toolchain.problem import Problem

_CONNECT_SECONDS = 5.0
_EXAMPLE = "postgresql://user:password@127.0.0.1:5432/name"


def check_form(url: str) -> tuple[str, int]:
    """Host and port of a URL that workerd can use; `Problem` for one that it cannot."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise Problem("DATABASE_URL is not a URL.", f"It has the form {_EXAMPLE}.") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise Problem(
            f"DATABASE_URL does not start with postgresql:// (but with {parts.scheme or 'no scheme'!r}).",
            f"It has the form {_EXAMPLE}.",
        )
    host = unquote(parts.hostname or "") or parse_qs(parts.query).get("host", [""])[0]
    if not host or host.startswith("/"):
        raise Problem(
            "DATABASE_URL points to a Unix socket, and workerd reaches databases by TCP only.",
            f"Name a host and a port ({_EXAMPLE}), and let PostgreSQL listen there (listen_addresses).",
        )
    if not parts.username or not parts.path.strip("/"):
        raise Problem("DATABASE_URL names no user or no database.", f"It has the form {_EXAMPLE}.")
    return host, port


async def check(url: str) -> tuple[str, int]:
    """Connect once, and return host and port.

    Every way in which that fails has its own sentence; the password is in none of them.
    """
    import asyncpg

    host, port = check_form(url)
    where = f"PostgreSQL at {host}:{port} (DATABASE_URL)"
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise Problem(f"{where} refused the login.", "Check user and password in DATABASE_URL.", str(error)) from None
    except asyncpg.InvalidCatalogNameError as error:
        raise Problem(
            f"{where} has no such database.", "Create it (`createdb`), or name one that exists.", str(error)
        ) from None
    except (OSError, TimeoutError) as error:
        raise Problem(
            f"{where} is unreachable.",
            "Start that server, or correct host and port; unset DATABASE_URL to use the embedded PostgreSQL.",
            str(error) or f"no answer within {_CONNECT_SECONDS:.0f} s",
        ) from None
    except asyncpg.PostgresError as error:
        raise Problem(f"{where} refused the connection.", "Read its message below.", str(error)) from None
    except (ValueError, asyncpg.InterfaceError) as error:
        raise Problem("DATABASE_URL cannot be used.", f"It has the form {_EXAMPLE}.", str(error)) from None
    await connection.close()
    return host, port
