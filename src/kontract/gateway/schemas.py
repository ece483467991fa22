"""JSON Schemas of the types that callers send and receive, for the OpenAPI document."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from kontract.core.model.fields import without
from kontract.core.model.perms import READ, WRITE

REFERENCE = "#/components/schemas/"

_SENT = "Input"
"""Suffix of a schema that callers send, if it differs from the one they receive."""


def describe(shown: list[Any], sent: list[Any]) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return the schemas of results, those of arguments, and the components that both refer to.

    A component that callers send lacks the fields that they may not write; one that they receive lacks those that they
    may not read. Where the two differ, the first is called ``...Input``, and so is everything that refers to it.
    """
    hints = [hint if _is_described(hint) else Any for hint in (*shown, *sent)]
    # In one pass, so that structs of the same name from different modules are kept apart.
    schemas, components = _usable(msgspec.json.schema_components(hints, ref_template=REFERENCE + "{name}"))
    names = _names(hints)
    readable, writable = (_without(components, names, bit) for bit in (READ, WRITE))
    # A set accepts duplicates but returns each value once.
    writable = _freed(writable)
    differing = {name for name in components if readable[name] != writable[name]}
    while more := {n for n in components if n not in differing and _refers(components[n], differing)}:
        differing |= more
    asked = _reached(schemas[len(shown) :], writable)
    inputs = {f"{name}{_SENT}": _titled(_renamed(writable[name], differing)) for name in differing & asked}
    results = _reached(schemas[: len(shown)], readable) | (asked - differing)
    return (
        list(schemas[: len(shown)]),
        [_renamed(_freed(schema), differing) for schema in schemas[len(shown) :]],
        {name: readable[name] for name in results} | inputs,
    )


def _titled(component: dict[str, Any]) -> dict[str, Any]:
    """Return a component as callers send it, with its own title: generators name classes after it."""
    return component | {"title": f"{component['title']}{_SENT}"} if "title" in component else component


def no_array(schema: Any, components: dict[str, Any]) -> Any:
    """Return the schema of the values that are not arrays; None if all are."""
    if "$ref" in schema:
        target = components[schema["$ref"].removeprefix(REFERENCE)]
        found = no_array(target, components)
        return schema if found == target else found
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            parts = [one for part in schema[word] if (one := no_array(part, components)) is not None]
            return schema | {word: parts} if parts else None
    kinds = schema.get("type", () if "enum" in schema or "const" in schema else _NO_ARRAY)
    if kinds == "array":
        return None
    return schema | {"type": kinds} if kinds is _NO_ARRAY else schema


_NO_ARRAY = ["string", "number", "boolean", "object", "null"]


_VALUES = frozenset({"const", "default", "enum", "examples"})
"""Under these keywords are values, not schemas."""


def _usable(value: Any) -> Any:
    """Return schemas without redundant keywords that client generators cannot read."""
    if isinstance(value, dict):
        made = {key: item if key in _VALUES else _usable(item) for key, item in value.items()}
        if made.get("items") is False and "maxItems" in made:
            del made["items"]
        if made.get("type") == "array" and "items" not in made and "prefixItems" not in made:
            made["items"] = {}
        if isinstance(made.get("enum"), list):
            made |= _by_type(made.pop("enum"))
        return made
    return type(value)(_usable(item) for item in value) if isinstance(value, (list, tuple)) else value


def _by_type(values: list[Any]) -> dict[str, Any]:
    """Return an enum, or several: one for each type of its values."""
    kinds = dict.fromkeys(type(one) for one in values if one is not None)
    if len(kinds) < 2:
        return {"enum": values}
    enums: list[dict[str, Any]] = [{"enum": [one for one in values if type(one) is kind]} for kind in kinds]
    return {"anyOf": enums + [{"type": "null"}] * (None in values)}


def _freed(value: Any) -> Any:
    """Return schemas of what callers send, in which sets may have duplicates."""
    if isinstance(value, dict):
        return {key: _freed(item) for key, item in value.items() if (key, item) != ("uniqueItems", True)}
    return [_freed(item) for item in value] if isinstance(value, list) else value


def _names(hints: list[Any]) -> dict[str, type]:
    """Return the classes by component name; for equal class names msgspec adds the module."""
    kinds = list(_structs(hints))
    references = msgspec.json.schema_components([*hints, *kinds], ref_template="{name}")[0][len(hints) :]
    return {
        reference["$ref"]: typing.get_origin(kind) or kind
        for kind, reference in zip(kinds, references, strict=True)
        if "$ref" in reference
    }


def _without(components: dict[str, Any], names: dict[str, type], bit: int) -> dict[str, Any]:
    """Return the components without the fields whose permission lacks ``bit``."""
    made = dict(components)
    for name, struct in names.items():
        hidden = without(struct, bit)
        component = made[name]
        if "properties" not in component:
            if bit == READ and hidden:
                made[name] = component | {"prefixItems": _nulled(component["prefixItems"], struct, hidden)}
            continue
        properties = {field: kind for field, kind in component["properties"].items() if field not in hidden}
        required = [field for field in component.get("required", []) if field not in hidden]
        if bit == READ and issubclass(struct, msgspec.Struct) and not struct.__struct_config__.omit_defaults:
            # Callers receive all fields, even those that they may omit when sending.
            maybe = {field.encode_name for field in msgspec.structs.fields(struct) if field.default is msgspec.UNSET}
            required = [field for field in properties if field not in maybe]
        made[name] = component | {"properties": properties, "required": required}
    return made


def _nulled(items: list[Any], struct: type, hidden: frozenset[str]) -> list[Any]:
    """Return the items of a struct that is an array; hidden items are null."""
    names = [field.encode_name for field in msgspec.structs.fields(struct)]
    names = [""] * (len(items) - len(names)) + names  # a tag comes first
    return [{"type": "null"} if name in hidden else item for name, item in zip(names, items, strict=True)]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item.removeprefix(REFERENCE)
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _refers(value: Any, names: set[str]) -> bool:
    return any(name in names for name in _references(value))


def _reached(schemas: Iterable[Any], components: dict[str, Any]) -> set[str]:
    """Return the names of all components that the schemas refer to, also by others."""
    found: set[str] = set()
    waiting = [name for schema in schemas for name in _references(schema)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(components[name])
    return found


def _renamed(value: Any, names: set[str]) -> Any:
    """Return the value with references to ``names`` as callers send them."""
    if isinstance(value, dict):
        return {
            key: f"{item}{_SENT}" if key == "$ref" and item.removeprefix(REFERENCE) in names else _renamed(item, names)
            for key, item in value.items()
        }
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value


def _is_described(hint: Any) -> bool:
    """Return whether msgspec has a schema for a type: results may be of types that it can only write."""
    try:
        msgspec.json.schema(hint)
    except (TypeError, NotImplementedError):
        return False
    return True


def _structs(hints: Iterable[Any]) -> Iterator[Any]:
    """Return every struct and dataclass within the types once; generic ones as they are used."""
    seen: set[int] = set()
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(hints))
    while waiting:
        kind = waiting.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, (msgspec.inspect.StructType, msgspec.inspect.DataclassType)):
            yield kind.cls
        for name in getattr(kind, "__struct_fields__", ()):
            part = getattr(kind, name)
            parts = part if isinstance(part, tuple) else (part,)
            waiting += [getattr(one, "type", one) for one in parts if isinstance(one, msgspec.Struct)]
