"""Which names an annotation may use: those that exist once the module has been imported."""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Iterator

from kontract.cli.build import modules
from kontract.cli.build.declared import WrongError


class Names:
    """The names at the top of a module."""

    def __init__(self, tree: ast.Module) -> None:
        """Collect them, without importing the application."""
        self.known: set[str] = set()
        self.for_checkers: set[str] = set()  # below `if TYPE_CHECKING:`
        self._origins: dict[str, str | None] = {}  # what an import binds, "datetime" or "datetime.date"
        self._literals: set[str] = {"Literal"}  # what Literal is called here
        self._open = False  # `from x import *`: anything may be there
        self._collect(tree.body, self.known)

    def check(self, annotation: ast.expr, line: int, what: str) -> Iterator[WrongError]:
        """Yield an error for each name that does not exist when calls are validated against the annotation."""
        told: set[str] = set()
        for dotted, at in _used(annotation, line, self._literals):
            if isinstance(dotted, WrongError):
                yield dotted
            elif dotted not in told:
                told.add(dotted)
                yield from self._wrong(dotted, at, what)

    def origin(self, name: str) -> str | None:
        """Return what an import gives this name, "kontract.perm"; None for what is not imported, or more than once."""
        return self._origins.get(name)

    def _wrong(self, dotted: str, at: int, what: str) -> Iterator[WrongError]:
        name, _, rest = dotted.partition(".")
        if name in self.known:
            origin = self._origins.get(name)
            if origin is not None:
                yield from _lacking([*origin.split("."), *filter(None, rest.split("."))], at, what)
        elif name in self.for_checkers:
            yield WrongError(
                at,
                f"{what}: {name} is only imported under `if TYPE_CHECKING:`.",
                "Import it without the condition: calls are validated against it at run time.",
            )
        elif not hasattr(builtins, name) and not self._open:
            hint = _hint(name, [*self.known, *dir(builtins)])
            yield WrongError(at, f"{what}: {name} is not defined.{hint}", "Import it, or define it in this module.")

    def _bind(self, name: str, found: set[str], origin: str | None = None) -> None:
        if found is self.known:
            again = name in found and self._origins.get(name) != origin
            self._origins[name] = None if again else origin
        found.add(name)

    def _collect(self, body: list[ast.stmt], found: set[str]) -> None:
        for node in body:
            match node:
                case ast.Import():
                    for alias in node.names:
                        first = alias.name.partition(".")[0]
                        self._bind(alias.asname or first, found, alias.name if alias.asname else first)
                case ast.ImportFrom():
                    for alias in node.names:
                        self._open |= alias.name == "*"
                        origin = f"{node.module}.{alias.name}" if node.module and not node.level else None
                        self._bind(alias.asname or alias.name, found, origin)
                        if alias.name == "Literal" and alias.asname:
                            self._literals.add(alias.asname)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self._bind(node.name, found)
                case ast.If():
                    checkers = ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
                    self._collect(node.body, self.for_checkers if checkers else found)
                    self._collect(node.orelse, found)
                case ast.Try() | ast.With() | ast.For() | ast.While() | ast.Match():
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.stmt) and inner is not node:
                            self._collect([inner], found)
                case _:
                    # Assignments, `type` statements of Python 3.12, `del` and the like: whatever is bound.
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                            self._bind(inner.id, found)


def _lacking(path: list[str], at: int, what: str) -> Iterator[WrongError]:
    """Yield an error for the first attribute of a dotted name that is known not to exist."""
    lacking = modules.lacking(path)
    if lacking is None:
        return
    holder, attribute, others = lacking
    hint = _hint(attribute, others)
    yield WrongError(at, f"{what}: {holder} has no attribute {attribute}.{hint}", "Correct the name.")


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {near[0]}?" if near else ""


def _used(annotation: ast.expr, line: int, literals: set[str]) -> Iterator[tuple[str | WrongError, int]]:
    """Return the names in an annotation with their attributes, also in a quoted one, but not a Literal's strings."""
    match annotation:
        case ast.Constant(value=str(text)):
            try:
                quoted = ast.parse(text, mode="eval").body
            except SyntaxError:
                yield WrongError(line, f"the type {text!r} is not valid Python.", "Correct it."), line
            else:
                yield from ((name, line) for name, _ in _used(quoted, line, literals))
        case ast.Name() | ast.Attribute():
            yield from _mentioned(annotation)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name)) if name in literals:
            yield from _used(annotation.value, line, literals)
        case ast.Subscript(
            value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=parts)
        ):
            yield from _used(annotation.value, line, literals)
            yield from _used(parts[0], line, literals)
            for part in parts[1:]:
                inside = list(ast.walk(part))
                # Of a comprehension, and of a lambda.
                own = {one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
                own |= {one.arg for one in inside if isinstance(one, ast.arg)}
                yield from ((name, at) for name, at in _mentioned(part) if name.partition(".")[0] not in own)
        case _:
            for inner in ast.iter_child_nodes(annotation):
                if isinstance(inner, ast.expr):
                    yield from _used(inner, line, literals)


def _mentioned(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name in an expression, with the attributes that follow it: "datetime.date"."""
    rest: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        rest.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield ".".join([inner.id, *reversed(rest)]), inner.lineno
        return
    for child in ast.iter_child_nodes(inner if rest else node):
        yield from _mentioned(child)
