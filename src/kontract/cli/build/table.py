"""The text of src/routes.py."""

from __future__ import annotations

import json

from kontract.cli.build.declared import Declared

_HEADER = '''"""The route table, written by `kontract build` from src/app. Do not edit or commit it."""

from kontract.gateway.routes import Route, RowStruct

'''


def render(declared: list[Declared]) -> str:
    """The Python module; the same declarations always give the same text."""
    middleware = [one for one in declared if one.kind == "middleware"]
    return _module(
        [_route(one, middleware) for one in declared if one.kind == "backend"],
        [_row_struct(one) for one in declared if one.kind == "table"],
        "",
    )


def render_broken(told: str) -> str:
    """A module without functions; the gateway then answers every call with what is wrong with the application."""
    return _module([], [], told)


def _module(routes: list[str], tables: list[str], broken: str) -> str:
    lines = [_HEADER + "ROUTES = {", *routes, "}", "", "TABLES = {", *tables, "}"]
    lines += ["", f"BROKEN = {_quoted(broken)}", ""]
    return "\n".join(lines)


def _route(one: Declared, middleware: list[Declared]) -> str:
    chain = tuple(f"{each.module}:{each.attribute}" for each in middleware if each.around and each.around.fits(one))
    arguments = tuple((argument.name, argument.type, argument.required) for argument in one.arguments)
    fields = [
        *map(_quoted, (one.name, one.module, one.attribute)),
        *([f"middleware={chain!r}"] if chain else []),
        f"where={_quoted(one.where)}",
        f"perm={one.perm}",
        *([f"ugroup={_quoted(one.ugroup)}"] if one.ugroup is not None else []),
        *(["public=True"] if one.public else []),
        *([f"arguments={arguments!r}"] if arguments else []),
    ]
    return f"    {_quoted(one.name)}: Route({', '.join(fields)}),"


def _row_struct(one: Declared) -> str:
    fields = ", ".join(map(_quoted, (one.name, one.module, one.attribute, one.where)))
    return f"    {_quoted(one.name)}: RowStruct({fields}),"


def _quoted(text: str) -> str:
    """Quote as a formatter would."""
    return json.dumps(text, ensure_ascii=False)
