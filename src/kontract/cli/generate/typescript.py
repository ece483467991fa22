"""A TypeScript module: types of every function and table, on top of public/kontract.js."""

from __future__ import annotations

import json
import re
from typing import Any

from kontract.cli.generate.schema import Function, choices, components, functions, identifier, limits, referred

_HEADER = """\
// Made by `kontract generate ts` from the functions in src/app. Do not edit it: `kontract build --check` fails when
// it is out of date. It belongs beside kontract.js, kontract.d.ts and kontract/.

import { connect as open } from "./kontract.js";
import type { Client, Options } from "./kontract.js";

"""

_FOOTER = """\
/** A client of this backend: each function under its own name, and what every client has. */
export type Api = Omit<Functions, keyof Client<Rows>> & Client<Rows>;

/** Returns a client; see `connect` of kontract.js. An integer too large for a number is an error, never rounded. */
export function connect(options: Omit<Options, "bigint"> = {}): Api {
  return open({ defaults: DEFAULTS, ...options }) as unknown as Api;
}
"""

_DEFAULTS = """\
// Defaults of omitted arguments. A call is an array, so a default before a later argument is sent.
const DEFAULTS = new Map<string, readonly unknown[]>(["""

_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def render(document: dict[str, Any]) -> str:
    """Return the module for an OpenAPI document of `kontract.gateway.openapi`."""
    parts = [_HEADER]
    for name, schema in components(document):
        parts.append(_component(name, schema))
    rows = [f"  {_key(name)}: {_type(schema)};" for name, schema in document["x-kontract-rows"].items()]
    parts.append("/** The rows of each table whose changes can be listened to. */\n" + _interface("Rows", rows))
    lines: list[str] = []
    defaults: list[str] = []
    for function in functions(document):
        arguments = [
            f"{_parameter(argument.name)}{'' if argument.required else '?'}: {_sent(argument.schema)}"
            for argument in function.arguments
        ]
        lines += _words(_described(function), "  ")
        lines.append(f"  {_key(function.name)}({', '.join(arguments)}): Promise<{_type(function.result)}>;")
        if not all(argument.required for argument in function.arguments):
            values = [_default(argument.schema) for argument in function.arguments]
            defaults.append(f"  [{json.dumps(function.name)}, [{', '.join(values)}]],")
    parts.append("/** The functions of src/app. */\n" + _interface("Functions", lines))
    parts.append("\n".join([_DEFAULTS, *defaults, "]);", ""]))
    return "\n".join([*parts, _FOOTER]).replace("\n\n\n", "\n\n")


def _component(name: str, schema: dict[str, Any]) -> str:
    words = _words("\n".join(filter(None, [schema.get("description", ""), limits({**schema, "description": ""})])), "")
    if schema.get("type") == "object" and "properties" in schema:
        required = schema.get("required", [])
        lines = []
        for field, kind in schema["properties"].items():
            lines += _words(limits(kind), "  ")
            lines.append(f"  {_key(field)}{'' if field in required else '?'}: {_type(kind)};")
        return "\n".join([*words, _interface(name, lines)])
    return "\n".join([*words, f"export type {name} = {_type(schema)};", ""])


def _described(function: Function) -> str:
    """Return the function's docstring with the constraints of each parameter."""
    asked = [(_parameter(one.name), limits(one.schema)) for one in function.arguments]
    told = "\n".join(f"@param {name} {words}" for name, words in asked if words)
    return "\n\n".join(filter(None, [function.words, told]))


def _default(schema: dict[str, Any]) -> str:
    return json.dumps(schema["default"]) if "default" in schema else "undefined"


def _interface(name: str, lines: list[str]) -> str:
    return "\n".join([f"export interface {name} {{", *lines, "}", ""])


def _words(text: str, indent: str) -> list[str]:
    """Return a comment, or nothing when there are no words."""
    lines = text.strip().replace("*/", "* /").splitlines()
    if not lines:
        return []
    if len(lines) == 1:
        return [f"{indent}/** {lines[0]} */"]
    return [f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */"]


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "unknown"
    if "$ref" in schema:
        return referred(schema)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if (alternatives := choices(schema)) is not None:
        return " | ".join(dict.fromkeys(_type(one) for one in alternatives))
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
        case "array":
            return f"Array<{_type(schema.get('items'))}>"
        case "object" if "properties" in schema:
            required = schema.get("required", [])
            fields = [f"{_key(n)}{'' if n in required else '?'}: {_type(k)}" for n, k in schema["properties"].items()]
            return f"{{ {'; '.join(fields)} }}"
        case "object":
            return f"Record<string, {_type(schema.get('additionalProperties'))}>"
        case str(kind):
            return _PLAIN.get(kind, "unknown")
    return "unknown"


def _sent(schema: Any) -> str:
    """Return the type of an argument: integers that a number cannot hold are sent as BigInt."""
    kinds = _type(schema).split(" | ")
    whole = {one.get("type") for one in choices(schema) or [schema]}
    if "integer" in whole and "number" not in whole and "number" in kinds:
        kinds.insert(kinds.index("number") + 1, "bigint")
    return " | ".join(kinds)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else json.dumps(name)


# Words that cannot name a parameter in a module.
_RESERVED = frozenset((
    "arguments", "await", "break", "case", "catch", "class", "const", "continue", "debugger", "default",
    "delete", "do", "else", "enum", "eval", "export", "extends", "false", "finally", "for", "function", "if",
    "implements", "import", "in", "instanceof", "interface", "let", "new", "null", "package", "private",
    "protected", "public", "return", "static", "super", "switch", "this", "throw", "true", "try", "typeof",
    "var", "void", "while", "with", "yield",
))  # fmt: skip


def _parameter(name: str) -> str:
    return f"{name}_" if name in _RESERVED else identifier(name)
