"""HTTP as the client uses it, and calls over it as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from kontract.client.errors import ConnectionFailedError
from kontract.client.transport import Answer

CONNECT_SECONDS = 5.0
"""For a connection: TLS takes three turns, so a healthy server answers in far less; trying again is the better wait."""


class Wire:
    """Requests to one server."""

    def __init__(self, url: str, timeout: float, http: httpx.AsyncClient | None = None) -> None:
        """``url``: of the gateway; ``timeout``: seconds for a whole request. Raises ValueError for what is no URL.

        A given ``http`` is used and left open; without one, one is made and closed with this.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            message = f"{url!r:.200} is not the URL of a gateway; one is https://api.example.com"
            raise ValueError(message)
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http = http or httpx.AsyncClient()
        self._ours = http is None

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send a request and return its answer, whatever its status; raises ConnectionFailedError."""
        try:
            # httpx limits the silence between two packets; the deadline is for all of it.
            async with asyncio.timeout(self._timeout):
                response = await self._http.request(
                    method,
                    self.url + path,
                    headers=dict(headers),
                    content=body,
                    follow_redirects=False,
                    timeout=httpx.Timeout(self._timeout, connect=min(self._timeout, CONNECT_SECONDS)),
                )
        except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            failed = ConnectionFailedError(f"{self.url} did not answer: {what}")
            # Of these alone it is known that nothing was sent.
            failed.maybe_applied = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
            raise failed from error
        return Answer(response.status_code, dict(response.headers), response.content)

    async def open(self, path: str, headers: Mapping[str, str], silence: float) -> httpx.Response:
        """Open a response that is read as it comes; ``silence``: seconds without a byte that end it.

        Raises ConnectionFailedError. The response is to be closed.
        """
        timeout = httpx.Timeout(silence, connect=CONNECT_SECONDS)
        request = self._http.build_request("GET", self.url + path, headers=dict(headers), timeout=timeout)
        try:
            return await self._http.send(request, stream=True, follow_redirects=False)
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            message = f"{self.url} did not answer: {what}"
            raise ConnectionFailedError(message) from error

    async def aclose(self) -> None:
        """Close the connections that are this one's own."""
        if self._ours:
            await self._http.aclose()


class HttpTransport:
    """``POST /rpc/<function>``: TLS protects it, and whoever ends TLS for the server can read it."""

    def __init__(self, wire: Wire) -> None:
        """Send over ``wire``."""
        self._wire = wire

    async def send(self, function: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one call."""
        return await self._wire.request("POST", f"/rpc/{function}", headers, body)
