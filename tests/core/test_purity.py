"""The layout says the architecture: the core is pure, and the gateway loads no adapter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kontract.core

FORBIDDEN = {
    "asyncio", "socket", "ssl", "threading", "js", "pyodide", "workers", "time", "datetime", "random", "secrets", "os",
    "subprocess", "asyncpg", "kontract.cloudflare", "kontract.server", "kontract.cli", "kontract.gateway",
    "kontract.coordination",
}  # fmt: skip

VALUES = ("values.py", "typed.py", "ranges.py")
"""These know datetime as a type of values; its clocks they may not read."""

CLOCKS = {"now", "utcnow", "today"}

CORE = Path(kontract.core.__file__).parent
MODULES = sorted(CORE.rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Every name an import statement anywhere in a module may load, with all its parents."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Name) and node.id == "__import__":
            names.add("__import__")
    return {".".join(name.split(".")[: n + 1]) for name in names for n in range(len(name.split(".")))}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_imports_no_platform(path):
    """A module of the core that could wait, look at a clock or roll dice could not be simulated."""
    tree = ast.parse(path.read_text())
    names = imported(tree)
    if path.name in VALUES:
        names -= {"datetime"}
        assert {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & CLOCKS == set()
    assert names & (FORBIDDEN | {"__import__", "importlib"}) == set()


def test_the_check_sees_every_form_of_import():
    """The test above would pass for ever if it could not see an import inside a function."""
    source = "def f():\n    from kontract import server\n    import os.path\n    from time import sleep\n"
    assert {"kontract.server", "os", "time"} <= imported(ast.parse(source))


def test_importing_the_gateway_loads_no_adapter():
    """A Worker uploads neither asyncpg nor the commands: importing the gateway must not ask for them."""
    code = (
        "import sys, kontract, kontract.gateway.app\n"
        "bad = ('kontract.server', 'kontract.cli', 'kontract.cloudflare', 'asyncpg', 'granian', 'uvloop')\n"
        "print([m for m in sys.modules if m in bad or m.startswith(tuple(b + '.' for b in bad))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
