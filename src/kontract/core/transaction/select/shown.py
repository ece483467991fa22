"""What callers see of stored JSON, as SQL: the rule of ``core.model.shown`` for the column ``data`` of exec.

Of a type that contains itself and hides something the innermost levels are left out: SQL has an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from msgspec import inspect

from kontract.core.model.kinds import (
    ANYTHING,
    RECORDS,
    Kind,
    Record,
    alternatives,
    class_of,
    is_array,
    kind_of,
    tag_field,
    tag_of,
)
from kontract.core.model.shown import hides, is_scalar, readable
from kontract.core.transaction.select.allowed import RAW
from kontract.core.transaction.select.text import quoted

_NOTHING = "NULL::pg_catalog.jsonb"


@cache
def columns(struct: type | None) -> str:
    """Return the select list of ``data``, and of the stored row under a name that no statement can use."""
    return "data" if struct is None else f'{_seen(kind_of(struct), "data", 0, ())} AS data, data AS "{RAW}"'


def _seen(kind: Kind, value: str, depth: int, within: tuple[type, ...]) -> str:
    """Return the SQL of what is seen of the jsonb ``value``; NULL for nothing."""
    kinds = alternatives(kind)
    if any(isinstance(one, ANYTHING) for one in kinds):
        return value
    rest = f"ELSE {value}" if any(is_scalar(one) for one in kinds) else f"WHEN 'null' THEN {value}"
    return (
        f"CASE pg_catalog.jsonb_typeof({value}) WHEN 'object' THEN {_object(kinds, value, depth, within)} "
        f"WHEN 'array' THEN {_array(kinds, value, depth, within)} {rest} END"
    )


def _object(kinds: Sequence[Kind], value: str, depth: int, within: tuple[type, ...]) -> str:
    choices = []
    for kind in kinds:
        if isinstance(kind, RECORDS) and not is_array(kind):
            seen = _record(kind, value, depth, within)
            tag = tag_of(kind)
            if tag is None:
                return seen
            written = quoted(str(tag))
            found = f"coalesce({value} ->> {quoted(tag_field(kind))}, {written})"
            choices.append(f"WHEN {found} = {written} THEN {seen}")
        elif isinstance(kind, (inspect.DictType, inspect.FrozenDictType)):
            inner = _seen(kind.value_type, f"e{depth}.value", depth + 1, within)
            return value if inner == f"e{depth}.value" else _rebuilt(inner, value, depth)
    return f"CASE {' '.join(choices)} END" if choices else _NOTHING


def _record(kind: Record, value: str, depth: int, within: tuple[type, ...]) -> str:
    cls = class_of(kind)
    if cls in within:
        return _NOTHING if hides(kind) else value
    names: dict[str, list[str]] = {}
    item = f"e{depth}.value"
    if tag_of(kind) is not None:
        names[item] = [quoted(tag_field(kind))]
    for name, of in readable(kind):
        names.setdefault(_seen(of, item, depth + 1, (*within, cls)), []).append(quoted(name))
    if not names:
        return "'{}'::pg_catalog.jsonb"
    key = f"e{depth}.key"
    seen = " ".join(f"WHEN {key} IN ({', '.join(keys)}) THEN {text}" for text, keys in names.items())
    every = ", ".join(name for keys in names.values() for name in keys)
    return _rebuilt(f"CASE {seen} END", value, depth, f" WHERE {key} IN ({every})")


def _rebuilt(seen: str, value: str, depth: int, where: str = "") -> str:
    return (
        f"(SELECT coalesce(pg_catalog.jsonb_object_agg(f.key, f.value) FILTER (WHERE f.value IS NOT NULL), "
        f"'{{}}'::pg_catalog.jsonb) FROM (SELECT e{depth}.key, {seen} AS value "
        f"FROM pg_catalog.jsonb_each({value}) AS e{depth}(key, value){where}) AS f)"
    )


def _array(kinds: Sequence[Kind], value: str, depth: int, within: tuple[type, ...]) -> str:
    choices = []
    for kind in kinds:
        item = f"e{depth}.value"
        if isinstance(kind, inspect.TupleType):
            return _places(kind.item_types, value, depth, within)
        if isinstance(kind, inspect.CollectionType):
            seen = _seen(kind.item_type, item, depth + 1, within)
            return value if seen == item else _elements(seen, value, depth)
        if isinstance(kind, RECORDS) and is_array(kind):
            text = _array_record(kind, value, depth, within)
            tag = tag_of(kind)
            if tag is None:
                return text
            choices.append(f"WHEN {value} ->> 0 = {quoted(str(tag))} THEN {text}")
    return f"CASE {' '.join(choices)} END" if choices else _NOTHING


def _array_record(kind: Record, value: str, depth: int, within: tuple[type, ...]) -> str:
    cls = class_of(kind)
    if cls in within:
        return _NOTHING if hides(kind) else value
    fields = dict(readable(kind))
    places: list[Kind | None] = [fields.get(field.encode_name) for field in kind.fields]
    if tag_of(kind) is not None:
        places.insert(0, kind_of(str | int))
    return _places(places, value, depth, (*within, cls))


def _places(kinds: Sequence[Kind | None], value: str, depth: int, within: tuple[type, ...]) -> str:
    item = f"e{depth}.value"
    seen = " ".join(
        f"WHEN {place} THEN {_seen(kind, item, depth + 1, within)}"
        for place, kind in enumerate(kinds, 1)
        if kind is not None
    )
    chosen = f"CASE e{depth}.n {seen} END" if seen else _NOTHING
    seen = f"coalesce({chosen}, 'null'::pg_catalog.jsonb)"
    return _elements(seen, value, depth, f" WHERE e{depth}.n <= {len(kinds)}")


def _elements(seen: str, value: str, depth: int, where: str = "") -> str:
    return (
        f"(SELECT coalesce(pg_catalog.jsonb_agg(f.value ORDER BY f.n) FILTER (WHERE f.value IS NOT NULL), "
        f"'[]'::pg_catalog.jsonb) FROM (SELECT {seen} AS value, e{depth}.n FROM "
        f"pg_catalog.jsonb_array_elements({value}) WITH ORDINALITY AS e{depth}(value, n){where}) AS f)"
    )
