"""What the modules hold that every application can import, to find typing errors such as ``datetime.datetme``.

Only Python's and Kontract's own modules are examined, never the application or its packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType

_OURS = frozenset({"kontract", "msgspec"})
_WITH_EFFECTS = frozenset({"__main__", "antigravity", "idlelib", "test", "this", "tkinter", "turtle", "turtledemo"})
# Importing these has a side effect, or needs what a server lacks.

Lacking = tuple[str, str, list[str]]
"""What lacks a name, that name, and the names it has."""


def lacking(path: list[str]) -> Lacking | None:
    """Return the first part of ``["datetime", "datetme"]`` that does not exist; None if all exist or it is unknown."""
    root = path[0]
    if root not in _OURS and (root not in sys.stdlib_module_names or root in _WITH_EFFECTS):
        return None
    found: object = _module(root)
    for at, part in enumerate(path[1:], 1):
        if found is None:
            return None
        holder = ".".join(path[:at])
        if isinstance(found, ModuleType) and not hasattr(found, part):
            if not _is_module(f"{found.__name__}.{part}"):
                return holder, part, dir(found)
            found = _module(f"{found.__name__}.{part}")
        elif not hasattr(found, part):
            return holder, part, dir(found)
        else:
            found = getattr(found, part)
    return None


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001 - it is for another system, or lacks a library: then it is unknown
        return None


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
