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
        self._literals: set[str] = {"Literal"}  # what Literal is called here
        self._open = False  # `from x import *`: anything may be there
        self._collect(tree.body, self.known)

    def check(self, annotation: ast.expr, line: int, what: str) -> None:
        """Refuse an annotation with a name that is not there when calls are validated by it."""
        for name, at in _used(annotation, line, self._literals):
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
                        if alias.name == "Literal" and alias.asname:
                            self._literals.add(alias.asname)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.add(node.name)
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
                    found.update(
                        inner.id
                        for inner in ast.walk(node)
                        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
                    )


def _used(annotation: ast.expr, line: int, literals: set[str]) -> Iterator[tuple[str, int]]:
    """The names in an annotation, also of one in quotes; a Literal's strings are none."""
    match annotation:
        case ast.Constant(value=str(text)):
            try:
                quoted = ast.parse(text, mode="eval").body
            except SyntaxError:
                raise WrongError(line, f"the type {text!r} cannot be read.", "Write it as Python.") from None
            yield from ((name, line) for name, _ in _used(quoted, line, literals))
        case ast.Name():
            yield annotation.id, annotation.lineno
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name)) if name in literals:
            yield from _used(annotation.value, line, literals)
        case ast.Subscript(
            value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=parts)
        ):
            yield from _used(annotation.value, line, literals)
            yield from _used(parts[0], line, literals)
            for part in parts[1:]:
                found = [inner for inner in ast.walk(part) if isinstance(inner, ast.Name)]
                own = {inner.id for inner in found if isinstance(inner.ctx, ast.Store)}  # of a comprehension
                own |= {inner.arg for inner in ast.walk(part) if isinstance(inner, ast.arg)}  # of a lambda
                yield from ((inner.id, inner.lineno) for inner in found if inner.id not in own)
        case _:
            for inner in ast.iter_child_nodes(annotation):
                if isinstance(inner, ast.expr):
                    yield from _used(inner, line, literals)
