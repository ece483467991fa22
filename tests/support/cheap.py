"""Password hashing for tests that make many accounts: native in everything else, and it notes what was asked of it."""

from __future__ import annotations

import hashlib

from kontract.server.crypto import NativeCrypto


class CheapCrypto(NativeCrypto):
    """scrypt with the same inputs and the smallest cost. ``asked``: (N, r, p, length) of each derivation."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, int]] = []

    async def scrypt(self, password: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
        self.asked.append((n, r, p, length))
        return hashlib.scrypt(password, salt=salt, n=2, r=1, p=1, dklen=length)
