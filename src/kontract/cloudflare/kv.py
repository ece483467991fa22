"""Workers KV as the warm tier of the shared state. The binding is optional and called KV."""

from __future__ import annotations

import contextlib
from typing import Any

from js import Object
from pyodide.ffi import to_js

LEAST_TTL = 60
"""Seconds; Workers KV refuses less. What lives shorter is not worth a copy that may take as long to be seen."""


class WorkerKV:
    """Implements :class:`kontract.ports.KVStore`."""

    def __init__(self, binding: Any) -> None:
        """Use a KV namespace."""
        self._binding = binding

    async def get(self, key: str) -> str | None:
        """Return a value."""
        try:
            value = await self._binding.get(key)
        except Exception:  # noqa: BLE001 - it is a copy; JavaScript's errors come in many classes
            return None
        return value if isinstance(value, str) else None

    async def put(self, key: str, value: str, ttl: float | None = None) -> None:
        """Keep a value."""
        if ttl is not None and ttl < LEAST_TTL:
            await self.delete(key)
            return
        options = {} if ttl is None else {"expirationTtl": round(ttl)}
        with contextlib.suppress(Exception):  # it is a copy
            await self._binding.put(key, value, to_js(options, dict_converter=Object.fromEntries))

    async def delete(self, key: str) -> None:
        """Forget a value."""
        with contextlib.suppress(Exception):  # it is a copy
            await self._binding.delete(key)
