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

from collections.abc import Iterable
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from kontract.core.declare import TABLE, FieldPerm
from kontract.core.errors import PermissionDeniedError
from kontract.core.perms import READ, WRITE


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
        return [shown.get(name) for name, _ in fields]
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
    return _guarded(hint, ())


def _guarded(hint: Any, within: tuple[Any, ...]) -> bool:
    if isinstance(hint, type) and issubclass(hint, Struct):
        if hint in within:
            return False
        hints = get_type_hints(hint, include_extras=True)
        return bool(without(hint, WRITE)) or any(_guarded(part, (*within, hint)) for part in hints.values())
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return any(_guarded(part, within) for part in parts)


def refuse(hint: Any, sent: Any, where: str) -> None:
    """Raise PermissionDeniedError when ``sent`` (decoded JSON for a parameter of this type) sets an unwritable field.

    Called before the value is converted: afterwards nobody knows which fields were sent and which are defaults.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        refuse(get_args(hint)[0], sent, where)
    elif origin in (Union, UnionType):
        for part in get_args(hint):
            refuse(part, sent, where)
    elif isinstance(hint, type) and issubclass(hint, Struct):
        _refuse_struct(hint, sent, where)
    elif isinstance(sent, list):
        parts = get_args(hint)
        for position, item in enumerate(sent):
            if parts:
                one_each = origin is tuple and Ellipsis not in parts and position < len(parts)
                refuse(parts[position] if one_each else parts[0], item, f"{where}[{position}]")
    elif isinstance(sent, dict) and len(get_args(hint)) == 2:
        for key, item in sent.items():
            refuse(get_args(hint)[1], item, f"{where}.{key}")


def _refuse_struct(struct: type[Struct], sent: Any, where: str) -> None:
    fields = msgspec.structs.fields(struct)
    if isinstance(sent, list) and struct.__struct_config__.array_like:
        sent = {field.encode_name: item for field, item in zip(fields, sent, strict=False)}
    if not isinstance(sent, dict):
        return
    for name in without(struct, WRITE) & sent.keys():
        message = f"{where}: the field {name!r} cannot be set by callers; leave it out"
        raise PermissionDeniedError(message)
    hints = get_type_hints(struct, include_extras=True)
    for field in fields:
        if field.encode_name in sent:
            refuse(hints[field.name], sent[field.encode_name], f"{where}.{field.encode_name}")
