"""What is in the modules that every application can import: a slip of the pen in ``datetime.datetme`` is found by it.

Only what comes with Python and with Kontract is looked at, never the application or a package that it has brought.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType

_OURS = frozenset({"kontract", "msgspec"})
_WITH_EFFECTS = frozenset({"__main__", "antigravity", "idlelib", "test", "this", "tkinter", "turtle", "turtledemo"})
# To import them does something, or needs what a server has not.

Lacking = tuple[str, str, list[str]]
"""Who lacks something, what that is, and what it has instead."""


def lacking(path: list[str]) -> Lacking | None:
    """Return the first part of ``["datetime", "datetme"]`` that is not there; None if all is, or nobody knows."""
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
    except Exception:  # noqa: BLE001 - it is for another system, or lacks a library: then nobody knows
        return None


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
