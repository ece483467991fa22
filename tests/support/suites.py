"""Tests that hold for every place where the gateway runs, written once."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import Any


def borrow(suite: ModuleType, into: dict[str, Any], *, without: Collection[str] = ()) -> None:
    """Give a test module the tests of another one and what they use. Fixtures that it has itself stay its own."""
    for name, value in vars(suite).items():
        if name not in into and name not in without and not name.startswith("__"):
            into[name] = value
    assert not set(without) - vars(suite).keys(), "nothing of that name"
