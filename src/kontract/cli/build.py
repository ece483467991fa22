"""`kontract build`: find what src/app declares and write the route table that the gateway reads.

The application is read, not imported: building must not run its code, and must work where its packages are missing. So
names in decorators have to be literals.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say

HEADER = '''"""The route table, written by `kontract build` from src/app. Not to be edited, and not committed."""

from kontract.gateway.routes import Route, RowStruct

'''


@dataclass(frozen=True)
class Around:
    """Which functions a middleware is for: those that all of what it names fits."""

    prefixurl: str | None
    egroup: str | None
    endpoints: tuple[str, ...] | None

    def fits(self, function: Declared) -> bool:
        """Whether it runs around ``function``."""
        return (
            (self.prefixurl is None or f"/rpc/{function.name}".startswith(self.prefixurl))
            and (self.egroup is None or self.egroup == function.egroup)
            and (self.endpoints is None or function.name in self.endpoints)
        )


@dataclass(frozen=True)
class Declared:
    """One decorated function or class. ``egroup`` is a function's, ``around`` a middleware's."""

    kind: str
    name: str
    module: str
    attribute: str
    where: str
    egroup: str | None = None
    around: Around | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace) -> int:
    del args
    source = Checkout.find().root / "src"
    declared = scan(source)
    text = render(declared)
    target = source / "routes.py"
    # wrangler watches src/: writing the same text again would make it build for ever.
    if not target.is_file() or target.read_text() != text:
        write_atomically(target, text)
    count = Counter(one.kind for one in declared)
    say(f"kontract build: {count['backend']} functions, {count['table']} tables, {count['middleware']} middleware")
    return 0


def scan(source: Path) -> list[Declared]:
    """Everything declared below src/app, in order of name; a Problem names the file and line of a mistake."""
    found: dict[tuple[str, str], Declared] = {}
    middleware: list[Declared] = []
    for path in sorted((source / "app").rglob("*.py")):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for one in _declarations(path, module, path.relative_to(source.parent).as_posix()):
            if one.kind == "middleware":
                middleware.append(one)
                continue
            earlier = found.setdefault((one.kind, one.name), one)
            if earlier is not one:
                raise Problem(
                    f"{one.where}: there are two of {one.kind} {one.name!r}; the other is at {earlier.where}.",
                    "Rename one of them.",
                )
    functions = {name: one for (kind, name), one in found.items() if kind == "backend"}
    for one in middleware:
        assert one.around is not None
        for name in one.around.endpoints or ():
            if name not in functions:
                raise Problem(f"{one.where}: there is no function {name!r}.", "Correct the name in endpoints=.")
        if functions and not any(one.around.fits(function) for function in functions.values()):
            # A guard with a slip of the pen would guard nothing, and nobody would notice.
            raise Problem(
                f"{one.where}: there is no function that this middleware is for.",
                "Correct prefixurl=, egroup= or endpoints=; a function must fit all that are given.",
            )
    # Middleware stays in the order of its definition, file after file: that is the order in which it runs.
    return sorted(found.values(), key=lambda one: (one.kind, one.name)) + middleware


def render(declared: list[Declared]) -> str:
    """The Python module; the same declarations always give the same text."""
    lines = [HEADER + "ROUTES = {"]
    middleware = [one for one in declared if one.kind == "middleware"]
    lines += [_line("Route", one, _chain(one, middleware)) for one in declared if one.kind == "backend"]
    lines += ["}", "", "TABLES = {"]
    lines += [_line("RowStruct", one) for one in declared if one.kind == "table"]
    lines += ["}", ""]
    return "\n".join(lines)


def _line(kind: str, one: Declared, chain: str = "") -> str:
    return f'    "{one.name}": {kind}("{one.name}", "{one.module}", "{one.attribute}"{chain}),'


def _chain(function: Declared, middleware: list[Declared]) -> str:
    """Return the last argument of a Route, for a function that has middleware."""
    around = [f'"{one.module}:{one.attribute}",' for one in middleware if one.around and one.around.fits(function)]
    return f", ({' '.join(around)})" if around else ""


def _declarations(path: Path, module: str, shown: str) -> Iterator[Declared]:
    try:
        tree = ast.parse(path.read_text(), filename=shown)
    except SyntaxError as error:
        raise Problem(
            f"{shown}:{error.lineno}: {error.msg}.", "Correct the line and save; it is built again."
        ) from None
    _check_in_sight(tree, shown)
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from _assigned(node, module, f"{shown}:{node.lineno}")
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for decorator in node.decorator_list:
            kind = _decorator_name(decorator)
            where = f"{shown}:{node.lineno}"
            if kind == "backend":
                yield _function(node, decorator, module, where)
            elif kind == "table":
                yield _table(node, decorator, module, where)
            elif kind == "middleware":
                if not isinstance(node, ast.AsyncFunctionDef) or not isinstance(decorator, ast.Call):
                    raise Problem(
                        f"{where}: @middleware stands on an async function, with parentheses.",
                        'Write @middleware(egroup="api-v1") above async def log(ctx: Context, call_next).',
                    )
                yield _middleware(decorator, module, node.name, where)


def _check_in_sight(tree: ast.Module, shown: str) -> None:
    """Refuse what would not be found below: a guard that is written down must not be left out without a word."""
    seen: set[ast.AST] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            seen.add(node.value.func)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            seen.update(node.decorator_list)
    for inside in ast.walk(tree):
        if isinstance(inside, ast.ImportFrom) and (inside.module or "").partition(".")[0] == "kontract":
            for name in inside.names:
                if name.name in ("backend", "table", "middleware") and name.asname not in (None, name.name):
                    raise Problem(
                        f"{shown}:{inside.lineno}: {name.name} is imported as {name.asname}.",
                        "The application is read, not run: import it under its own name.",
                    )
        if isinstance(inside, ast.Call) and _decorator_name(inside) == "middleware" and inside not in seen:
            raise Problem(
                f"{shown}:{inside.lineno}: middleware stands at the top of a module, above a function or with a name.",
                "Write limit = middleware(...)(...), or @middleware(...) above async def.",
            )


def _assigned(node: ast.Assign, module: str, where: str) -> Iterator[Declared]:
    """Find ``limit = middleware(egroup="x")(rate_limit(10))``: middleware that comes from somewhere else."""
    value = node.value
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Call):
        return
    if _decorator_name(value.func) == "middleware":
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise Problem(f"{where}: middleware needs a name.", "Write limit = middleware(...)(...).")
        yield _middleware(value.func, module, node.targets[0].id, where)


def _middleware(call: ast.Call, module: str, attribute: str, where: str) -> Declared:
    around = Around(
        _keyword(call, "prefixurl", where), _keyword(call, "egroup", where), _names(call, "endpoints", where)
    )
    if call.args or around == Around(None, None, None):
        raise Problem(
            f"{where}: middleware must say what it is for.",
            'Write middleware(prefixurl="/rpc"), middleware(egroup="...") or middleware(endpoints=["..."]).',
        )
    return Declared("middleware", attribute, module, attribute, where, around=around)


def _names(call: ast.Call, name: str, where: str) -> tuple[str, ...] | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            try:
                value = ast.literal_eval(keyword.value)
            except ValueError:
                value = 0
            if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
                return tuple(value)
            raise Problem(f"{where}: {name}= must be a list of strings in quotes.", "The application is read, not run.")
    return None


def _decorator_name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


def _function(node: ast.stmt, decorator: ast.expr, module: str, where: str) -> Declared:
    if not isinstance(decorator, ast.Call):
        raise Problem(f"{where}: @backend needs parentheses.", "Write @backend().")
    if not isinstance(node, ast.AsyncFunctionDef):
        raise Problem(f"{where}: a backend function must be async.", "Write async def.")
    unannotated = [
        argument.arg
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.annotation is None
    ]
    if unannotated:
        raise Problem(
            f"{where}: parameter {unannotated[0]} of {node.name} has no type.",
            "Annotate it; calls are validated by it.",
        )
    late = _required_after_optional(node.args)
    if late is not None:
        raise Problem(
            f"{where}: parameter {late} of {node.name} has no default but follows one that has.",
            "The arguments of a call have an order: put the parameters without a default first.",
        )
    if node.args.vararg or node.args.kwarg:
        raise Problem(f"{where}: {node.name} takes * or ** parameters.", "Name its parameters.")
    name = _keyword(decorator, "name", where) or node.name
    return Declared("backend", name, module, node.name, where, egroup=_keyword(decorator, "egroup", where))


def _required_after_optional(arguments: ast.arguments) -> str | None:
    """Return the first keyword-only parameter that is required after one that is not; Python itself allows it."""
    optional = bool(arguments.defaults)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None and optional and not _is_context(argument):
            return argument.arg
        optional = optional or default is not None
    return None


def _is_context(argument: ast.arg) -> bool:
    return ast.unparse(argument.annotation).split(".")[-1] == "Context" if argument.annotation is not None else False


def _table(node: ast.stmt, decorator: ast.expr, module: str, where: str) -> Declared:
    if not isinstance(node, ast.ClassDef) or not isinstance(decorator, ast.Call) or not decorator.args:
        raise Problem(f"{where}: @table takes the table's name and stands on a class.", 'Write @table("tasks").')
    name = decorator.args[0]
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        raise Problem(f"{where}: the name of a table must be a string in quotes.", 'Write @table("tasks").')
    return Declared("table", name.value, module, node.name, where)


def _keyword(call: ast.Call, name: str, where: str) -> str | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            value = keyword.value
            if isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, str)):
                return value.value
            raise Problem(f"{where}: {name}= must be a string in quotes.", "The application is read, not run.")
    return None
