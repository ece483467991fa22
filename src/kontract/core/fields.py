"""Field permissions: what callers may see and set of the fields of a ``@table`` struct.

``secret: Annotated[str, perm(perms._W_)]`` can be sent and is never shown; ``created_by: Annotated[str,
perm(perms.R__)]`` is shown and cannot be sent. The rules hold between callers and functions: functions themselves set
and read every field. They are enforced wherever a row crosses that line:

- in arguments: a struct that a caller sends must not have fields that callers may not write (:func:`refuse`);
- in results: fields that callers may not read are left out, however deep the row is in the result (:func:`redact`);
- in ``update``, filters and orders, whose names often come from callers (:class:`kontract.core.rows.RowType`);
- in ``exec``, whose rows have no type: unreadable fields are not in ``data`` at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct, inspect

from kontract.core.declare import TABLE, FieldPerm
from kontract.core.errors import PermissionDeniedError
from kontract.core.perms import READ, WRITE

Kind: TypeAlias = inspect.Type


@cache
def without(struct: type[Struct], bit: int) -> frozenset[str]:
    """Return the JSON names of the fields of a ``@table`` struct whose permission lacks ``bit``."""
    if not hasattr(struct, TABLE):
        return frozenset()
    hints = get_type_hints(struct, include_extras=True)
    stored = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
    return frozenset(
        stored[name]
        for name, hint in hints.items()
        for mark in get_args(hint)[1:]
        if isinstance(mark, FieldPerm) and not mark.bits & bit
    )


def redact(value: Any) -> Any:
    """Return ``value`` without the fields that callers may not read; the very same object when there are none."""
    if isinstance(value, Struct):
        return _redact_struct(value)
    if isinstance(value, dict):
        return _changed(value, {key: redact(item) for key, item in value.items()}, value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [redact(item) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return _changed(value, {name: redact(item) for name, item in fields}, fields)
    if hasattr(type(value), "__attrs_attrs__"):
        fields = [(field.name, getattr(value, field.name)) for field in type(value).__attrs_attrs__]
        return _changed(value, {name: redact(item) for name, item in fields}, fields)
    return value


def _redact_struct(row: Struct) -> Any:
    kind = type(row)
    hidden = without(kind, READ)
    if not hidden and not _may_hold_rows(kind):
        return row
    config = kind.__struct_config__
    fields = [(field.encode_name, getattr(row, field.name)) for field in msgspec.structs.fields(kind)]
    shown = {name: redact(item) for name, item in fields if name not in hidden}
    if not hidden and all(shown[name] is item for name, item in fields):
        return row
    if config.array_like:
        return [config.tag] * (config.tag is not None) + [shown.get(name) for name, _ in fields]
    shown = {name: item for name, item in shown.items() if item is not UNSET}
    if config.tag is not None:
        shown = {config.tag_field or "type": config.tag, **shown}
    return shown


def _changed(before: Any, after: dict[Any, Any], items: Iterable[tuple[Any, Any]]) -> Any:
    return before if all(after[key] is item for key, item in items) else after


@cache
def _may_hold_rows(kind: type[Struct]) -> bool:
    """Whether something in a struct may be another struct, or anything at all."""
    scalars = (str, int, float, bool, bytes, type(None))

    def plain(hint: Any) -> bool:
        if get_origin(hint) is Annotated:
            return plain(get_args(hint)[0])
        arguments = get_args(hint)
        if arguments:
            return all(plain(argument) for argument in arguments if argument is not Ellipsis)
        return hint in scalars

    return not all(plain(hint) for hint in get_type_hints(kind, include_extras=True).values())


@cache
def guarded(hint: Any) -> bool:
    """Whether a value of this type may hold a row with fields that callers may not write."""
    return _guarded(_info(hint), ())


@cache
def _info(hint: Any) -> Kind:
    """What msgspec takes for a value of this type: aliases, generics and annotations resolved, as in its decoder."""
    return inspect.type_info(hint)


def _guarded(kind: Kind, within: tuple[Kind, ...]) -> bool:
    if any(kind is one for one in within):
        return False
    if isinstance(kind, inspect.StructType) and without(_struct(kind), WRITE):
        return True
    return any(_guarded(part, (*within, kind)) for part in _parts(kind))


def _parts(kind: Kind) -> Iterable[Kind]:
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


def _struct(kind: inspect.StructType) -> type[Struct]:
    struct: type[Struct] = get_origin(kind.cls) or kind.cls
    return struct


def refuse(hint: Any, sent: Any, where: str) -> None:
    """Raise PermissionDeniedError when ``sent`` (decoded JSON for a parameter of this type) sets an unwritable field.

    Called before the value is converted: afterwards nobody knows which fields were sent and which are defaults.
    """
    _refuse(_info(hint), sent, where)


def _refuse(kind: Kind, sent: Any, where: str) -> None:
    match kind:
        case inspect.Metadata() | inspect.UnionType():
            for part in _parts(kind):
                _refuse(part, sent, where)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
            _refuse_fields(kind, sent, where)
        case inspect.TupleType() if isinstance(sent, list):
            for position, (part, item) in enumerate(zip(kind.item_types, sent, strict=False)):
                _refuse(part, item, f"{where}[{position}]")
        case inspect.CollectionType() if isinstance(sent, list):
            for position, item in enumerate(sent):
                _refuse(kind.item_type, item, f"{where}[{position}]")
        case inspect.DictType() | inspect.FrozenDictType() if isinstance(sent, dict):
            for key, item in sent.items():
                _refuse(kind.value_type, item, f"{where}.{key:.100}")


def _refuse_fields(
    kind: inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType,
    sent: Any,
    where: str,
) -> None:
    tag = kind.tag if isinstance(kind, inspect.StructType) else None
    is_array = isinstance(kind, inspect.NamedTupleType) or (isinstance(kind, inspect.StructType) and kind.array_like)
    if is_array and isinstance(sent, list):
        names = [field.encode_name for field in kind.fields]
        sent = dict(zip(names if tag is None else ["", *names], sent, strict=False))
    if not isinstance(sent, dict):
        return
    if isinstance(kind, inspect.StructType):
        if tag is not None and sent.get(kind.tag_field, tag) != tag:
            return  # it is another one of a union
        for name in without(_struct(kind), WRITE) & sent.keys():
            message = f"{where}: the field {name!r} cannot be set by callers; leave it out"
            raise PermissionDeniedError(message)
    for field in kind.fields:
        if field.encode_name in sent:
            _refuse(field.type, sent[field.encode_name], f"{where}.{field.encode_name}")
