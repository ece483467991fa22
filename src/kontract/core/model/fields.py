"""Field permissions: which fields of a struct callers may see and set.

``secret: Annotated[str, perm(perms._W_)]`` can be sent but is never shown; ``created_by: Annotated[str,
perm(perms.R__)]`` is shown but cannot be sent. They apply to every class with named fields whose values know their
class: structs of tables, arguments and results, and inside these, dataclasses and named tuples. The rules hold between
callers and functions: functions themselves set and read every field. They are enforced wherever a value crosses that
line:

- in arguments: what a caller sends must not have fields that callers may not write (:func:`refuse`);
- in results: fields that callers may not read are left out, however deep they are (:func:`redact`);
- where stored JSON is shown or asked: change events, ``history``, filters, orders (:mod:`kontract.core.model.shown`)
  and ``exec`` (:mod:`kontract.core.transaction.select.shown`);
- in ``update``, whose names often come from callers (:class:`kontract.core.model.rows.RowType`).

A ``perm(...)`` that could not be enforced is an error, never ignored (:func:`check`).
"""

from __future__ import annotations

import dataclasses
import inspect as inspect_module
import sys
import types
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Annotated, Any, NewType, Union, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, inspect

from kontract.core.errors import PermissionDeniedError
from kontract.core.model.declare import FieldPerm, perm
from kontract.core.model.kinds import RECORDS, Kind, Record, class_of, is_array, kind_of, parts, tag_of
from kontract.core.model.perms import READ, WRITE
from kontract.core.model.values import SCALARS, are_scalars

# --- what is declared ------------------------------------------------------------------------------------------------


@cache
def without(kind: type, bit: int) -> frozenset[str]:
    """Return the JSON names of the fields of a class whose permission lacks ``bit``."""
    names = _json_names(kind)
    return frozenset(
        names.get(name, name) for name, hint in _hints(kind).items() if any(not bits & bit for bits in _bits(hint))
    )


def check(hint: Any, what: str) -> None:
    """Raise TypeError for a ``perm(...)`` in a type whose values could not carry it.

    It can only mark a field. In ``list[Annotated[str, perm(..)]]``, on a parameter or in the parameters of a generic
    type it is lost at run time; and the values of a TypedDict are dicts, which do not know their type.
    """
    _check(hint, what, set(), is_field=False)


def _check(hint: Any, what: str, seen: set[type], *, is_field: bool) -> None:
    inner, bits = _unwrapped(hint)
    if bits and not is_field:
        message = f"{what}: perm() can only be enforced on a field of a struct; mark the field"
        raise TypeError(message)
    if inner:
        for part in inner:
            _check(part, what, seen, is_field=is_field)
        return
    for argument in get_args(hint):
        _check(argument, what, seen, is_field=False)
    kind = get_origin(hint) or hint
    if not isinstance(kind, type) or kind in seen or not _has_fields(kind):
        return
    seen.add(kind)
    for name, of in _hints(kind).items():
        if is_typeddict(kind) and any(_bits(of)):
            message = (
                f"{what}: perm() of {kind.__name__}.{name} cannot be enforced, because the values of a TypedDict are "
                "plain dicts; make it a Struct"
            )
            raise TypeError(message)
        _check(of, f"{what}: field {name} of {kind.__name__}", seen, is_field=True)


def _bits(hint: Any) -> Iterator[int]:
    """Yield the bits of each ``perm(...)`` on a field of this type, at any level around it."""
    inner, bits = _unwrapped(hint)
    yield from bits
    for part in inner:
        yield from _bits(part)


