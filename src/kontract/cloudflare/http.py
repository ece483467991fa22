"""Between the Workers runtime's requests and the gateway's."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import js
from pyodide.ffi import JsException, create_once_callable, to_js
from workers import Response as WorkerResponse

from kontract.cloudflare.feed import ClientSocket, StreamOutlet
from kontract.cloudflare.runtime import WorkerPlatform
from kontract.core.errors import InvalidRequestError
from kontract.gateway.app import Gateway
from kontract.gateway.http import OCTETS, Request


async def serve(gateway: Gateway, request: Any, env: Any, context: Any) -> Any:
    """Answer one request of the Workers runtime."""
    raw = getattr(request, "js_object", request)
    url = urlsplit(str(raw.url))

    async def body(at_most: int) -> bytes:
        return await _read(raw.body, at_most)

    headers = {str(name).lower(): str(value) for name, value in raw.headers.entries()}
    response = await gateway.handle(
        Request(
            method=str(raw.method),
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
        headers = js.Object.fromEntries(to_js(list(response.headers.items())))
        return WorkerResponse(js.Response.new(pipe.readable, status=response.status, headers=headers))
    if response.headers.get("Content-Type") == OCTETS:
        # The SDK would hand workerd a view into Python's memory, which is released before it is sent: hence the copy.
        headers = js.Object.fromEntries(to_js(list(response.headers.items())))
        return WorkerResponse(js.Response.new(to_js(response.body), status=response.status, headers=headers))
    text = response.body.decode() if response.body else None
    return WorkerResponse(text, status=response.status, headers=response.headers)


async def _read(stream: Any, at_most: int) -> bytes:
    """Read a body chunk by chunk and stop as soon as it is too large, whatever Content-Length said."""
    if not stream:
        return b""
    chunks: list[bytes] = []
    size = 0
    reader = stream.getReader()
    while size <= at_most:
        try:
            chunk = await reader.read()
        except JsException as error:
            # The caller has left, or its chunks are none: nobody's fault here, and nobody there to be told.
            message = "the request body was cut off"
            raise InvalidRequestError(message) from error
        if chunk.done:
            break
        chunks.append(chunk.value.to_bytes())
        size += len(chunks[-1])
    else:
        await reader.cancel()
    return b"".join(chunks)
