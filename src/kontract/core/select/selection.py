"""A checked SELECT with its parameters, and the rows it answers with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from kontract.core import documents, incoming, limits, values
from kontract.core.kinds import kind_of
from kontract.core.select.reader import read
from kontract.core.select.refusals import refusal, refuse
from kontract.core.select.sizes import Sizes, check_params
from kontract.core.select.view import columns
from kontract.core.select.writer import Writer

_decode: Callable[[str], dict[str, Any]] = values.Decoder[Any](dict[str, Any]).decode

Param = str | int | float | bool | None
"""What may be bound to ``$1, $2, ..``."""

_PARAM_TYPES: dict[type, str] = {str: "text", bool: "bool", int: "int8", float: "float8", type(None): "text"}


class Selection(Struct, frozen=True):
    """A checked SELECT: its text in parts, with the numbers of parameters between them, and their values.

    ``view``: the select list of ``data`` in the view that it reads. ``row_bytes``: how large a row may be, because its
    values are made of several copies of one; 0 when that does not matter.
    """

    parts: tuple[str | int, ...]
    params: tuple[Param, ...]
    view: str = "data"
    row_bytes: int = 0

    def text(self, bound: int) -> str:
        """Return the SQL; ``bound`` is how many parameters come before those of :meth:`values`."""
        # All values travel as text, so that drivers which send text and drivers which send binary mean the same.
        return "".join(
            part
            if isinstance(part, str)
            else f"CAST(CAST(${bound + part} AS pg_catalog.text) AS "
            f"pg_catalog.{_PARAM_TYPES[type(self.params[part - 1])]})"
            for part in self.parts
        )

    def values(self) -> list[str | None]:
        """Return the parameters as :meth:`text` binds them."""
        return [None if p is None else str(p).lower() if isinstance(p, bool) else str(p) for p in self.params]


def parse(text: Any, params: Any, table: str, struct: type[Struct] | None = None) -> Selection:
    """Check a SELECT on the logical ``table``; raises InvalidRequestError with a sentence for anything else.

    ``struct``: of its rows. Then ``data`` has what callers see of them.
    """
    if not isinstance(text, str):
        raise refusal(f"it must be text, not {type(text).__name__}")
    if len(text) > limits.SELECT_LENGTH:
        raise refusal(f"it is longer than {limits.SELECT_LENGTH} characters")
    documents.check_text(text, "the SQL of exec")
    values = _check_params(params)
    parts, sizes = _compile(text, table, struct)
    used = {part for part in parts if isinstance(part, int)}
    if used != set(range(1, len(values) + 1)):
        named = ", ".join(f"${n}" for n in sorted(used)) or "none"
        raise refusal(f"it uses the parameters {named}, but {len(values)} values were given")
    check_params(sizes.largest, values)
    return Selection(
        parts, values, columns(struct), limits.SELECT_VALUE_BYTES // sizes.of_row if sizes.of_row > 1 else 0
    )


def rows(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Decode the rows of a result; raises InvalidRequestError when there are too many or one cannot be held."""
    if len(texts) > limits.QUERY_ROWS:
        raise refusal(f"it gives more than {limits.QUERY_ROWS} rows; give it a LIMIT, or a narrower WHERE")
    decoded = []
    for text in texts:
        # A row of the result holds rows of the table: their depth and a few levels of arrays around them.
        incoming.check_depth(text.encode(), "a row that exec selects", limits.JSON_DEPTH + 8)
        try:
            decoded.append(_decode(text))
        except msgspec.DecodeError:
            raise refusal("it gives a number that is out of range") from None
    return decoded


def _check_params(params: Any) -> tuple[Param, ...]:
    if isinstance(params, (str, bytes, Mapping)) or not isinstance(params, Sequence):
        refuse(f"its parameters must be a list, not {type(params).__name__}")
    if len(params) > limits.SELECT_PARAMS:
        refuse(f"it has more than {limits.SELECT_PARAMS} parameters")
    for number, value in enumerate(params, 1):
        if type(value) not in _PARAM_TYPES:
            refuse(f"parameter ${number} must be str, int, float, bool or None, not {type(value).__name__}")
        if isinstance(value, str):
            documents.check_text(value, f"parameter ${number}")
        elif isinstance(value, float) and not math.isfinite(value):
            refuse(f"parameter ${number} is {value}")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            refuse(f"parameter ${number} is an integer beyond 64 bits; pass it as a string and cast it to numeric")
    if sum(len(value) for value in params if isinstance(value, str)) > limits.WRITE_SET_BYTES:
        refuse(f"its parameters are larger than {limits.WRITE_SET_BYTES} characters")
    return tuple(params)


@lru_cache(maxsize=256)
def _compile(text: str, table: str, struct: type[Struct] | None) -> tuple[tuple[str | int, ...], Sizes]:
    tree = read(text)
    written = Writer(table, None if struct is None else kind_of(struct)).statement(tree)
    # \0 is in no text that comes here (documents.check_text): the writer puts it around the numbers of parameters.
    pieces = written.split("\0")
    return tuple(int(piece) if n % 2 else piece for n, piece in enumerate(pieces)), Sizes(tree, table)
