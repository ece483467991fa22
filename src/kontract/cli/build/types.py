"""Works out what the annotations of an application mean to msgspec, without running the application.

A type is put together from its source: names of a few known modules are those modules' own, classes of the application
are rebuilt from their fields. Anything from elsewhere is taken for a type that may hold anything. Then msgspec
says whether it can read and write it, and the rules below whether a value survives the round trip.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import operator
import types
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple, TypedDict

import msgspec
from msgspec import inspect

from kontract.core.model import typed
from kontract.core.model.kinds import Kind, alternatives, parts

KNOWN = frozenset({
    "builtins", "collections", "collections.abc", "dataclasses", "datetime", "decimal", "enum", "fractions", "kontract",
    "msgspec", "pathlib", "typing", "uuid", "re", "ipaddress",
})  # fmt: skip
"""Modules whose names mean here what they mean when the application runs: importing them runs nothing of it."""

ANYTHING: Any = Any
"""Stands for what is not known."""

_KEYS = (
    inspect.StrType, inspect.IntType, inspect.FloatType, inspect.DecimalType, inspect.EnumType, inspect.LiteralType,
    inspect.UUIDType, inspect.DateType, inspect.DateTimeType, inspect.TimeType, inspect.TimeDeltaType,
    inspect.BytesType, inspect.AnyType,
)  # fmt: skip
"""Kinds of keys that JSON's strings are turned into, and back."""

_SPELLED_KEYS = (inspect.DecimalType, inspect.DateTimeType, inspect.TimeType, inspect.FloatType)
_CHANGING = (inspect.ListType, inspect.SetType, inspect.DictType, inspect.TypedDictType, inspect.ByteArrayType)


class TypeFlawError(Exception):
    """A type that cannot be used; the message says why."""


