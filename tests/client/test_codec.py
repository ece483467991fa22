"""Requests and their failures: what is known about a request that got no answer."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from kontract.cli.toolchain.processes import free_port
from kontract.client import Client, ConnectionFailedError
from kontract.client.codec import HttpTransport, Wire
from kontract.gateway.http import Response
from support.loopback import Received, serving


@pytest.mark.parametrize(
    "url", ["", "api.example.com", "ftp://api.example.com", "https://", "https://a/?b=c", "https://a/#b", "/rpc"]
)
def test_what_is_no_url_of_a_gateway_is_refused(url):
    """At once, and not with the first call."""
    with pytest.raises(ValueError, match="not the URL of a gateway"):
        Client(url)


async def test_nobody_listens():
    """Then the request was not sent, and nothing can have been applied."""
    async with httpx.AsyncClient(trust_env=False) as http:
        wire = Wire(f"http://127.0.0.1:{free_port()}", 5, http)
        with pytest.raises(ConnectionFailedError, match="did not answer") as caught:
            await wire.request("POST", "/rpc/f", {}, b"[]")
    assert caught.value.maybe_applied is False


async def test_a_connection_that_is_lost():
    """Then it may have arrived."""

    async def lose(_: Received) -> None:
        return None

    async with serving(lose) as url, httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(ConnectionFailedError) as caught:
            await Wire(url, 5, http).request("POST", "/rpc/f", {}, b"[]")
    assert caught.value.maybe_applied is True


async def test_a_server_that_goes_on_and_on():
    """The deadline is for the whole request: one byte a moment does not prolong it."""
    over, closed = asyncio.Event(), asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not over.is_set():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(ConnectionFailedError) as caught:
            await Wire(url, 0.2, http).request("GET", "/", {})
    over.set()
    await closed.wait()
    server.close()
    assert caught.value.maybe_applied is True


async def test_a_path_before_the_gateway_and_headers_as_they_are():
    """A gateway may be mounted below a path; names of headers come back in lower case."""
    seen: list[Received] = []

    async def echo(received: Received) -> Response:
        seen.append(received)
        return Response(201, b"{}", {"X-Kontract-Txid": "7"})

    async with serving(echo) as url, httpx.AsyncClient(trust_env=False) as http:
        transport = HttpTransport(Wire(f"{url}/below/", 5, http))
        status, headers, body = await transport.send("f", {"authorization": "Bearer t"}, b"[1]")
    assert (status, headers["x-kontract-txid"], body) == (201, "7", b"{}")
    assert (seen[0].method, seen[0].target, seen[0].body) == ("POST", "/below/rpc/f", b"[1]")
    assert seen[0].headers["authorization"] == "Bearer t"


async def test_a_redirect_is_not_followed():
    """The token is for this server."""
    seen: list[str] = []

    async def away(received: Received) -> Response:
        seen.append(received.target)
        return Response(307, b"", {"Location": "/elsewhere"})

    async with serving(away) as url, httpx.AsyncClient(trust_env=False, follow_redirects=True) as http:
        answer = await Wire(url, 5, http).request("POST", "/rpc/f", {})
    assert (answer.status, seen) == (307, ["/rpc/f"])


async def test_only_its_own_connections_are_closed():
    """Who brings an AsyncClient closes it."""
    async with httpx.AsyncClient(trust_env=False) as http:
        await Wire("http://gateway.test", 5, http).aclose()
        assert not http.is_closed
    mine = Wire("http://gateway.test", 5)
    await mine.aclose()
    assert mine._http.is_closed
