"""The JavaScript modules of the Worker, each loaded once an isolate.

Loading one suspends the request that asks for it, and others go on meanwhile. One that asked for the same module would
wait for a promise of the first request, which workerd never lets it see: it ends as "your Worker's code had hung". So
the first request loads all of them, and the others look, each by a timer of its own, until they are there.
"""

from __future__ import annotations

import asyncio
from typing import Any

from workers import import_from_javascript

HTTP = "./kontract/cloudflare/http.js"
POSTGRES = "./kontract/cloudflare/postgres.js"
CRYPTO = "./kontract/cloudflare/crypto.js"
"""Names in the Worker: paths below src/. ``[[rules]]`` in wrangler.toml attaches them."""

_LOOK_SECONDS = 0.002
_LOOKS = 500
"""After these the request that loads them is taken for gone (its caller has left), and another one does."""

_loaded: dict[str, Any] = {}
_loading: list[object] = []


async def load() -> None:
    """Return when all modules are there."""
    while CRYPTO not in _loaded:
        if _loading and await _is_loaded_by(_loading[-1]):
            return
        mine = object()
        _loading.append(mine)
        for name in (HTTP, POSTGRES, CRYPTO):
            module(name)


async def _is_loaded_by(other: object) -> bool:
    """Wait until another request has loaded them; False when that takes too long, or a third one has begun."""
    for _ in range(_LOOKS):
        await asyncio.sleep(_LOOK_SECONDS)
        if CRYPTO in _loaded:
            return True
        if _loading[-1] is not other:
            return False
    return False


def module(name: str) -> Any:
    """Return a module."""
    if name not in _loaded:
        _loaded[name] = import_from_javascript(name)
    return _loaded[name]
