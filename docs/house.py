"""The rooms of ``src/kontract`` and which of them import which: the picture in explanation/architecture.md.

``facts.py`` writes it into the page, and tests/core/test_layers.py holds its order: a room imports only what is drawn
below it.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "src"

ROOMS = {
    "testing": "what applications are tested with",
    "cli": "the command `kontract`, and what it sets up and runs on a developer's machine",
    "client": "the Python client",
    "server": "CPython: granian, asyncpg, the stores of the shared log",
    "cloudflare": "workerd: Durable Objects, Hyperdrive, static assets",
    "gateway": "HTTP, `/call`, `/auth`, `/stream`, and `ctx`",
    "coordination": "the shells around the pure coordinator: one process, or several nodes",
    "core/transaction": "one attempt in the worker: reads, writes, SQL, retries",
    "core/protocol": "the commit protocol of one owner, as pure state machines",
    "core/model": "what applications declare: functions, tables, fields, arguments",
    "core/security": "keys, passwords, the encrypted transport",
    "ports": "what a platform must bring",
    "core/shared": "state outside of transactions: shared values and counters",
    "core": "values and messages: errors, limits, types, events, statements",
}
"""Every room, from top to bottom. A module belongs to the longest name that its path begins with; those beside the
rooms (``__init__.py``, ``middlewares.py``) count as the gateway's."""


def room_of(module: str) -> str:
    """Return the room of a dotted module, for example ``kontract.core.protocol.hub``."""
    path = module.removeprefix("kontract").strip(".").replace(".", "/")
    rooms = [room for room in ROOMS if path == room or path.startswith(room + "/")]
    return max(rooms, key=len, default="gateway")


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
    """Return the rooms that each room imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, path in modules().items():
        found[room_of(name)] |= {room_of(one) for one in imported(path)} - {room_of(name)}
    return {room: frozenset(others) for room, others in found.items()}


def picture() -> str:
    """Return the table of the rooms."""
    lines = ["| Room | What it is | Modules | Imports |", "|---|---|--:|---|"]
    order = list(ROOMS)
    for room, what in ROOMS.items():
        count = sum(room_of(name) == room and path.name != "__init__.py" for name, path in modules().items())
        below = ", ".join(f"`{other}`" for other in sorted(edges()[room], key=order.index)) or "nothing"
        lines.append(f"| `{room}/` | {what} | {count} | {below} |")
    return "\n".join(lines)