def _unwrapped(hint: Any) -> tuple[tuple[Any, ...], list[int]]:
    """Return what an annotation stands for when it is not a type itself, and the permissions on it."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        if any(mark is perm for mark in marks):
            message = "perm takes one permission: write, for example, perm(perms.R__)"
            raise TypeError(message)
        return (inner,), [mark.bits for mark in marks if isinstance(mark, FieldPerm)]
    if origin in (Union, types.UnionType):
        return get_args(hint), []
    if getattr(origin, "__name__", getattr(origin, "_name", "")) in _QUALIFIERS:
        return get_args(hint)[:1], []
    if isinstance(hint, NewType):
        return (hint.__supertype__,), []
    alias = hint if hasattr(hint, "__value__") else origin  # `type Pin = ...`
    return ((alias.__value__,) if hasattr(alias, "__value__") else ()), []


_QUALIFIERS = frozenset({"Required", "NotRequired", "ReadOnly", "Final", "ClassVar"})


def _has_fields(kind: type) -> bool:
    return (
        issubclass(kind, Struct)
        or dataclasses.is_dataclass(kind)
        or is_typeddict(kind)
        or hasattr(kind, "__attrs_attrs__")
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except NameError:  # a type that is there for checkers alone; what else is written counts all the same
        found: dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            scope = vars(sys.modules.get(base.__module__, types))
            for name, hint in _annotations(base).items():
                found[name] = _evaluated(hint, scope) if isinstance(hint, str) else hint
        return found


def _annotations(kind: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return get_annotations(kind, format=Format.STRING)
    return inspect_module.get_annotations(kind)


def _evaluated(hint: str, scope: dict[str, Any]) -> Any:
    try:
        return eval(hint, scope)  # noqa: S307 - an annotation of the application, as typing evaluates it
    except NameError:
        if "perm" in hint:
            raise
        return Any


def _json_names(kind: type) -> dict[str, str]:
    if issubclass(kind, Struct):
        return {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    return {}


# --- results ---------------------------------------------------------------------------------------------------------


def redact(value: Any) -> Any:
    """Return ``value`` without the fields that callers may not read; the same object if there are none."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Struct):
        return _redact_struct(value)
    if isinstance(value, dict):
        if _PLAIN.issuperset(map(type, value.values())):  # in compiled code: most dicts are such
            return value
        return _changed(value, {key: redact(item) for key, item in value.items()}, value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return _redact_items(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _redact_object(value, [field.name for field in dataclasses.fields(value)])
    if hasattr(type(value), "__attrs_attrs__"):
        return _redact_object(value, [field.name for field in type(value).__attrs_attrs__])
    return value


def _redact_items(value: Iterable[Any]) -> Any:
    if type(value) is list and _PLAIN.issuperset(map(type, value)):
        return value
    items = [item if type(item) in _PLAIN else redact(item) for item in value]
    names = getattr(type(value), "_fields", ()) if isinstance(value, tuple) else ()
    hidden = without(type(value), READ) if names else frozenset()
    if hidden:  # a named tuple: its fields have places, so what is hidden is null
        return [None if name in hidden else item for name, item in zip(names, items, strict=True)]
    return value if all(new is old for new, old in zip(items, value, strict=True)) else items


def _redact_object(value: Any, names: list[str]) -> Any:
    kind: type = type(value)
    hidden = without(kind, READ)
    fields = [(name, getattr(value, name)) for name in names if hasattr(value, name)]
    shown = {name: redact(item) for name, item in fields if name not in hidden}
    if not hidden:
        return _changed(value, shown, fields)
    return {name: item for name, item in shown.items() if item is not UNSET}


def _redact_struct(row: Struct) -> Any:
    kind = type(row)
    hidden = without(kind, READ)
    # This checks the value of a field, not its annotation: constructing a struct checks nothing.
    values = msgspec.structs.astuple(row)
    seen = [item if type(item) in _PLAIN else redact(item) for item in values]
    if not hidden and all(new is old for new, old in zip(seen, values, strict=True)):
        return row
    config = kind.__struct_config__
    fields = zip(kind.__struct_encode_fields__, seen, strict=True)
    if config.array_like:
        return [config.tag] * (config.tag is not None) + [None if name in hidden else item for name, item in fields]
    shown = {name: item for name, item in fields if name not in hidden and item is not UNSET}
    if config.tag is not None:
        shown = {config.tag_field or "type": config.tag, **shown}
    return shown


def _changed(before: Any, after: dict[Any, Any], items: Iterable[tuple[Any, Any]]) -> Any:
    return before if all(after[key] is item for key, item in items) else after


_PLAIN = SCALARS | {bytes, UUID}
"""Types of values that hold no others."""


# --- arguments -------------------------------------------------------------------------------------------------------


@cache
def guarded(hint: Any) -> bool:
    """Return whether a value of this type may have fields that callers may not write."""
    return _guarded(kind_of(hint), ())


def _guarded(kind: Kind, within: tuple[Kind, ...]) -> bool:
    if any(kind is one for one in within):
        return False
    if isinstance(kind, RECORDS) and without(class_of(kind), WRITE):
        return True
    return any(_guarded(part, (*within, kind)) for part in parts(kind))


def refuse(hint: Any, sent: Any, where: str) -> None:
    """Raise PermissionDeniedError when ``sent`` (decoded JSON for a parameter of this type) sets an unwritable field.

    Called before the value is converted: afterwards sent fields and defaults look the same.
    """
    refuse_in(kind_of(hint), sent, where)


def refuse_in(kind: Kind, sent: Any, where: str) -> None:
    """Do the same for a kind. Values that are not JSON, such as structs made by a function, are skipped."""
    match kind:
        case inspect.Metadata() | inspect.UnionType():
            for part in parts(kind):
                refuse_in(part, sent, where)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
            _refuse_fields(kind, sent, where)
        case inspect.TupleType() if isinstance(sent, list):
            for position, (part, item) in enumerate(zip(kind.item_types, sent, strict=False)):
                refuse_in(part, item, f"{where}[{position}]")
        case inspect.CollectionType() if isinstance(sent, list) and not are_scalars(sent):
            for position, item in enumerate(sent):
                refuse_in(kind.item_type, item, f"{where}[{position}]")
        case inspect.DictType() | inspect.FrozenDictType() if isinstance(sent, dict) and not are_scalars(sent.values()):
            for key, item in sent.items():
                refuse_in(kind.value_type, item, f"{where}.{key:.100}")


def _refuse_fields(kind: Record, sent: Any, where: str) -> None:
    tag = tag_of(kind)
    if is_array(kind) and isinstance(sent, list):
        names = [field.encode_name for field in kind.fields]
        if tag is not None and sent[:1] != [tag]:
            return  # it is another one of a union
        sent = dict(zip(names, sent if tag is None else sent[1:], strict=False))
    elif isinstance(sent, dict) and tag is not None:
        assert isinstance(kind, inspect.StructType)
        if sent.get(kind.tag_field, tag) != tag:
            return
    if not isinstance(sent, dict):
        return
    for name in sorted(without(class_of(kind), WRITE) & sent.keys()):
        message = f"{where}: callers cannot set the field {name!r}; leave it out"
        raise PermissionDeniedError(message)
    for field in kind.fields:
        if field.encode_name in sent:
            refuse_in(field.type, sent[field.encode_name], f"{where}.{field.encode_name}")
