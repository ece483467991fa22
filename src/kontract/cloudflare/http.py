"""Between the Workers runtime's requests and the gateway's."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import js
import msgspec
from pyodide.ffi import create_once_callable, to_js
from workers import Response as WorkerResponse

from kontract.cloudflare import modules
from kontract.cloudflare.feed import ClientSocket, StreamOutlet
from kontract.cloudflare.runtime import WorkerPlatform
from kontract.core.errors import InvalidRequestError
from kontract.gateway.app import Gateway
from kontract.gateway.http import OCTETS, Request, Response

_decode_head = msgspec.json.Decoder(tuple[str, str, dict[str, str]]).decode


async def serve(gateway: Gateway, request: Any, env: Any, context: Any) -> Any:
    """Answer one request of the Workers runtime."""
    await modules.load()
    raw = getattr(request, "js_object", request)
    method, address, headers = _decode_head(str(modules.module(modules.HTTP).head(raw)))
    url = urlsplit(address)

    async def body(at_most: int) -> bytes:
        read = await modules.module(modules.HTTP).body(raw, at_most)
        if read is None:
            # The caller has left, or its chunks are none: nobody's fault here, and nobody there to be told.
            message = "the request body was cut off"
            raise InvalidRequestError(message)
        return bytes(read.to_bytes())

    response = await gateway.handle(
        Request(
            method=method,
            path=url.path,
            query=url.query,
            headers=headers,
            body=body,
            # Cloudflare sets it, whatever a caller sends under that name.
            client=headers.get("cf-connecting-ip", ""),
        ),
        WorkerPlatform(env, context),
    )
    if response.websocket is not None:
        pair = js.WebSocketPair.new().object_values()
        asyncio.ensure_future(response.websocket(ClientSocket(pair[1])))  # noqa: RUF006 - its socket keeps it
        return WorkerResponse(None, status=101, web_socket=pair[0])
    if response.stream is not None:
        pipe = js.TransformStream.new()
        sending = asyncio.ensure_future(response.stream(StreamOutlet(pipe.writable)))
        # Writes do not fail when the client has left (workerd issue 4185): the signal says so, with the compatibility
        # flag enable_request_signal, once two writes have met a closed connection.
        raw.signal.addEventListener("abort", create_once_callable(lambda *_: sending.cancel()))
        return _answer(response, pipe.readable)
    # The SDK would hand workerd a view into Python's memory, which is released before it is sent: hence the copy.
    octets = response.headers.get("Content-Type") == OCTETS
    return _answer(response, to_js(response.body) if octets else response.body.decode() or None)


def _answer(response: Response, body: Any) -> Any:
    """Return the runtime's own response, which the SDK passes on as it is."""
    return modules.module(modules.HTTP).response(
        msgspec.json.encode((response.status, response.headers)).decode(), body
    )
