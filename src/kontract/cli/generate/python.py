"""A Python module for callers: the client of `kontract.client` with a typed method for every function."""

from __future__ import annotations

import json
import keyword
import re
from typing import Any

from kontract.cli.generate.schema import SENT, Function, choices, components, functions, identifier, referred

_HEADER = '''\
"""Made by `kontract generate py` from the functions in src/app. Do not edit it.

`kontract build --check` fails when it is out of date.
"""

# ruff: noqa
from __future__ import annotations

from collections.abc import Mapping as _Mapping, Sequence as _Sequence
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias, TypedDict, Union, cast as _cast

from kontract.client import Client

if TYPE_CHECKING:
    from typing_extensions import ReadOnly as _ReadOnly
else:
    _ReadOnly = Union  # of one type: the type itself

_OMITTED: Any = object()


def _given(*arguments: tuple[str, Any, Any]) -> list[Any]:
    """Return the arguments up to the last one that was passed; omitted ones before it get their defaults."""
    count = max((at for at, (_, one, _) in enumerate(arguments, 1) if one is not _OMITTED), default=0)
    values = [(name, default if one is _OMITTED else one) for name, one, default in arguments[:count]]
    for name, value in values:
        if value is _OMITTED:
            raise TypeError(f"{name} is required when a later argument is passed")
    return [value for _, value in values]


'''


class _Unknown:
    def __repr__(self) -> str:
        return "_OMITTED"


_UNKNOWN = _Unknown()
"""Stands for a default that JSON cannot express."""

_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def render(document: dict[str, Any]) -> str:
    """Return the module for an OpenAPI document of `kontract.gateway.openapi`."""
    from kontract.client import Client

    # Methods of the client, and what annotations in the class mean.
    taken = {name for name in dir(Client) if not name.startswith("__")} | set(_PLAIN.values()) | {"list", "dict"}
    found = dict(components(document))
    sent = frozenset(name for name in found if name.endswith(SENT) and name.removesuffix(SENT) in found)
    named = [_component(name, schema, sent) for name, schema in found.items()]
    methods = []
    for function in functions(document):
        name, method = _method(function, taken, sent)
        taken.add(name)  # `a-b` and `a_b` are one name here
        methods.append(method)
    body = "\n".join(methods) or "    pass\n"
    return f'{_HEADER}{"".join(named)}class Api(Client):\n    """A client with the functions of src/app."""\n\n{body}'


def _component(name: str, schema: dict[str, Any], sent: frozenset[str]) -> str:
    """Return the class of a component. A component that callers send also accepts what calls return, with more fields.

    So its fields are read-only for type checkers: a field that may be missing is not one that may be removed.
    """
    if schema.get("type") == "object" and "properties" in schema:
        required = schema.get("required", [])
        fields = {
            field: _type(kind, sent) if field in required else f"NotRequired[{_type(kind, sent)}]"
            for field, kind in schema["properties"].items()
        }
        if name in sent:
            fields = {field: f"_ReadOnly[{kind}]" for field, kind in fields.items()}
        if all(field.isidentifier() and not keyword.iskeyword(field) for field in fields):
            lines = [f"    {field}: {kind}" for field, kind in fields.items()] or ["    pass"]
            words = _docstring(schema.get("description", ""), "    ")
            return "\n".join([f"class {name}(TypedDict):", *words, *lines, "", "", ""])
        written = ", ".join(f"{json.dumps(field)}: {json.dumps(kind)}" for field, kind in fields.items())
        return f'{name} = TypedDict("{name}", {{{written}}})\n\n\n'
    return f"{name}: TypeAlias = {json.dumps(_type(schema, sent))}\n\n\n"


def _method(function: Function, taken: set[str], sent: frozenset[str]) -> tuple[str, str]:
    name = identifier(function.name)
    while keyword.iskeyword(name) or name in taken or name[0].isdigit():
        name = f"{name}_"
    names = [_parameter(argument.name) for argument in function.arguments]
    parameters = [
        f"{as_written}: {_type(argument.schema, sent)}{'' if argument.required else ' = _OMITTED'}"
        for as_written, argument in zip(names, function.arguments, strict=True)
    ]
    result = _type(function.result)
    lines = [f"    async def {name}({', '.join(['self', *parameters])}) -> {result}:"]
    lines += _docstring(function.words, "        ")
    # A call is an array: to pass a later argument, a client has to send the ones before it, too.
    given = [
        f'("{as_written}", {as_written}, {argument.schema.get("default", _UNKNOWN)!r})'
        for as_written, argument in zip(names, function.arguments, strict=True)
    ]
    call = f'await self.call("{function.name}", *_given({", ".join(given)}))'
    lines.append(f"        return _cast({json.dumps(result)}, {call})" if result != "Any" else f"        return {call}")
    return name, "\n".join([*lines, ""])


def _docstring(text: str, indent: str) -> list[str]:
    lines = text.strip().replace("\\", "\\\\").replace('"""', "'''").splitlines()
    if not lines:
        return []
    if len(lines) == 1 and not lines[0].endswith('"'):
        return [f'{indent}"""{lines[0]}"""', *([""] if indent == "    " else [])]
    return [f'{indent}"""{lines[0]}', *(f"{indent}{line}".rstrip() for line in lines[1:]), f'{indent}"""']


def _type(schema: Any, sent: frozenset[str] = frozenset()) -> str:
    """Return a type. Collections of ``sent`` types also accept returned ones, so they are Sequence or Mapping."""
    if not isinstance(schema, dict):
        return "Any"
    if "$ref" in schema:
        return referred(schema)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return f"Literal[{', '.join(repr(value) for value in values)}]"
    if (alternatives := choices(schema)) is not None:
        kinds = list(dict.fromkeys(_type(one, sent) for one in alternatives))
        return kinds[0] if len(kinds) == 1 else f"Union[{', '.join(kinds)}]"
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return "list[Any]"  # JSON has no tuples
        case "array":
            item = _type(schema.get("items"), sent)
            return f"{'_Sequence' if _names(item) & sent else 'list'}[{item}]"
        case "object" if "properties" in schema:
            return "dict[str, Any]"
        case "object":
            item = _type(schema.get("additionalProperties"), sent)
            return f"{'_Mapping' if _names(item) & sent else 'dict'}[str, {item}]"
        case str(kind):
            return _PLAIN.get(kind, "Any")
    return "Any"


def _names(kind: str) -> set[str]:
    return set(re.findall(r"\w+", kind))


def _parameter(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) or name == "self" else re.sub(r"\W", "_", name)