class Types:
    """The types of one module."""

    def __init__(self, tree: ast.Module, module: str, source: Callable[[str], str | None]) -> None:
        """``source`` returns the text of another module of the application, None for one that is not its."""
        self._module = module
        self._source = source
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._aliases = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self._imports = dict(_imports(tree, module))
        self._made: dict[str, Any] = {}
        self._others: dict[str, Types | None] = {}

    def of(self, annotation: ast.expr) -> Any:
        """Return the type that an annotation means; Any for what is not known. Raises TypeFlawError."""
        try:
            return self._value(annotation)
        except TypeFlawError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever typing and msgspec raise for a type that is none
            raise TypeFlawError(_first(error)) from None

    def check(self, annotation: ast.expr, *, stored: bool = False, returned: bool = False) -> None:
        """Raise TypeFlawError for a type whose values do not survive the round trip; ``stored``: in rows of a table."""
        hint = self.of(annotation)
        if returned:
            hint = _carried(hint)
        try:
            msgspec.json.Decoder(hint)
            kind = inspect.type_info(hint)
        except Exception as error:  # noqa: BLE001 - as above
            raise TypeFlawError(_first(error)) from None
        flaw = next(_flaws(kind, stored, returned, ()), None)
        if flaw is not None:
            raise TypeFlawError(flaw)

    def order_of(self, annotation: ast.expr) -> bool:
        """Return whether rows can be ordered by a field of this type; True where that is unknown."""
        try:
            return typed.has_order(inspect.type_info(self.of(annotation)))
        except Exception:  # noqa: BLE001 - reported where the type is checked
            return True

    def compared_by(self, annotation: ast.expr) -> str | None:
        """Return how values of this type are compared if they have several spellings; None if they have one."""
        try:
            kind = inspect.type_info(self.of(annotation))
            kinds = [one for one in alternatives(kind) if not isinstance(one, inspect.NoneType)]
            order = typed.compared_by(kind) if len(kinds) == 1 else None
        except Exception:  # noqa: BLE001 - said where the type is checked
            return None
        return order.value if order is not None else None

    # --- expressions -------------------------------------------------------------------------------------------------

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=str(text)):
                return self._value(ast.parse(text, mode="eval").body)
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.named(node.id)
            case ast.Attribute():
                holder = self._value(node.value)
                return getattr(holder, node.attr, ANYTHING) if isinstance(holder, types.ModuleType) else ANYTHING
            case ast.Subscript():
                return self._subscript(node)
            case ast.BinOp(op=ast.BitOr()):
                return operator.or_(self._value(node.left), self._value(node.right))
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if self._value(node.func) is typing.TypeVar:
                return typing.TypeVar(name)
            case ast.Tuple() | ast.List():
                return [self._value(one) for one in node.elts]
        return ANYTHING

    def _subscript(self, node: ast.Subscript) -> Any:
        base = self._value(node.value)
        if base is typing.Literal:
            return operator.getitem(base, ast.literal_eval(node.slice))
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if base is typing.Annotated:
            marks = [mark for one in parts[1:] if (mark := self._mark(one)) is not None]
            inner = self._value(parts[0])
            return operator.getitem(base, (inner, *marks)) if marks else inner
        if base is ANYTHING:
            return ANYTHING
        return operator.getitem(base, tuple(map(self._value, parts)) if len(parts) > 1 else self._value(parts[0]))

    def _mark(self, node: ast.expr) -> Any:
        """Return a Meta with literal arguments; None for all other marks, which mean nothing to msgspec."""
        if not isinstance(node, ast.Call) or self._value(node.func) is not msgspec.Meta:
            return None
        try:
            given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
        except ValueError:
            return None
        return msgspec.Meta(**given)

    def named(self, name: str) -> Any:
        """Return what a name at the top of the module stands for."""
        if name not in self._made:
            self._made[name] = ANYTHING  # within itself, a type may be anything
            self._made[name] = self._find(name)
        return self._made[name]

    def _find(self, name: str) -> Any:
        if name in self._classes:
            return self._class(self._classes[name])
        if name in self._imports:
            return self._imported(*self._imports[name])
        if name in self._aliases:
            return self._value(self._aliases[name])
        found = getattr(builtins, name, ANYTHING)
        return found if isinstance(found, type) else ANYTHING

    def _imported(self, module: str, name: str) -> Any:
        if module in KNOWN:
            found = import_module(module)
            return getattr(found, name, ANYTHING) if name else found
        if module not in self._others:
            text = self._source(module) if name else None
            try:
                self._others[module] = Types(ast.parse(text), module, self._source) if text is not None else None
            except SyntaxError:
                self._others[module] = None
        other = self._others[module]
        return other.named(name) if other is not None else ANYTHING

    # --- classes -----------------------------------------------------------------------------------------------------

    def _class(self, node: ast.ClassDef) -> Any:
        bases = [self._value(base) for base in node.bases]
        marks = [self._value(one.func if isinstance(one, ast.Call) else one) for one in node.decorator_list]
        options = {one.arg: _literal(one.value) for one in node.keywords if one.arg}
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
        try:
            if any(base is TypedDict or typing.is_typeddict(base) for base in bases):
                return self._typed_dict(node, bases, fields, options)
            if NamedTuple in bases:
                return self._named_tuple(node, fields)
            if any(isinstance(base, type) and issubclass(base, enum.Enum) for base in bases):
                return _enum(node, bases)
            if any(isinstance(base, type) and issubclass(base, msgspec.Struct) for base in bases):
                made = [self._field(one) for one in fields if not ast.unparse(one.annotation).startswith("ClassVar")]
                space = {"__orig_bases__": tuple(bases)}  # what a generic struct is generic in
                return msgspec.defstruct(
                    node.name, made, bases=tuple(types.resolve_bases(bases)), namespace=space, **_of_struct(options)
                )
            if dataclasses.dataclass in marks:
                return self._dataclass(node, bases, fields)
        except TypeFlawError:
            raise
        except TypeError as error:
            raise TypeFlawError(f"class {node.name}: {_first(error)}") from None
        plain = not marks and not options and all(base is object for base in bases)
        return type(node.name, (), {}) if plain else ANYTHING

    def _field(self, field: ast.AnnAssign) -> Any:
        name = field.target.id  # type: ignore[union-attr]
        hint = self._value(field.annotation)
        return (name, hint) if not _has_default(field) else (name, hint, msgspec.field(default_factory=_nothing))

    def _typed_dict(self, node: ast.ClassDef, bases: list[Any], fields: list[ast.AnnAssign], options: Any) -> Any:
        hints = {one.target.id: self._value(one.annotation) for one in fields}  # type: ignore[union-attr]
        if bases != [TypedDict]:
            return ANYTHING
        make: Any = TypedDict
        return make(node.name, hints, total=options.get("total", True))

    def _named_tuple(self, node: ast.ClassDef, fields: list[ast.AnnAssign]) -> Any:
        space: dict[str, Any] = {"__annotations__": {f.target.id: self._value(f.annotation) for f in fields}}  # type: ignore[union-attr]
        space |= {one.target.id: None for one in fields if one.value is not None}  # type: ignore[union-attr]
        space["__module__"] = __name__
        return types.new_class(node.name, (NamedTuple,), exec_body=lambda body: body.update(space))

    def _dataclass(self, node: ast.ClassDef, bases: list[Any], fields: list[ast.AnnAssign]) -> Any:
        options: dict[str, Any] = {}
        for one in node.decorator_list:
            if isinstance(one, ast.Call):
                options |= {keyword.arg: _literal(keyword.value) for keyword in one.keywords if keyword.arg}
        made = [
            (
                one.target.id,  # type: ignore[union-attr]
                self._value(one.annotation),
                *([dataclasses.field(default=None)] if _has_default(one) else []),
            )
            for one in fields
            if not ast.unparse(one.annotation).startswith("ClassVar")
        ]
        known = {key: options[key] for key in ("kw_only", "frozen") if key in options}
        return dataclasses.make_dataclass(node.name, made, bases=tuple(bases), **known)


