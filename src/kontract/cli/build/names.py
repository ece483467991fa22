"""Which names an annotation may use: those that are there when the module has been imported."""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Iterator

from kontract.cli.build.declared import WrongError


class Names:
    """The names at the top of a module."""

    def __init__(self, tree: ast.Module) -> None:
        """Collect them, without importing anything."""
        self.known: set[str] = set()
        self.for_checkers: set[str] = set()  # below `if TYPE_CHECKING:`
        self._open = False  # `from x import *`: anything may be there
        self._collect(tree.body, self.known)

    def check(self, annotation: ast.expr, line: int, what: str) -> None:
        """Refuse an annotation with a name that is not there when calls are validated by it."""
        for name, at in _used(annotation, line):
            if name in self.known or hasattr(builtins, name) or (self._open and name not in self.for_checkers):
                continue
            if name in self.for_checkers:
                raise WrongError(
                    at,
                    f"{what}: {name} is imported below `if TYPE_CHECKING:` only.",
                    "Calls are validated by it at run time: import it without the condition.",
                )
            near = difflib.get_close_matches(name, [*self.known, *dir(builtins)], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise WrongError(at, f"{what}: there is no {name}.{hint}", "Import it, or define it in this module.")

    def _collect(self, body: list[ast.stmt], found: set[str]) -> None:
        for node in body:
            match node:
                case ast.Import() | ast.ImportFrom():
                    for alias in node.names:
                        self._open |= alias.name == "*"
                        found.add(alias.asname or alias.name.partition(".")[0])
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.add(node.name)
                case ast.If():
                    checkers = ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
                    self._collect(node.body, self.for_checkers if checkers else found)
                    self._collect(node.orelse, found)
                case ast.Try() | ast.With() | ast.For() | ast.While():
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.stmt) and inner is not node:
                            self._collect([inner], found)
                case _:
                    # Assignments, `type` statements of Python 3.12, `del` and the like: whatever is bound.
                    found.update(
                        inner.id
                        for inner in ast.walk(node)
                        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
                    )


def _used(annotation: ast.expr, line: int) -> Iterator[tuple[str, int]]:
    """The names in an annotation, also of one in quotes; a Literal's strings are none."""
    match annotation:
        case ast.Constant(value=str(text)):
            try:
                quoted = ast.parse(text, mode="eval").body
            except SyntaxError:
                raise WrongError(line, f"the type {text!r} cannot be read.", "Write it as Python.") from None
            yield from ((name, line) for name, _ in _used(quoted, line))
        case ast.Name():
            yield annotation.id, annotation.lineno
        case ast.Subscript(value=ast.Name(id="Literal") | ast.Attribute(attr="Literal")):
            yield from _used(annotation.value, line)
        case ast.Subscript(
            value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=parts)
        ):
            yield from _used(annotation.value, line)
            yield from _used(parts[0], line)
            for part in parts[1:]:
                for inner in ast.walk(part):
                    if isinstance(inner, ast.Name):
                        yield inner.id, inner.lineno
        case _:
            for inner in ast.iter_child_nodes(annotation):
                if isinstance(inner, ast.expr):
                    yield from _used(inner, line)
