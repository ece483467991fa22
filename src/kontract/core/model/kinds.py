"""What types are made of, as msgspec reads them: aliases, generics and annotations resolved, as in its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias, get_origin

from msgspec import inspect

Kind: TypeAlias = inspect.Type

Record: TypeAlias = inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType
"""A kind with named fields."""

RECORDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)

ANYTHING = (inspect.AnyType, inspect.RawType)
"""Kinds that say nothing of what they hold."""


OPEN = (*ANYTHING, inspect.CustomType)
"""Kinds within which a decoder chooses the types of values: those, and classes that it does not know."""


@cache
def kind_of(hint: Any) -> Kind:
    """What msgspec takes for a value of this type; a type that contains itself is a kind that contains itself."""
    return inspect.type_info(hint)


def parts(kind: Kind) -> Sequence[Kind]:
    """Return the kinds that a kind is made of."""
    match kind:
        case inspect.Metadata():
            return (kind.type,)
        case inspect.UnionType():
            return kind.types
        case inspect.TupleType():
            return kind.item_types
        case inspect.CollectionType():
            return (kind.item_type,)
        case inspect.DictType() | inspect.FrozenDictType():
            return (kind.value_type,)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
            return [field.type for field in kind.fields]
    return ()


def holds(kind: Kind, which: tuple[type[Kind], ...], within: tuple[Kind, ...] = ()) -> bool:
    """Whether a value of a type may hold, or be, one of these kinds."""
    if isinstance(kind, which):
        return True
    if any(kind is one for one in within):
        return False
    return any(holds(part, which, (*within, kind)) for part in parts(kind))


def alternatives(kind: Kind) -> Sequence[Kind]:
    """Return the kinds of which a value has one, without what is written around them."""
    if isinstance(kind, inspect.Metadata):
        return alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [one for part in kind.types for one in alternatives(part)]
    return (kind,)


def class_of(kind: Record) -> type:
    """Return the class whose fields a kind has; of a generic one, without its parameters."""
    found: type = get_origin(kind.cls) or kind.cls
    return found


def is_array(kind: Record) -> bool:
    """Whether it is an array in JSON: its fields by place."""
    return isinstance(kind, inspect.NamedTupleType) or (isinstance(kind, inspect.StructType) and kind.array_like)


def tag_field(kind: Record) -> str:
    """Return the name under which the tag stands in an object; empty for a kind without a tag."""
    return (kind.tag_field or "") if isinstance(kind, inspect.StructType) else ""


def tag_of(kind: Record) -> str | int | None:
    """Return what says in JSON that a value is of this kind; None for one without a tag."""
    return kind.tag if isinstance(kind, inspect.StructType) else None
