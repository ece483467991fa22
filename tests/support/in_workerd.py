"""What the laboratory runs: each function takes and returns what JSON can hold."""

from __future__ import annotations

from typing import Any

from kontract.cloudflare.crypto import NativeCrypto
from support.crypto_operations import answer
from support.noise_nk import play
from support.raystream_vectors import text


async def crypto(cases: list[dict[str, Any]]) -> list[str]:
    """The answers of native cryptography."""
    return [await answer(NativeCrypto(), case) for case in cases]


async def noise(vectors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Noise handshakes, played from published vectors."""
    return [play(NativeCrypto(), vector) for vector in vectors]


async def raystream(_: None) -> str:
    """The text of docs/reference/raystream-vectors.json."""
    return text(NativeCrypto())
