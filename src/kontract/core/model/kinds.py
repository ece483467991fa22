"""The structure of types as msgspec reads them: aliases, generics and annotations resolved, as in its decoder."""

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
"""Kinds that do not declare what they hold."""


OPEN = (*ANYTHING, inspect.CustomType)
"""Kinds in which the decoder chooses the types of values: those, and classes that it does not know."""


@cache
def kind_of(hint: Any) -> Kind:
    """Return msgspec's description of a type; a type that contains itself is a kind that contains itself."""
    return inspect.type_info(hint)


def parts(kind: Kind) -> Sequence[Kind]:
    """Return the kinds that a kind consists of."""
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
    """Return whether a value of a type may be or hold one of these kinds."""
    if isinstance(kind, which):
        return True
    if any(kind is one for one in within):
        return False
    return any(holds(part, which, (*within, kind)) for part in parts(kind))


def alternatives(kind: Kind) -> Sequence[Kind]:
    """Return the alternatives of a kind, unwrapped: a value has one of them."""
    if isinstance(kind, inspect.Metadata):
        return alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [one for part in kind.types for one in alternatives(part)]
    return (kind,)


def class_of(kind: Record) -> type:
    """Return the class of a kind; of a generic class without its parameters."""
    found: type = get_origin(kind.cls) or kind.cls
    return found


def is_array(kind: Record) -> bool:
    """Return whether it is an array in JSON, with fields by position."""
    return isinstance(kind, inspect.NamedTupleType) or (isinstance(kind, inspect.StructType) and kind.array_like)


def tag_field(kind: Record) -> str:
    """Return the name of the tag field; empty for a kind without a tag."""
    return (kind.tag_field or "") if isinstance(kind, inspect.StructType) else ""


def tag_of(kind: Record) -> str | int | None:
    """Return the tag that marks a value of this kind in JSON; None for a kind without a tag."""
    return kind.tag if isinstance(kind, inspect.StructType) else None
