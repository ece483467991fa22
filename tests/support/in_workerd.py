"""What the laboratory runs: each function takes and returns what JSON can hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kontract.cloudflare.crypto import NativeCrypto
from kontract.cloudflare.database import HyperdriveDatabase, connector
from kontract.core.statements import Statement
from kontract.ports import DatabaseError, DatabaseUnavailableError
from support.crypto_operations import answer
from support.noise_nk import play
from support.raystream_vectors import text


async def connected(url: str) -> str:
    """``connected`` if DATABASE_URL leads to a database, else why not."""
    database = HyperdriveDatabase(connector(SimpleNamespace(HYPERDRIVE=None, DATABASE_URL=url)))
    try:
        await database.run(Statement("SELECT 1"))
    except (DatabaseError, DatabaseUnavailableError) as error:
        return str(error) or "broken"
    finally:
        await database.aclose()
    return "connected"


async def crypto(cases: list[dict[str, Any]]) -> list[str]:
    """The answers of native cryptography."""
    return [await answer(NativeCrypto(), case) for case in cases]


async def noise(vectors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Noise handshakes, played from published vectors."""
    return [play(NativeCrypto(), vector) for vector in vectors]


async def raystream(_: None) -> str:
    """The text of docs/reference/raystream-vectors.json."""
    return text(NativeCrypto())
