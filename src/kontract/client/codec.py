"""HTTP for the client, and calls over plain HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from kontract.client.errors import ConnectionFailedError
from kontract.client.transport import Answer

CONNECT_SECONDS = 5.0
"""Seconds for connecting: TLS takes three round trips, so a healthy server needs far less; retrying is better."""


class Wire:
    """Requests to one server."""

    def __init__(self, url: str, timeout: float, http: httpx.AsyncClient | None = None) -> None:
        """``url``: of the gateway; ``timeout``: seconds for a whole request. Raises ValueError for an invalid URL.

        ``http`` stays open if given; otherwise one is created, and closed with this object.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            message = f"{url!r:.200} is not the URL of a gateway; use, for example, https://api.example.com"
            raise ValueError(message)
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http = http or httpx.AsyncClient()
        self._ours = http is None

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send a request and return its answer with any status; raises ConnectionFailedError."""
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
            # Only for these it is certain that nothing was sent.
            failed.maybe_applied = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
            raise failed from error
        return Answer(response.status_code, dict(response.headers), response.content)

    async def open(self, path: str, headers: Mapping[str, str], silence: float) -> httpx.Response:
        """Open a streaming response; it ends after ``silence`` seconds without a byte.

        Raises ConnectionFailedError. The caller closes the response.
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
        """Close the connections that this object created."""
        if self._ours:
            await self._http.aclose()


class HttpTransport:
    """``POST /rpc/<function>``: TLS protects it, but a proxy that terminates TLS can read it."""

    def __init__(self, wire: Wire) -> None:
        """Send over ``wire``."""
        self._wire = wire

    async def send(self, function: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one call."""
        return await self._wire.request("POST", f"/rpc/{function}", headers, body)
