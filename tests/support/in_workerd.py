"""What the laboratory runs: each function takes and returns what JSON can hold."""

from __future__ import annotations

from typing import Any

from kontract.cloudflare.crypto import NativeCrypto
from support.crypto_operations import answer


async def crypto(cases: list[dict[str, Any]]) -> list[str]:
    """The answers of native cryptography."""
    return [await answer(NativeCrypto(), case) for case in cases]
