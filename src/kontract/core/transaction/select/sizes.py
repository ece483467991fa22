"""How large a value of a SELECT may become, before PostgreSQL makes it.

Nested calls of concat, or columns of subqueries that are joined to themselves again and again, make much of little: 12
KB of parameters became 192 MB. A size says of how many copies of what a value is made: of parameters, whose length is
known; of the row, which is bounded while the statement runs (:attr:`Sizes.of_row`); and of what has a length of its
own. What string_agg and its like take in is bounded while it runs, too
(:mod:`kontract.core.transaction.select.writer`).

The estimates are generous: they are there for what grows without end, not for what is large.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from kontract.core import limits
from kontract.core.transaction.select.allowed import BINARY, COLUMNS, GROWING, function_of, name_of
from kontract.core.transaction.select.refusals import refuse, too_large

WHOLE = "*"
"""In place of the name of a field: any part of the row."""

NUMBER_BYTES = 150_000
"""The longest number that numeric can hold, as text (PostgreSQL documentation, "Numeric Types")."""

_PLAIN = 64  # a boolean, a number of fixed size, a UUID
_ESCAPED = 2  # quotes and backslashes, when text becomes JSON or part of an array
_FOLDED = 3  # letters whose other case has more bytes
EXPONENT = 20
"""By how much a number of JSON with an exponent below 100 grows when it is written out."""

_LARGE_EXPONENT = re.compile(r"[0-9][eE][+-]?0*[1-9][0-9]{2}")
_ANY_EXPONENT = re.compile(r"[0-9][eE]")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')

_OF_FIRST = frozenset({
    "btrim", "ltrim", "rtrim", "substr", "left", "right", "split_part", "reverse", "jsonb_strip_nulls",
    "jsonb_extract_path", "jsonb_extract_path_text", "min", "max", "nullif",
})  # fmt: skip
_NUMERIC = frozenset({"abs", "ceil", "floor", "round", "trunc", "sign", "mod", "sqrt", "sum", "avg"})
_ANSWERS = frozenset(BINARY) - {
    "Add", "Sub", "Mul", "Div", "Mod", "DPipe", "JSONExtract", "JSONExtractScalar", "JSONBExtract",
    "JSONBExtractScalar",
}  # fmt: skip
_BOOLEAN = _ANSWERS | {"Not", "Is", "Like", "ILike", "Between", "In", "Exists", "Boolean", "Null"}


class Size(Struct, frozen=True):
    """``bytes`` of its own, and copies of parameters (as text, as JSON) and of fields of the row."""

    bytes: int = 0
    params: Mapping[tuple[int, bool], int] = {}
    fields: Mapping[str, int] = {}

    def __add__(self, other: Size) -> Size:
        """Return the size of both together."""
        params = Counter(self.params) + Counter(other.params)
        return Size(self.bytes + other.bytes, params, Counter(self.fields) + Counter(other.fields))

    def __or__(self, other: Size) -> Size:
        """Return the size of either."""
        params = Counter(self.params) | Counter(other.params)
        return Size(max(self.bytes, other.bytes), params, Counter(self.fields) | Counter(other.fields))

    def times(self, factor: int) -> Size:
        """Return the size of so many."""
        params = {which: copies * factor for which, copies in self.params.items()}
        return Size(self.bytes * factor, params, {name: copies * factor for name, copies in self.fields.items()})

    def as_json(self) -> Size:
        """Return the size as JSON of what is text."""
        params = Counter[tuple[int, bool]]()
        for (number, _), copies in self.params.items():
            params[number, True] += copies
        return Size(self.bytes * EXPONENT, params, self.times(EXPONENT).fields)

    @property
    def rows(self) -> int:
        """Copies of the row: its fields together are one."""
        named = [copies for name, copies in self.fields.items() if name != WHOLE]
        return self.fields.get(WHOLE, 0) + max(named, default=0)


def total(sizes: Iterable[Size]) -> Size:
    """Return the size of all together."""
    found = Size()
    for size in sizes:
        found += size
    return found


_Scope = tuple[dict[str, dict[str, Size]], Any]  # the tables in scope, each with its columns; the scope around


class Sizes:
    """The sizes of a tree that :class:`~kontract.core.transaction.select.writer.Writer` has accepted.

    ``of_row``: how many copies of a row the largest value has. ``largest``: the sizes that parameters decide over.
    """

    def __init__(self, tree: Any, table: str) -> None:
        """Look at every value of a tree on ``table``; raises PayloadTooLargeError for one that is always too large."""
        self._table = table
        self.of_row = 0
        self.largest: list[Size] = []
        self._seen(total(size for _, size in self._select(tree, None)))

    def _seen(self, size: Size) -> Size:
        if size.bytes > limits.SELECT_VALUE_BYTES:
            raise too_large()
        self.of_row = max(self.of_row, size.rows)
        if size.params:
            self.largest.append(size)
        return size

    def _select(self, node: Any, outer: _Scope | None) -> list[tuple[str, Size]]:
        sources: dict[str, dict[str, Size]] = {}
        scope: _Scope = (sources, outer)
        for source in [node.args["from_"].this, *(join.this for join in node.args.get("joins") or ())]:
            self._source(source, sources)
        columns: list[tuple[str, Size]] = []
        for item in node.expressions:
            kind = type(item).__name__
            if kind == "Star" or (kind == "Column" and type(item.this).__name__ == "Star"):
                wanted = name_of(item.args["table"]) if kind == "Column" and item.args.get("table") else None
                columns += [pair for name, of in sources.items() if wanted in (None, name) for pair in of.items()]
            else:
                value = item.this if kind == "Alias" else item
                name = name_of(item.args["alias"]) if kind == "Alias" else _named(item)
                columns.append((name, self._value(value, scope)))
        for key in ("where", "having", "group", "order", "joins"):
            clause = node.args.get(key)
            for part in clause if isinstance(clause, list) else [clause]:
                if part is not None:
                    for inner in _inside(part, skip="this" if key == "joins" else ""):
                        self._value(inner, scope, outputs=dict(columns))
        return columns

    def _source(self, node: Any, sources: dict[str, dict[str, Size]]) -> None:
        alias = node.args.get("alias")
        if type(node).__name__ == "Table":
            name = name_of(alias.this) if alias is not None else self._table
            short = dict.fromkeys(COLUMNS, Size(limits.ROW_ID_BYTES))
            sources[name] = short | {"data": Size(0, {}, {WHOLE: 1})}
        else:
            sources[name_of(alias.this)] = dict(self._select(node.this, None))

    def _value(self, node: Any, scope: _Scope, outputs: Mapping[str, Size] | None = None) -> Size:
        return self._seen(self._size(node, scope, outputs))

    def _size(self, node: Any, scope: _Scope, outputs: Mapping[str, Size] | None) -> Size:
        kind = type(node).__name__
        match kind:
            case "Column":
                return _column(node, scope, outputs)
            case "Literal":
                return Size(len(str(node.this).encode()))
            case "Parameter":
                return Size(0, {(int(str(node.this.this)), False): 1})
            case "Subquery":
                return total(size for _, size in self._select(node.this, scope))
            case "Exists":
                self._select(node.this, scope)
                return Size(_PLAIN)
            case "JSONExtract" | "JSONExtractScalar" | "JSONBExtract" | "JSONBExtractScalar":
                return self._part(node, scope, outputs)
            case "Cast":
                return self._cast(node, scope, outputs)
            case "Anonymous":
                return self._call(node, scope, outputs)
        inner = [self._value(part, scope, outputs) for part in _inside(node)]
        if kind in _BOOLEAN:
            return Size(_PLAIN)
        if kind in ("Add", "Mul", "Div", "Mod", "Neg"):
            return Size(NUMBER_BYTES)
        if kind == "Sub":  # of numbers, or of an object and a name
            return inner[0] + Size(NUMBER_BYTES)
        if kind == "Case":
            size = Size()
            for one in inner:
                size |= one
            return size
        return total(inner).times(_ESCAPED if kind == "Array" else 1)

    def _part(self, node: Any, scope: _Scope, outputs: Mapping[str, Size] | None) -> Size:
        of, key = self._value(node.this, scope, outputs), node.expression
        self._value(key, scope, outputs)
        is_name = type(node).__name__.startswith("JSONExtract") and type(key).__name__ == "Literal" and key.is_string
        if is_name and of.fields == {WHOLE: 1} and not of.bytes and not of.params:
            return Size(0, {}, {str(key.this): 1})
        return of

    def _cast(self, node: Any, scope: _Scope, outputs: Mapping[str, Size] | None) -> Size:
        of, to = self._value(node.this, scope, outputs), node.args["to"].this.name
        if to == "JSONB":
            if type(node.this).__name__ == "Literal":
                check_json(str(node.this.this))
            return of.as_json()
        if to in ("TEXT", "VARCHAR"):
            return of
        return Size(NUMBER_BYTES if to == "DECIMAL" else _PLAIN)

    def _call(self, node: Any, scope: _Scope, outputs: Mapping[str, Size] | None) -> Size:
        name = function_of(node)
        given = [self._value(part, scope, outputs) for part in _arguments(node.expressions)]
        if name in GROWING:
            return Size(limits.SELECT_BYTES)
        if name in _OF_FIRST:
            return given[0]
        if name in _NUMERIC:
            return Size(NUMBER_BYTES)
        if name in ("lower", "upper", "initcap"):
            return given[0].times(_FOLDED)
        if name in ("coalesce", "greatest", "least"):
            size = Size()
            for one in given:
                size |= one
            return size
        if name == "concat_ws":
            return given[0].times(len(given) - 1) + total(given[1:])
        if name in ("concat", "to_jsonb", "jsonb_build_object", "jsonb_build_array"):
            return total(given).times(1 if name == "concat" else _ESCAPED)
        return Size(_PLAIN)


def _column(node: Any, scope: _Scope | None, outputs: Mapping[str, Size] | None) -> Size:
    name = name_of(node.this)
    wanted = node.args.get("table")
    around = scope
    while around is not None:
        sources, outer = around
        for table, columns in sources.items():
            if name in columns and (wanted is None or name_of(wanted) == table):
                return columns[name]
        around = outer
    return (outputs or {}).get(name, Size())


def _named(node: Any) -> str:
    kind = type(node).__name__
    if kind == "Column":
        return name_of(node.this)
    if kind == "Anonymous":
        return function_of(node)
    return _named(node.this) if kind in ("Filter", "Paren", "Cast") else ""


def _arguments(nodes: Sequence[Any]) -> list[Any]:
    """Return the arguments of a call, without what an aggregate orders them by."""
    found = []
    for node in nodes:
        kind = type(node).__name__
        if kind == "Star":
            continue
        if kind == "Order":
            found += [node.this, *(item.this for item in node.expressions)]
        elif kind == "Distinct":
            found += node.expressions
        else:
            found.append(node)
    return found


_STRUCTURE = frozenset({"Where", "Having", "Group", "Order", "Ordered", "Join", "If", "Identifier", "Star", "DataType"})


def _inside(node: Any, skip: str = "") -> list[Any]:
    """Return the values right below a node; what only holds values is looked through."""
    found: list[Any] = []
    for key, value in node.args.items():
        if key == skip:
            continue
        for part in value if isinstance(value, list) else [value]:
            if not hasattr(part, "args"):
                continue
            if type(part).__name__ in _STRUCTURE:
                found += _inside(part)
            else:
                found.append(part)
    return found


def check_params(largest: Sequence[Size], params: Sequence[Any]) -> None:
    """Raise PayloadTooLargeError when a value made of these parameters would be too large."""
    as_text = [len(value.encode()) if isinstance(value, str) else _PLAIN for value in params]
    as_json: dict[int, int] = {}
    for size in largest:
        found = size.bytes
        for (number, is_json), copies in size.params.items():
            value = params[number - 1]
            if is_json and isinstance(value, str):
                if number not in as_json:
                    check_json(value)
                    as_json[number] = as_text[number - 1] * (EXPONENT if _ANY_EXPONENT.search(value) else _ESCAPED)
                found += as_json[number] * copies
            else:
                found += as_text[number - 1] * copies
        if found > limits.SELECT_VALUE_BYTES:
            raise too_large()


def check_json(text: str) -> None:
    """Raise InvalidRequestError for JSON with numbers that take little space and would be written with many digits."""
    if _LARGE_EXPONENT.search(text) and _LARGE_EXPONENT.search(_TEXT.sub("", text)):
        refuse("JSON in it has a number with an exponent of three digits; write such a number as text")
