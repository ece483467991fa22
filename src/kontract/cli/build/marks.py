"""Where ``perm(...)`` may stand: on a field of a class whose values know their class, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from kontract.cli.build import literals
from kontract.cli.build.declared import WrongError
from kontract.cli.build.names import Names
from kontract.core.model.perms import READ

_AROUND = frozenset({"Optional", "Union", "Required", "NotRequired", "ReadOnly", "Final", "ClassVar"})
"""What may be wrapped around the type of a field: a mark inside still belongs to the field."""


class Marks:
    """The permissions in the annotations of a module."""

    def __init__(self, names: Names, aliases: Mapping[str, ast.expr], classes: Mapping[str, ast.ClassDef]) -> None:
        """``names``: what the names of the module stand for."""
        self._names = names
        self._aliases = aliases
        self._classes = classes

    def wrong(self, tree: ast.Module) -> Iterator[WrongError]:
        """Yield an error for every mark that would be ignored or could not be enforced."""
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign):
                        yield from self._wrong_field(node, field)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and self._is_called(node):
                yield from self._wrong_function(node)
            elif isinstance(node, ast.Call) and literals.called_name(node) == "TypedDict" and self._has_mark(node):
                yield _of_a_dict(node.lineno, ast.unparse(node.args[0]) if node.args else "a TypedDict")

    def hides(self, annotation: ast.expr) -> bool:
        """Return whether a field is marked as hidden from callers; computed marks are checked at the start."""
        for inner in ast.walk(unquoted(annotation)):
            if isinstance(inner, ast.Call) and self._is_perm(inner.func) and inner.args:
                try:
                    return not literals.bits(inner.args[0], 0, "") & READ
                except WrongError:
                    return False
        return False

    def _wrong_field(self, node: ast.ClassDef, field: ast.AnnAssign) -> Iterator[WrongError]:
        what = f"field {ast.unparse(field.target)} of {node.name}"
        yield from self._wrong_form(field, what)
        if self._is_typed_dict(node) and self._has_mark(field.annotation):
            yield _of_a_dict(field.lineno, what)
        elif self._is_lost(field.annotation, is_field=True):
            yield WrongError(
                field.lineno,
                f"{what}: perm() inside the type has no effect.",
                "Mark the whole field, Annotated[list[str], perm(perms.R__)], or a field of a struct inside.",
            )

    def _wrong_form(self, field: ast.AnnAssign, what: str) -> Iterator[WrongError]:
        called: set[ast.AST] = set()
        for inner in ast.walk(unquoted(field.annotation)):
            if isinstance(inner, ast.Call) and self._is_perm(inner.func):
                called.add(inner.func)
                yield from _wrong_perm(inner, field.lineno, what)
            elif inner not in called and self._is_perm(inner):
                yield _without_permission(field.lineno, what)
        value = field.value.func if isinstance(field.value, ast.Call) else field.value
        if value is not None and (self._is_perm(value) or ast.unparse(value).rpartition(".")[2] == "primkey"):
            marked = f"Annotated[{ast.unparse(field.annotation)}, {ast.unparse(field.value or value)}]"
            yield WrongError(
                field.lineno,
                f"{what} has {ast.unparse(value)} as its default value.",
                f"Write it into the type: {ast.unparse(field.target)}: {marked}.",
            )

    def _wrong_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[WrongError]:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        places = [(f"parameter {one.arg} of {node.name}", one.annotation) for one in arguments]
        for what, annotation in [*places, (f"what {node.name} returns", node.returns)]:
            if annotation is not None and self._is_lost(annotation, is_field=False):
                yield WrongError(
                    annotation.lineno,
                    f"{what}: perm() can only mark a field.",
                    "Make it a field of a struct; a function's arguments and results are never hidden.",
                )

    def _is_called(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        return any(literals.called_name(decorator) == "backend" for decorator in node.decorator_list)

    def _is_lost(self, annotation: ast.expr, *, is_field: bool, within: tuple[str, ...] = ()) -> bool:
        """Return whether a mark is not directly on a field; ``is_field``: the annotation is that of a field."""
        match unquoted(annotation):
            case ast.Name(id=name) if name in self._aliases and name not in within:
                return self._is_lost(self._aliases[name], is_field=is_field, within=(*within, name))
            case ast.Call(args=[_, inner]) as call if literals.called_name(call) == "NewType":
                return self._is_lost(inner, is_field=is_field, within=within)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                parts = [left, right]
            case ast.Subscript(value=value, slice=inner):
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                name = ast.unparse(value).rpartition(".")[2]
                if name == "Annotated":
                    if not is_field and any(self._has_mark(mark) for mark in parts[1:]):
                        return True
                    parts = parts[:1]
                elif name == "Literal":
                    return False
                elif name not in _AROUND:
                    is_field = False
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts, is_field = elements, False
            case _:
                return False
        return any(self._is_lost(part, is_field=is_field, within=within) for part in parts)

    def _has_mark(self, node: ast.expr, within: tuple[str, ...] = ()) -> bool:
        for inner in ast.walk(unquoted(node)):
            if self._is_perm(inner):
                return True
            alias = self._aliases.get(inner.id) if isinstance(inner, ast.Name) and inner.id not in within else None
            if alias is not None and self._has_mark(alias, (*within, ast.unparse(inner))):
                return True
        return False

    def _is_typed_dict(self, node: ast.ClassDef, within: tuple[str, ...] = ()) -> bool:
        for base in node.bases:
            name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
            if name.rpartition(".")[2] == "TypedDict":
                return True
            if (
                name in self._classes
                and name not in within
                and self._is_typed_dict(self._classes[name], (*within, name))
            ):
                return True
        return False

    def _is_perm(self, node: ast.AST) -> bool:
        """Return whether this names Kontract's `perm`."""
        if not isinstance(node, (ast.Name, ast.Attribute)) or ast.unparse(node).rpartition(".")[2] != "perm":
            return False
        origin = self._names.origin(ast.unparse(node).partition(".")[0])
        return origin is None or origin.partition(".")[0] == "kontract"


def unquoted(annotation: ast.expr) -> ast.expr:
    """Return an annotation, parsed if it is in quotes."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            pass  # reported where its names are checked
    return annotation


def _of_a_dict(line: int, what: str) -> WrongError:
    return WrongError(
        line,
        f"{what}: perm() cannot be enforced, because values of a TypedDict are plain dicts.",
        "Make it a struct: class X(Struct).",
    )


def _wrong_perm(call: ast.Call, line: int, what: str) -> Iterator[WrongError]:
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "bits")]
    if len(given) != 1 or len(call.keywords) > len(given) - len(call.args):
        yield _without_permission(line, what)
        return
    try:
        literals.bits(given[0], line, f"{what}: perm() of")
    except WrongError as wrong:
        yield wrong


def _without_permission(line: int, what: str) -> WrongError:
    return WrongError(line, f"{what}: perm() takes one permission.", "Write, for example, perm(perms.R__).")
