"""Requests to PostgreSQL as values: statements, windows of a query, a checked SELECT, a commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from kontract.core import limits
from kontract.core.messages import Write
from kontract.core.types import Epoch, Order, TablePointer, Txid

Param = str | int | float | bool | None
"""What may be bound to ``$1, $2, ..``  of a SELECT."""

PARAM_TYPES: dict[type, str] = {str: "text", bool: "bool", int: "int8", float: "float8", type(None): "text"}
"""The SQL types that they are cast to."""


class Statement(Struct, frozen=True):
    """One SQL statement with its parameters ``$1, $2, ..`` and, if it must be bounded, its statement_timeout in ms."""

    text: str
    params: tuple[str | int | bytes | list[str] | list[int] | None, ...] = ()
    timeout_ms: int | None = None


class Pending(Struct, frozen=True):
    """A buffered write as reads of the same transaction see it: ``data`` is JSON text, None for a deleted row."""

    id: str
    data: str | None


class Window(Struct, frozen=True):
    """Which part of a query's rows to fetch: rows after the row ``after`` in the given order, at most ``limit``.

    ``after_value``: that row's value of ``order_by`` as JSON text (None: missing). It is passed, not looked up, because
    a row that changes during its query may no longer match the query. ``order``: how the field's values compare; None:
    as jsonb.
    """

    order_by: str | None = None
    descending: bool = False
    after: str | None = None
    limit: int = limits.QUERY_ROWS
    after_value: str | None = None
    order: Order | None = None


class Selection(Struct, frozen=True):
    """A checked SELECT: its text in parts, with the numbers of parameters between them, and their values.

    ``view``: the select list of ``data`` in the view that it reads. ``row_bytes``: how large a row may be if its
    values consist of several copies of others; 0 if that does not matter.
    """

    parts: tuple[str | int, ...]
    params: tuple[Param, ...]
    view: str = "data"
    row_bytes: int = 0

    def text(self, bound: int) -> str:
        """Return the SQL; ``bound`` is how many parameters come before those of :meth:`values`."""
        # All values travel as text, so that text and binary drivers send the same.
        return "".join(
            part
            if isinstance(part, str)
            else f"CAST(CAST(${bound + part} AS pg_catalog.text) AS "
            f"pg_catalog.{PARAM_TYPES[type(self.params[part - 1])]})"
            for part in self.parts
        )

    def values(self) -> list[str | None]:
        """Return the parameters as :meth:`text` binds them."""
        return [None if p is None else str(p).lower() if isinstance(p, bool) else str(p) for p in self.params]


class ApplyPlan(Struct, frozen=True):
    """Everything the apply statement writes: the fence, in its epoch, and the rows of each table, if any.

    ``result``: of an idempotent call, stored beside the fence for its repetitions. ``order``: the number of each
    table's first new row; tables missing from it take numbers from their sequence. ``witnesses``: fences that must
    already exist.
    """

    sid: str
    owner: str
    user: str
    txid: Txid
    epoch: Epoch
    writes: Sequence[tuple[TablePointer, Sequence[Write]]]
    result: str | None = None
    order: Mapping[str, int] = {}
    witnesses: Sequence[str] = ()
