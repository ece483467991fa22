"""A checked SELECT with its parameters, and the rows it answers with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from kontract.core import incoming, limits
from kontract.core.model import documents, values
from kontract.core.model.kinds import kind_of
from kontract.core.statements import PARAM_TYPES, Param, Selection
from kontract.core.transaction.select.reader import read
from kontract.core.transaction.select.refusals import refusal, refuse
from kontract.core.transaction.select.shown import columns
from kontract.core.transaction.select.sizes import Sizes, check_params
from kontract.core.transaction.select.writer import Writer

_decode: Callable[[str], dict[str, Any]] = values.Decoder[Any](dict[str, Any]).decode


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
        raise refusal(f"it uses the parameters {named} but got {len(values)} values")
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
            raise refusal("it returns a number that is out of range") from None
    return decoded


def _check_params(params: Any) -> tuple[Param, ...]:
    if isinstance(params, (str, bytes, Mapping)) or not isinstance(params, Sequence):
        refuse(f"its parameters must be a list, not {type(params).__name__}")
    if len(params) > limits.SELECT_PARAMS:
        refuse(f"it has more than {limits.SELECT_PARAMS} parameters")
    for number, value in enumerate(params, 1):
        if type(value) not in PARAM_TYPES:
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
