"""The lists of what a SELECT may be made of, and the checks that every node of its tree passes."""

from __future__ import annotations

import re
from typing import Any

from kontract.core.transaction.select.refusals import refuse

VIEW = "kontract_view"
"""The CTE a statement reads: the visible rows of its table with the columns :data:`COLUMNS`."""

RAW = "_raw"
"""The column with the stored row itself. No statement can name it; it is written in place of ``data`` for a field of
which callers see everything."""

COLUMNS = ("id", "data", "_txid", "_owner")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
NUMBER = re.compile(r"[0-9]{1,100}(\.[0-9]{1,100})?([eE][+-]?[0-9]{1,2})?|\.[0-9]{1,100}", re.ASCII)

AGGREGATES = {
    "count": (1, 1), "sum": (1, 1), "min": (1, 1), "max": (1, 1), "avg": (1, 1), "bool_and": (1, 1), "bool_or": (1, 1),
    "array_agg": (1, 1), "jsonb_agg": (1, 1), "jsonb_object_agg": (2, 2), "string_agg": (2, 2),
}  # fmt: skip

GROWING = frozenset({"string_agg", "array_agg", "jsonb_agg", "jsonb_object_agg"})
"""Aggregates whose value has all that they are given."""

# Without: whatever makes long text of short (repeat, lpad, replace, format), regular expressions (which may take for
# ever), power and factorial (likewise), clocks, random numbers, settings, and functions that return sets.
FUNCTIONS = {
    "lower": (1, 1), "upper": (1, 1), "initcap": (1, 1), "length": (1, 1), "char_length": (1, 1), "btrim": (1, 2),
    "ltrim": (1, 2), "rtrim": (1, 2), "substr": (2, 3), "left": (2, 2), "right": (2, 2), "strpos": (2, 2),
    "starts_with": (2, 2), "split_part": (3, 3), "concat": (1, 20), "concat_ws": (2, 20), "reverse": (1, 1),
    "abs": (1, 1), "ceil": (1, 1), "floor": (1, 1), "round": (1, 2), "trunc": (1, 2), "sign": (1, 1), "mod": (2, 2),
    "sqrt": (1, 1),
    "jsonb_array_length": (1, 1), "jsonb_typeof": (1, 1), "jsonb_build_object": (0, 40), "jsonb_build_array": (0, 40),
    "jsonb_strip_nulls": (1, 1), "jsonb_extract_path": (2, 20), "jsonb_extract_path_text": (2, 20), "to_jsonb": (1, 1),
    "cardinality": (1, 1),
}  # fmt: skip

# These are grammar, not functions: they have no schema.
FORMS = {"coalesce": (1, 20), "nullif": (2, 2), "greatest": (1, 20), "least": (1, 20)}

# Without dates: 'now'::date is a clock. ISO 8601 text compares in order of time.
TYPES = {
    "TEXT": "text", "VARCHAR": "text", "SMALLINT": "int2", "INT": "int4", "BIGINT": "int8", "DECIMAL": "numeric",
    "FLOAT": "float8", "DOUBLE": "float8", "BOOLEAN": "bool", "JSONB": "jsonb", "UUID": "uuid",
}  # fmt: skip

BINARY = {
    "And": "AND", "Or": "OR", "EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">=", "Add": "+",
    "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%", "DPipe": "||", "JSONExtract": "->", "JSONExtractScalar": "->>",
    "JSONBExtract": "#>", "JSONBExtractScalar": "#>>", "JSONBContains": "?", "JSONBContainsAnyTopKeys": "?|",
    "JSONBContainsAllTopKeys": "?&", "ArrayContainsAll": "@>", "ArrayContainedBy": "<@",
    "NullSafeEQ": "IS NOT DISTINCT FROM", "NullSafeNEQ": "IS DISTINCT FROM",
}  # fmt: skip

SPELLED_TYPES = ("text", "smallint", "integer", "bigint", "numeric", "double precision", "boolean", "jsonb", "uuid")


def only(node: Any, *known: str) -> None:
    """Refuse a node that has any argument besides the known ones, or a comment."""
    for key, value in node.args.items():
        if key not in known and value not in (None, False, []):
            refuse(f"it uses {spell(type(node).__name__)} with {spell(key)}, which exec does not support")
    if node.comments:
        refuse("leave the comments out")


def name_of(node: Any) -> str:
    """Return an identifier as PostgreSQL folds it."""
    if type(node).__name__ != "Identifier":
        refuse("a name in it is not a plain name")
    only(node, "this", "quoted")
    name = node.this
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse("names in it have only letters, digits and underscores, at most 63")
    return name if node.args.get("quoted") else fold(name)


def fold(name: str) -> str:
    return name.lower() if name.isascii() else name


def function_of(node: Any) -> str:
    """Return the name of a call; a quoted name is refused, because it could be a user-defined function."""
    if not isinstance(node.this, str):
        refuse("the names of functions are written without quotes")
    return fold(node.this)


def own_name(node: Any) -> str | None:
    """Return the name PostgreSQL gives to a column without AS, where it is a sensible one."""
    kind = type(node).__name__
    if kind == "Column":
        return name_of(node.this)
    if kind == "Anonymous":
        return function_of(node)
    if kind in ("Filter", "Paren") or (kind == "Cast" and type(node.this).__name__ in ("Column", "Anonymous")):
        return own_name(node.this)
    return None


def spell(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").strip().upper()[:60]
