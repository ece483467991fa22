"""What callers see of stored JSON: one rule for rows without a Python value.

A row may be older than its struct: stored before a field was removed, hidden or given another type. So callers see not
the rest after hidden fields are removed, but what the struct knows: fields that it has, that callers may read, and
whose value matches their type in JSON (an object, an array, something else). The rule applies to change events and
``history`` of rows that cannot be decoded; :mod:`kontract.core.transaction.select.shown` is the same rule in SQL for
``exec``. Filters and orders follow it as well (:mod:`kontract.core.model.asked`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import inspect

from kontract.core.model.fields import without
from kontract.core.model.kinds import (
    ANYTHING,
    RECORDS,
    Kind,
    Record,
    alternatives,
    class_of,
    is_array,
    parts,
    tag_field,
    tag_of,
)
from kontract.core.model.perms import READ
from kontract.core.model.values import are_scalars

LEFT_OUT = object()
"""Stands for what callers do not see."""


def shown(kind: Kind, value: Any) -> Any:
    """Return what callers see of a JSON value stored as a ``kind``; LEFT_OUT for nothing."""
    kinds = alternatives(kind)
    if value is None or any(isinstance(one, ANYTHING) for one in kinds):
        return value
    if isinstance(value, dict):
        return _shown_object(kinds, value)
    if isinstance(value, list):
        return _shown_array(kinds, value)
    return value if any(is_scalar(one) for one in kinds) else LEFT_OUT


def _shown_object(kinds: Sequence[Kind], value: dict[str, Any]) -> Any:
    for kind in kinds:
        if isinstance(kind, RECORDS) and not is_array(kind):
            tag = tag_of(kind)
            field = tag_field(kind)
            if tag is None or value.get(field, tag) == tag:
                seen = {name: shown(of, value[name]) for name, of in readable(kind) if name in value}
                if field in value:
                    seen = {field: tag, **seen}
                return {name: item for name, item in seen.items() if item is not LEFT_OUT}
        elif isinstance(kind, (inspect.DictType, inspect.FrozenDictType)):
            if are_scalars(value.values()) and any(map(is_scalar, alternatives(kind.value_type))):
                return value
            seen = {key: shown(kind.value_type, item) for key, item in value.items()}
            return {key: item for key, item in seen.items() if item is not LEFT_OUT}
    return LEFT_OUT


def _shown_array(kinds: Sequence[Kind], value: list[Any]) -> Any:
    for kind in kinds:
        if isinstance(kind, inspect.TupleType):
            return [_placed(of, item) for of, item in zip(kind.item_types, value, strict=False)]
        if isinstance(kind, inspect.CollectionType):
            if are_scalars(value) and any(map(is_scalar, alternatives(kind.item_type))):
                return value
            items = [shown(kind.item_type, item) for item in value]
            return [item for item in items if item is not LEFT_OUT]
        if isinstance(kind, RECORDS) and is_array(kind):
            tag = tag_of(kind)
            if tag is None or value[:1] == [tag]:
                before = [] if tag is None else [tag]
                seen = dict(readable(kind))
                places = zip(kind.fields, value[len(before) :], strict=False)
                return before + [_placed(seen.get(field.encode_name), item) for field, item in places]
    return LEFT_OUT


def _placed(kind: Kind | None, item: Any) -> Any:
    seen = LEFT_OUT if kind is None else shown(kind, item)
    return None if seen is LEFT_OUT else seen


def readable(kind: Record) -> Iterator[tuple[str, Kind]]:
    """Return the fields that callers may read, by JSON name."""
    hidden = without(class_of(kind), READ)
    return ((field.encode_name, field.type) for field in kind.fields if field.encode_name not in hidden)


def is_scalar(kind: Kind) -> bool:
    """Return whether values of this kind are neither objects nor arrays in JSON; null is shown for every kind."""
    return not isinstance(kind, (*RECORDS, *_CONTAINERS, inspect.NoneType))


_CONTAINERS = (inspect.CollectionType, inspect.TupleType, inspect.DictType, inspect.FrozenDictType)


def holds_records(kind: Kind) -> bool:
    """Return whether values of this kind have named fields at any depth."""
    return any(isinstance(one, RECORDS) for one in _within(kind))


def hides(kind: Kind) -> bool:
    """Return whether values of this kind have anything hidden from callers."""
    return bool(hidden_names(kind))


def hidden_names(kind: Kind) -> frozenset[str]:
    """Return the JSON names of all fields in values of this kind, however deep, that callers may not read."""
    return frozenset(name for one in _within(kind) if isinstance(one, RECORDS) for name in without(class_of(one), READ))


def _within(kind: Kind) -> list[Kind]:
    found: list[Kind] = []
    waiting = [kind]
    while waiting:
        one = waiting.pop()
        if not any(one is known for known in found):
            found.append(one)
            waiting += parts(one)
    return found
