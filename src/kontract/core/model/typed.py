"""What a declared type means for stored values: their order, and the stored form of a caller's spelling."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from msgspec import inspect

from kontract.core.model import values
from kontract.core.model.fields import redact
from kontract.core.model.kinds import ANYTHING, RECORDS, Kind, alternatives, holds, is_array, kind_of, tag_of
from kontract.core.types import Order

# --- order -----------------------------------------------------------------------------------------------------------

_ORDERS: dict[type[Kind], Order] = {
    inspect.StrType: Order.TEXT,
    inspect.UUIDType: Order.TEXT,
    inspect.DateType: Order.TEXT,
    inspect.IntType: Order.NUMBER,
    inspect.FloatType: Order.NUMBER,
    inspect.DecimalType: Order.NUMBER,
    inspect.BoolType: Order.BOOLEAN,
    inspect.DateTimeType: Order.INSTANT,
    inspect.TimeType: Order.TIME,
}


def order_of(kind: Kind) -> Order | None:
    """Return how values of a type are ordered, null and missing first; None if they have no order."""
    orders = {_order(one) for one in alternatives(kind) if not isinstance(one, inspect.NoneType)}
    return orders.pop() if len(orders) == 1 else None


def has_order(kind: Kind) -> bool:
    """Return whether rows can be ordered by a field of this type; for untyped fields JSON has its own order."""
    return order_of(kind) is not None or isinstance(kind, inspect.AnyType)


def _order(kind: Kind) -> Order | None:
    if isinstance(kind, inspect.EnumType):
        return _order_of_values(member.value for member in kind.cls)
    if isinstance(kind, inspect.LiteralType):
        return _order_of_values(kind.values)
    return _ORDERS.get(type(kind))


def _order_of_values(found: Iterable[Any]) -> Order | None:
    kinds = {type(value) for value in found}
    return {str: Order.TEXT, int: Order.NUMBER, bool: Order.BOOLEAN}.get(kinds.pop()) if len(kinds) == 1 else None


_SPELLED = (inspect.DecimalType, inspect.DateTimeType, inspect.TimeType)


def compared_by(kind: Kind) -> Order | None:
    """Return how a filter compares a field whose values may have several spellings; None: by containment.

    Rows from older releases and other programs may have any spelling.
    """
    return order_of(kind) if any(isinstance(one, _SPELLED) for one in alternatives(kind)) else None


def is_spelled(kind: Kind) -> bool:
    """Return whether values of this type hold something that has several spellings in JSON."""
    return holds(kind, (*_SPELLED, inspect.UUIDType, inspect.TimeDeltaType, inspect.BytesType))


# --- spelling --------------------------------------------------------------------------------------------------------

_SCALARS: dict[type[Kind], Any] = {
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.DecimalType: Decimal,
    inspect.DateTimeType: datetime,
    inspect.DateType: date,
    inspect.TimeType: time,
    inspect.TimeDeltaType: timedelta,
    inspect.UUIDType: UUID,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.MemoryViewType: bytes,
}
_NATURAL = (
    inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.StrType, inspect.NoneType, inspect.EnumType,
    inspect.LiteralType,
)  # fmt: skip
_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_ARRAYS = (inspect.CollectionType, inspect.TupleType, inspect.NamedTupleType)


def wanted(kind: Kind, value: Any, where: str) -> Any:
    """Return part of a filter in the stored form of this type; native values are left to ``documents.normal``.

    A filter asks for containment, so objects may lack fields and lists may lack items. Raises msgspec.ValidationError
    for what no value of the type can contain. Constraints do not matter: no stored value breaks them.
    """
    if value is None:
        return None
    kinds = alternatives(kind)
    if any(isinstance(one, (inspect.AnyType, inspect.RawType, inspect.CustomType)) for one in kinds):
        return value
    if isinstance(value, dict):
        return _wanted_object(kinds, value, where)
    if isinstance(value, (list, tuple)):
        items = tuple(item for one in kinds for item in _items(one))
        if not items:
            raise _mismatch(where, kinds, "a list")
        return [wanted(inspect.UnionType(items), item, f"{where}[{at}]") for at, item in enumerate(value)]
    return _wanted_scalar(kinds, value, where)


def comparable(kind: Kind, value: Any, where: str) -> Any:
    """Return what a filter compares a field of this type with: a value of the type; natives as :func:`wanted`.

    Raises msgspec.ValidationError for a value of another type.
    """
    kinds = [one for one in alternatives(kind) if not isinstance(one, inspect.NoneType)]
    hints = [hint for one in kinds if (hint := _scalar(one)) is not None]
    if type(value) in hints:
        return value
    for hint in hints:
        if value is None or (hint is float and _is_rounded(kinds, value)):
            continue
        try:
            return msgspec.convert(Decimal(value.text) if type(value) is values.Number else value, hint)
        except msgspec.ValidationError:
            continue
    raise _mismatch(where, kinds, f"{value!r:.100} ({type(value).__name__})")


def _wanted_scalar(kinds: Sequence[Kind], value: Any, where: str) -> Any:
    scalars = [hint for one in kinds if (hint := _scalar(one)) is not None]
    if type(value) in scalars:
        return value
    if type(value) is values.Number and Decimal in scalars:
        return Decimal(value.text)
    for hint in scalars:
        if hint is float and _is_rounded(kinds, value):
            continue  # the nearest float is another number
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError:
            continue
    if all(isinstance(one, _NATURAL) for one in kinds):
        return value  # JSON has it unchanged; rows older than the type may hold it
    raise _mismatch(where, kinds, repr(value)[:100])


def _scalar(kind: Kind) -> Any:
    if isinstance(kind, inspect.EnumType):
        return kind.cls
    if isinstance(kind, inspect.LiteralType):
        return type(kind.values[0]) if len({type(one) for one in kind.values}) == 1 else str | int | bool
    return _SCALARS.get(type(kind))


def _wanted_object(kinds: Sequence[Kind], value: dict[str, Any], where: str) -> dict[str, Any]:
    made = {}
    for key, item in value.items():
        below = tuple(found for one in kinds for found in _under(one, key))
        if not below:
            raise _mismatch(where, kinds, f"an object with {key!r:.100}")
        made[key] = wanted(inspect.UnionType(below), item, f"{where}.{key:.100}")
    return made


def _under(kind: Kind, key: str) -> Iterable[Kind]:
    if isinstance(kind, (inspect.DictType, inspect.FrozenDictType)):
        return (kind.value_type,)
    if isinstance(kind, _OBJECTS):
        if isinstance(kind, inspect.StructType) and key == kind.tag_field:
            return (inspect.AnyType(),)
        return [field.type for field in kind.fields if field.encode_name == key]
    return ()


def _items(kind: Kind) -> Iterable[Kind]:
    if isinstance(kind, inspect.TupleType):
        return kind.item_types
    if isinstance(kind, inspect.NamedTupleType) or (isinstance(kind, inspect.StructType) and kind.array_like):
        return [*(field.type for field in kind.fields), inspect.AnyType()]
    return (kind.item_type,) if isinstance(kind, inspect.CollectionType) else ()


def _mismatch(where: str, kinds: Sequence[Kind], got: str) -> msgspec.ValidationError:
    names = " or ".join(dict.fromkeys(_name(one) for one in kinds))
    return msgspec.ValidationError(f"{where} is {names}, not {got}")


def _name(kind: Kind) -> str:
    cls = getattr(kind, "cls", None)
    return cls.__name__ if cls is not None else type(kind).__name__.removesuffix("Type").lower()


# --- digits ----------------------------------------------------------------------------------------------------------


def rounded(kind: Kind, value: Any, where: str) -> str | None:
    """Return the place of a number that a float of this type cannot hold; ``value`` is from :data:`values.decode`."""
    steps = _rounded(alternatives(kind), value)
    return None if steps is None else where + "".join(reversed(steps))


def _rounded(kinds: Sequence[Kind], value: Any) -> list[str] | None:
    """Return the path to such a number, in reverse."""
    if isinstance(value, dict):
        if values.are_held(value.values()):
            return None
        for key, item in value.items():
            below = [alternatives(found) for one in kinds for found in _under(one, key)]
            for steps in (_rounded(one, item) for one in below):
                if steps is not None:
                    return [*steps, f".{key:.100}"]
        return None
    if isinstance(value, (list, tuple)):
        if values.are_held(value):
            return None
        return next((steps for one in kinds if (steps := _rounded_item(one, value)) is not None), None)
    return [] if _is_rounded(kinds, value) else None


def _rounded_item(kind: Kind, value: Sequence[Any]) -> list[str] | None:
    if not holds(kind, (inspect.FloatType,)):
        return None
    if isinstance(kind, inspect.CollectionType):
        inner = alternatives(kind.item_type)
        held = _NO_NUMBERS | {int} if any(isinstance(one, inspect.IntType) for one in inner) else _NO_NUMBERS
        if held.issuperset(map(type, value)):
            return None
        found = ((at, _rounded(inner, item)) for at, item in enumerate(value) if type(item) not in held)
    else:
        found = (
            (at, _rounded(alternatives(of), item))
            for at, (of, item) in enumerate(zip(_places(kind), value, strict=False))
        )
    return next(([*steps, f"[{at}]"] for at, steps in found if steps is not None), None)


def _places(kind: Kind) -> Sequence[Kind]:
    """Return what stands where in an array with places."""
    if isinstance(kind, inspect.TupleType):
        return kind.item_types
    if isinstance(kind, RECORDS) and is_array(kind):
        return [*([inspect.AnyType()] if tag_of(kind) is not None else []), *(field.type for field in kind.fields)]
    return ()


_NO_NUMBERS = frozenset({str, bool, type(None), float})
"""Values that no float has to hold, or that are floats already."""


def _is_rounded(kinds: Sequence[Kind], value: Any) -> bool:
    if not any(isinstance(one, inspect.FloatType) for one in kinds):
        return False
    if type(value) is int:
        is_int = any(isinstance(one, inspect.IntType) for one in kinds)
        return not is_int and not values.is_held(_float(value), str(value))
    return type(value) is values.Number and not values.is_held(float(value), value.text)


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


_NO_DECIMALS = frozenset({str, int, float, bool, bytes, type(None)})


def check_decimals(value: Any, where: str) -> None:
    """Raise values.UnspeakableError for a Decimal in ``value`` that no row field can hold, with its place."""
    if type(value) in _NO_DECIMALS:
        return
    if isinstance(value, Decimal):
        try:
            values.check_decimal(value)
        except values.UnspeakableError as error:
            raise values.UnspeakableError(str(error).replace("?", where, 1)) from None
    elif isinstance(value, dict):
        if not _are_fine(value.values()):
            for key, item in value.items():
                check_decimals(item, f"{where}.{key!s:.100}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        if not _are_fine(value):
            for at, item in enumerate(value):
                check_decimals(item, f"{where}[{at}]")
    elif isinstance(value, msgspec.Struct):
        for name, shown in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
            check_decimals(getattr(value, name), f"{where}.{shown}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            check_decimals(getattr(value, field.name, None), f"{where}.{field.name}")


def _are_fine(found: Collection[Any]) -> bool:
    """Return whether compiled code finds nothing wrong with any of them."""
    types = set(map(type, found))
    return types <= _NO_DECIMALS or (types == {Decimal} and values.are_short(found))


# --- hidden fields ---------------------------------------------------------------------------------------------------


def forgotten(kind: Kind, value: Any, where: str) -> str | None:
    """Return the place of an object whose hidden fields would be shown because the type does not know them.

    Its class knows them, but a stored row has no classes other than those of its types.
    """
    kinds = alternatives(kind)
    if any(isinstance(one, ANYTHING) for one in kinds):
        return where if redact(value) is not value else None
    if isinstance(value, dict):
        if values.are_scalars(value.values()):
            return None
        inside = [
            (f"{where}.{key!s:.100}", of, item)
            for key, item in value.items()
            for one in kinds
            for of in _under(one, key)
        ]
    elif isinstance(value, msgspec.Struct) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        record = kind_of(type(value))
        assert isinstance(record, RECORDS)
        inside = [
            (f"{where}.{field.encode_name}", field.type, getattr(value, field.name, None)) for field in record.fields
        ]
    elif isinstance(value, (list, tuple, set, frozenset)):
        if values.are_scalars(value):
            return None
        inside = [(f"{where}[{at}]", of, item) for at, item in enumerate(value) for one in kinds for of in _items(one)]
    else:
        return None
    return next((place for at, of, item in inside if (place := forgotten(of, item, at)) is not None), None)


# --- dataclasses -----------------------------------------------------------------------------------------------------


def completed(value: Any) -> Any:
    """Return ``value`` after giving its dataclasses the defaults that msgspec left to their class.

    msgspec writes the attributes of an object, so what it does not set when reading would be missing when writing.
    """
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        items = value.values() if isinstance(value, dict) else value
        if not values.are_scalars(items):
            for item in items:
                completed(item)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            completed(getattr(value, name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.init:
                item = getattr(value, field.name)
                if field.name not in getattr(value, "__dict__", {field.name: None}):
                    object.__setattr__(value, field.name, item)
                completed(item)
    return value
