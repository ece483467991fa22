"""One page of a query's rows, as functions return it."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Page(Struct, Generic[T]):
    """Rows, and where the next page starts: its ``cursor``, None when there are no more."""

    rows: list[T]
    cursor: str | None = None
