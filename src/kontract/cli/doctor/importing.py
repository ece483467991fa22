"""Finds what modules of the application do at import that workerd forbids, by reading them.

Workers have no randomness, clock or I/O before the first request (Cloudflare documentation, "Python Workers"): such a
module fails there. Where it did not, a memory snapshot would hand the same "random" value to every isolate.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_WHOLE = frozenset({"random", "secrets", "requests", "httpx", "urllib", "socket", "subprocess"})
"""Modules that must not be called during import."""

_CALLS = frozenset(
    {
        *("os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7"),
        *("time.time", "time.time_ns", "time.monotonic", "time.perf_counter", "time.sleep"),
        *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
        *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"),
        *("open", "asyncio.run", "Path.read_text", "Path.read_bytes"),
    }
)


def importing(source: Path) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, what to do) for each such call below src/app, in order."""
    for path in sorted((source / "app").rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue  # `kontract build` reports it
        shown = path.relative_to(source.parent).as_posix()
        names = _imported(tree)
        for call in _run(tree.body):
            name = _name(call.func, names)
            if name in _CALLS or name.partition(".")[0] in _WHOLE:
                yield (
                    f"{shown}:{call.lineno}: {name}() runs while the module is imported",
                    "Call it inside a function: workerd has no randomness, clock or I/O before the first request.",
                )


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return what names of the module stand for: ``token`` for ``secrets.token_hex``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _run(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Yield calls that run at import: not those inside functions, but those in their decorators and defaults."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Call):
            yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _name(called: ast.expr, names: dict[str, str]) -> str:
    """``datetime.now`` for ``datetime.now(...)``; names of imports are replaced by what they stand for."""
    parts: list[str] = []
    while isinstance(called, ast.Attribute):
        parts.append(called.attr)
        called = called.value
    if not isinstance(called, ast.Name):
        return ""
    return ".".join([names.get(called.id, called.id), *parts[::-1]])
