"""Every connection to PostgreSQL on CPython is opened here, so that a URL means the same to all commands."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import asyncpg

from kontract.core import database_url
from kontract.core.database_url import DatabaseUrl

APPLICATION_NAME = "kontract"
"""What pg_stat_activity shows, where the URL has no ``application_name``."""


async def connect(
    url: str, *, seconds: float, server_settings: Mapping[str, str] | None = None, **options: Any
) -> asyncpg.Connection:
    """Open a connection; ``seconds`` holds where the URL has no ``connect_timeout``.

    ``options``: asyncpg's. Raises DatabaseUrlError for a URL that cannot be used, and what asyncpg raises: OSError and
    TimeoutError when nobody answers, PostgresError for what the server refuses, ValueError and InterfaceError for
    certificates that are not there.
    """
    target = database_url.read(url)
    settings = {"application_name": target.parameters.get("application_name", APPLICATION_NAME)}
    settings |= server_settings or {}
    return await asyncpg.connect(
        target.canonical,
        timeout=target.connect_seconds or seconds,
        server_settings=settings,
        **_with_system_roots(target),
        **options,
    )


def _with_system_roots(target: DatabaseUrl) -> dict[str, Any]:
    """Return asyncpg's way to say sslrootcert=system, which it takes for the name of a file."""
    wanted = target.parameters
    if wanted.get("sslrootcert") != "system":
        return {}
    context = ssl.create_default_context()
    if "sslcert" in wanted:
        context.load_cert_chain(wanted["sslcert"], wanted.get("sslkey"), wanted.get("sslpassword", ""))
    if "ssl_min_protocol_version" in wanted:
        context.minimum_version = ssl.TLSVersion[wanted["ssl_min_protocol_version"].replace(".", "_")]
    if "ssl_max_protocol_version" in wanted:
        context.maximum_version = ssl.TLSVersion[wanted["ssl_max_protocol_version"].replace(".", "_")]
    return {"ssl": context}