def _imports(tree: ast.Module, module: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Return what an imported name stands for: a module and a name in it, empty for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or whole, (whole, "")
        elif isinstance(node, ast.ImportFrom):
            package = module.rsplit(".", node.level)[0] if node.level else ""
            where = ".".join(filter(None, [package, node.module]))
            yield from ((alias.asname or alias.name, (where, alias.name)) for alias in node.names)


def _nothing() -> None:
    """Stands for a default value that is not evaluated."""


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _has_default(field: ast.AnnAssign) -> bool:
    """Return whether a field may be left out: it has a value other than ``field(...)`` without a default."""
    if not isinstance(field.value, ast.Call) or ast.unparse(field.value.func).rpartition(".")[2] != "field":
        return field.value is not None
    return any(keyword.arg in ("default", "default_factory") for keyword in field.value.keywords)


def _of_struct(options: dict[str, Any]) -> dict[str, Any]:
    known = ("kw_only", "array_like", "tag", "tag_field", "omit_defaults", "forbid_unknown_fields", "frozen", "rename")
    return {name: options[name] for name in known if options.get(name) is not None}


def _enum(node: ast.ClassDef, bases: list[Any]) -> Any:
    if not all(isinstance(base, type) for base in bases):
        return ANYTHING
    members: dict[str, Any] = {}
    for line in node.body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            members[line.targets[0].id] = value = _literal(line.value)
            if value is None:
                return ANYTHING
    if not members:
        return ANYTHING
    *mixed, base = bases
    return operator.call(base, node.name, members, **({"type": mixed[0]} if mixed else {}))


def _carried(hint: Any) -> Any:
    """Return the type of a function's result; for ``HttpResp[Task]`` the type Task."""
    from kontract.gateway.http import HttpResp

    if hint is None:
        return type(None)
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    made = [
        (typing.get_args(one) or (Any,))[0] if (typing.get_origin(one) or one) is HttpResp else one for one in members
    ]
    return operator.getitem(typing.Union, tuple(made))


def _flaws(kind: Kind, stored: bool, returned: bool, within: tuple[Kind, ...]) -> Iterator[str]:  # noqa: FBT001
    if any(kind is one for one in within):
        return
    if isinstance(kind, inspect.CustomType) and not returned:
        yield f"{kind.cls.__name__} is not a type that JSON can hold"
    if isinstance(kind, inspect.ExtType) or (stored and isinstance(kind, inspect.RawType)):
        yield f"{type(kind).__name__.removesuffix('Type')} cannot be stored as JSON"
    if isinstance(kind, (inspect.DictType, inspect.FrozenDictType)):
        keys = alternatives(kind.key_type)
        if len(keys) > 1 or not isinstance(keys[0], _KEYS):
            yield "JSON has only string keys, and a string cannot be turned back into this key type: use str keys"
        elif stored and isinstance(keys[0], _SPELLED_KEYS):
            yield "a dict in a row cannot have keys with several spellings, such as Decimal, float, datetime and time"
    if isinstance(kind, (inspect.SetType, inspect.FrozenSetType)) and not _is_hashable(kind.item_type):
        yield "a set cannot hold mutable values such as lists, dicts or classes that are not frozen: use list"
    for part in parts(kind):
        yield from _flaws(part, stored, returned, (*within, kind))


def _is_hashable(kind: Kind) -> bool:
    if isinstance(kind, _CHANGING):
        return False
    if isinstance(kind, (inspect.StructType, inspect.DataclassType)):
        return (typing.get_origin(kind.cls) or kind.cls).__hash__ is not None and _is_frozen(kind.cls)
    return all(map(_is_hashable, parts(kind)))


def _is_frozen(kind: Any) -> bool:
    config = getattr(kind, "__struct_config__", None)
    return config is None or config.frozen or not config.eq


def _first(error: Exception) -> str:
    """Return the first sentence of an error that msgspec or Python raised for a type."""
    return str(error).splitlines()[0].partition(" - type ")[0].rstrip(".:")
