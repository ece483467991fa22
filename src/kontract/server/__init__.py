"""Adapters for CPython. Nothing here is imported by the Worker.

The names below are public: programs build their own gateway with them. Each is imported at first use, because the
client and the commands use modules of this package, too, and must start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kontract.gateway.shared_storage import SharedStorage
    from kontract.ports import DOStub, KVStore
    from kontract.server.adapter import GatewayServer, RuntimeAdapter, create_gateway
    from kontract.server.shared_postgres import PostgresShared
    from kontract.server.shared_tikv import create_tikv_adapter
    from kontract.server.tikv import AtomicTiKVClient, KeyValue, TiKVClient, TiKVUnavailableError, connect_tikv

__all__ = [
    "AtomicTiKVClient",
    "DOStub",
    "GatewayServer",
    "KVStore",
    "KeyValue",
    "PostgresShared",
    "RuntimeAdapter",
    "SharedStorage",
    "TiKVClient",
    "TiKVUnavailableError",
    "connect_tikv",
    "create_gateway",
    "create_tikv_adapter",
]

_HOMES = {
    "AtomicTiKVClient": "kontract.server.tikv",
    "DOStub": "kontract.ports",
    "GatewayServer": "kontract.server.adapter",
    "KVStore": "kontract.ports",
    "KeyValue": "kontract.server.tikv",
    "PostgresShared": "kontract.server.shared_postgres",
    "RuntimeAdapter": "kontract.server.adapter",
    "SharedStorage": "kontract.gateway.shared_storage",
    "TiKVClient": "kontract.server.tikv",
    "TiKVUnavailableError": "kontract.server.tikv",
    "connect_tikv": "kontract.server.tikv",
    "create_gateway": "kontract.server.adapter",
    "create_tikv_adapter": "kontract.server.shared_tikv",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it is (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
