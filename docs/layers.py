"""The layers of ``src/kontract`` and which of them import which: the table in explanation/architecture.md.

``facts.py`` writes it into the page, and tests/core/test_layers.py holds its order: a layer imports only what is drawn
below it.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "src"

LAYERS = {
    "testing": "what applications are tested with",
    "cli": "the command `kontract`: development, migrations, serving, checks of a deployment",
    "client": "the Python client",
    "server": "CPython: granian, asyncpg, the stores of the shared log",
    "cloudflare": "workerd: Durable Objects, Hyperdrive, static assets",
    "gateway": "HTTP, `/call` and `/rpc`, `/auth`, `/stream`, and `ctx`",
    "coordination": "the shells around the pure coordinator: one process, or several nodes",
    "core/transaction": "one attempt in the worker: reads, writes, SQL, retries",
    "core/protocol": "the commit protocol of one owner, as pure state machines",
    "core/model": "what applications declare: functions, tables, fields, arguments",
    "core/security": "keys, passwords, the encrypted transport",
    "ports": "what a platform must bring",
    "core/shared": "state outside of transactions: shared values and counters",
    "core": "values and messages: errors, limits, types, events, statements",
}
"""Every layer, from top to bottom. A module belongs to the longest name that its path begins with; those beside the
layers (``__init__.py``, ``middlewares.py``) count as the gateway's."""


def layer_of(module: str) -> str:
    """Return the layer of a dotted module, for example ``kontract.core.protocol.hub``."""
    path = module.removeprefix("kontract").strip(".").replace(".", "/")
    layers = [layer for layer in LAYERS if path == layer or path.startswith(layer + "/")]
    return max(layers, key=len, default="gateway")


@cache
def modules() -> dict[str, Path]:
    """Return every module with its file."""
    found = {}
    for path in sorted((SOURCES / "kontract").rglob("*.py")):
        name = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {one if one in modules() else node.module for one in inner}
    return names & modules().keys()


@cache
def edges() -> dict[str, frozenset[str]]:
    """Return the layers that each layer imports."""
    found: dict[str, set[str]] = {layer: set() for layer in LAYERS}
    for name, path in modules().items():
        found[layer_of(name)] |= {layer_of(one) for one in imported(path)} - {layer_of(name)}
    return {layer: frozenset(others) for layer, others in found.items()}


def table() -> str:
    """Return the table of the layers."""
    lines = ["| Layer | What it is | Modules | Imports |", "|---|---|--:|---|"]
    order = list(LAYERS)
    for layer, what in LAYERS.items():
        count = sum(layer_of(name) == layer and path.name != "__init__.py" for name, path in modules().items())
        below = ", ".join(f"`{other}`" for other in sorted(edges()[layer], key=order.index)) or "nothing"
        lines.append(f"| `{layer}/` | {what} | {count} | {below} |")
    return "\n".join(lines)
