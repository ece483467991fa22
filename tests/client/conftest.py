"""A gateway of this process behind a real socket, over a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from kontract.client import Client
from support.api import Api, apis
from support.loopback import Proxy, handler_of, proxied, serving


@dataclass
class Site:
    """A gateway, reached through a proxy that can misbehave. ``client()`` makes a client that is closed at the end."""

    api: Api
    proxy: Proxy
    _stack: AsyncExitStack
    options: dict = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.proxy.url

    def client(self, token=None, **options) -> Client:
        return self.opened(Client(self.url, token, **self.with_http(options)))

    def opened(self, client: Client) -> Client:
        self._stack.push_async_callback(client.aclose)
        return client

    def with_http(self, options: dict | None = None) -> dict:
        """Options for a client that asks no proxy of this machine's for the way to loopback."""
        http = httpx.AsyncClient(trust_env=False)
        self._stack.push_async_callback(http.aclose)
        return {"http": http} | (options or {})


@pytest.fixture
async def make_site(postgres) -> AsyncIterator[Callable]:
    """How to make a site with functions of the test's own."""
    async with AsyncExitStack() as stack:

        async def make(functions: Iterable[Callable] = (), structs: Iterable[type] = ()) -> Site:
            make_api = await stack.enter_async_context(apis(postgres, functions, structs))
            api = make_api()
            url = await stack.enter_async_context(serving(handler_of(api)))
            return Site(api, await stack.enter_async_context(proxied(url)), stack)

        yield make
