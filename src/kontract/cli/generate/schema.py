"""What both languages use of the OpenAPI document: functions, their arguments, and schemas by identifier."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

SENT = "Input"
"""Suffix of a component that callers send and that differs from the one they receive (kontract.gateway.schemas)."""


class Argument(NamedTuple):
    """One argument of a function."""

    name: str
    schema: dict[str, Any]
    required: bool


class Function(NamedTuple):
    """One function of the application."""

    name: str
    words: str
    arguments: list[Argument]
    result: dict[str, Any]


def functions(document: dict[str, Any]) -> Iterator[Function]:
    """Every backend function, in order of name."""
    for path, methods in document["paths"].items():
        if not path.startswith("/call/"):
            continue
        post = methods["post"]
        body = post["requestBody"]["content"]["application/json"]["schema"]
        arguments = [Argument(name, field, name in body["required"]) for name, field in body["properties"].items()]
        answer = next(iter(post["responses"].values()))["content"]["application/json"]["schema"]
        words = "\n\n".join(filter(None, [post["summary"], post.get("description", "")]))
        name = path.removeprefix("/call/")
        yield Function(name, "" if words == name else words, arguments, answer["properties"]["result"])


def components(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the application, by an identifier."""
    from kontract.gateway.own_operations import ERROR

    for name, schema in document["components"]["schemas"].items():
        if name != ERROR:
            yield type_name(name), schema


def referred(schema: dict[str, Any]) -> str:
    """Return the identifier that a reference means."""
    return type_name(str(schema["$ref"]).rpartition("/")[2])


# What the modules themselves use or define: a struct of the application may be called like it.
_TAKEN = frozenset((
    "Any", "Api", "Array", "Client", "DEFAULTS", "Functions", "Literal", "Map", "NotRequired", "Omit", "Options",
    "Promise", "Record", "Rows", "TypeAlias", "TypeError", "TypedDict", "Union",
))  # fmt: skip


def type_name(name: str) -> str:
    """Return the name of a schema as that of a type in both languages: ``Client`` becomes ``Client_``."""
    found = identifier(name)
    return f"{found}_" if found in _TAKEN else found


def identifier(name: str) -> str:
    """Return a name as an identifier of both languages: ``a.Item`` becomes ``a_Item``."""
    return re.sub(r"\W", "_", name)


def limits(schema: Any) -> str:
    """Return the constraints of a schema beyond its type, and its description, as sentences."""
    if not isinstance(schema, dict):
        return ""
    plain = [one for one in choices(schema) or [] if one.get("type") != "null"]
    said = [limits(plain[0])] if len(plain) == 1 and "$ref" not in plain[0] else []
    asked = [words.format(json.dumps(schema[key], ensure_ascii=False)) for key, words in _LIMITS if key in schema]
    if "pattern" in schema:
        asked.append(f"matches `{schema['pattern']}`")
    if asked:
        text = ", ".join(asked)
        said.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(filter(None, [_sentence(schema.get("description", "")), *said]))


_LIMITS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
    ("multipleOf", "a multiple of {}"),
    ("minLength", "length at least {}"),
    ("maxLength", "length at most {}"),
    ("minItems", "length at least {}"),
    ("maxItems", "length at most {}"),
    ("minProperties", "size at least {}"),
    ("maxProperties", "size at most {}"),
)


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    return words if not words or words[-1] in ".!?" else f"{words}."


def choices(schema: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the alternatives of a schema; None when it has none."""
    found = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if found is None and isinstance(schema.get("type"), list):
        found = [schema | {"type": one} for one in schema["type"]]
    return found
