"""A raystream client for tests: over the gateway without a socket, or over HTTP to a Worker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from kontract.core.security.raystream.client import ClientHandshake, Sealed, SealedSession
from kontract.core.security.raystream.payloads import Reply, SealedCall
from kontract.core.security.raystream.suites import Suite
from kontract.server.crypto import NativeCrypto

Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""POST a body to a path without any headers of one's own: (status, body)."""


class SealedClient:
    """One session. ``clock`` is in milliseconds."""

    def __init__(self, post: Post, public: bytes, token: str, suite: Suite = Suite.CHACHAPOLY) -> None:
        self.post, self.public, self.token, self.suite = post, public, token, suite
        self.session: SealedSession | None = None
        self._received = 0.0

    async def connect(self) -> SealedSession | Reply:
        """A handshake: the session, or what the gateway says to the token."""
        handshake = ClientHandshake(NativeCrypto(), self.public, os.urandom(32), self.suite)
        status, body = await self.post("/raystream/handshake", handshake.hello(self.token.encode()))
        assert status == 200, body
        made = handshake.finish(body)
        if isinstance(made, SealedSession):
            self.session, self._received = made, time.monotonic()
        return made

    def seal(self, function: str, *args: Any, body: bytes | None = None, **headers: str) -> Sealed:
        """The next request, not sent."""
        assert self.session is not None
        names = {name.lower().replace("_", "-"): value for name, value in headers.items()}
        elapsed = int((time.monotonic() - self._received) * 1000)
        return self.session.seal(
            SealedCall(function, names, json.dumps(args).encode() if body is None else body, elapsed)
        )

    async def send(self, sealed: Sealed) -> Reply:
        """Send a request, for the first time or again."""
        assert self.session is not None
        status, body = await self.post("/raystream/rpc", sealed.message)
        assert status == 200, body
        return self.session.open(sealed.sequence, body)

    async def rpc(self, function: str, *args: Any, body: bytes | None = None, **headers: str) -> Reply:
        """A call."""
        if self.session is None:
            assert isinstance(await self.connect(), SealedSession)
        return await self.send(self.seal(function, *args, body=body, **headers))
