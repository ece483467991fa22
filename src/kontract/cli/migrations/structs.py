"""Reads the application's ``@table`` structs from the source, as `kontract build` does.

It does not import them: a check in CI, and every start of `make dev`, must neither run the application nor need its
packages. The price: a type from another module is known only by name.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from kontract.cli.build import scan

Table = dict[str, Any]
"""``{"fields": {name: {"type": text, "default": text or None}}, "rows": "all", "stream": true, "options": {...}}``"""

_WITHOUT_MEANING = ("frozen", "kw_only", "order", "eq", "gc", "weakref", "dict", "cache_hash", "repr_omit_defaults")
# Options of a struct that do not affect what is stored.


def read(source: Path) -> dict[str, Table]:
    """Return the tables declared below ``source``/app by name; a Problem names the line of a mistake."""
    if not (source / "app").is_dir():
        return {}
    found = {}
    for one in scan(source):
        if one.kind == "table":
            path = source.parent / one.where.rpartition(":")[0]
            found[one.name] = _Module(ast.parse(path.read_text())).table(one.attribute)
    return found


class _Module:
    def __init__(self, tree: ast.Module) -> None:
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._aliases: dict[str, ast.expr] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._aliases[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self._aliases[node.target.id] = node.value

    def table(self, attribute: str) -> Table:
        node = self._classes[attribute]
        given: dict[str, Any] = {"rows": "all", "stream": True}
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call):
                for keyword in decorator.keywords:
                    if keyword.arg in given:
                        given[keyword.arg] = _literal(keyword.value)
        options = {
            keyword.arg: _literal(keyword.value)
            for keyword in node.keywords
            if keyword.arg and keyword.arg not in _WITHOUT_MEANING
        }
        bases = [ast.unparse(base) for base in node.bases]
        unknown = [base for base in bases if base not in self._classes and base.split(".")[-1] != "Struct"]
        if unknown:
            options["bases"] = unknown
        return {"fields": self._fields(node, ()), **given, "options": options}

    def _fields(self, node: ast.ClassDef, within: tuple[str, ...]) -> dict[str, dict[str, str | None]]:
        fields: dict[str, dict[str, str | None]] = {}
        for base in node.bases:
            name = ast.unparse(base)
            if name in self._classes and name not in within:
                fields |= self._fields(self._classes[name], (*within, node.name))
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                kind = self._type(line.annotation)
                if not kind.startswith("ClassVar"):
                    default = None if line.value is None else ast.unparse(line.value)
                    fields[line.target.id] = {"type": kind, "default": default}
        return fields

    def _type(self, annotation: ast.expr) -> str:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        return ast.unparse(_Expanded(self._aliases, ()).visit(ast.parse(ast.unparse(annotation), mode="eval").body))


class _Expanded(ast.NodeTransformer):
    """Replaces names of types from the same module by their definitions, so that changes in them are noticed."""

    def __init__(self, aliases: dict[str, ast.expr], within: tuple[str, ...]) -> None:
        self._aliases = aliases
        self._within = within

    def visit_Name(self, node: ast.Name) -> ast.expr:
        alias = self._aliases.get(node.id)
        if alias is None or node.id in self._within:
            return node
        copy = ast.parse(ast.unparse(alias), mode="eval").body
        expanded: ast.expr = _Expanded(self._aliases, (*self._within, node.id)).visit(copy)
        return expanded


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return ast.unparse(value)
