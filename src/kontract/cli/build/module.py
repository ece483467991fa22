"""One file of the application: what it declares, and every mistake in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from kontract.cli.build import literals
from kontract.cli.build.declared import Argument, Around, Declared, Mistake, Ordered, Read, WrongError
from kontract.cli.build.literals import READ_NOT_RUN, called_name
from kontract.cli.build.marks import Marks, unquoted
from kontract.cli.build.names import Names
from kontract.cli.build.types import TypeFlawError, Types
from kontract.core import limits
from kontract.core.model.perms import NAMES, may_write, name_of

_BACKEND = ("name", "ugroup", "perm", "egroup", "public", "isolation", "max_attempts")
_TABLE = ("rows", "stream")
_MIDDLEWARE = ("prefixurl", "egroup", "endpoints")
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{limits.FUNCTION_NAME_LENGTH - 1}}}", re.ASCII)
_WRITES = frozenset({"set", "insert", "update", "delete", "push", "pop", "shift"})

Function = ast.FunctionDef | ast.AsyncFunctionDef
T = TypeVar("T")


def nowhere(_module: str) -> None:
    """Stand for an application without other modules."""


def read(text: str, module: str, shown: str, source: Callable[[str], str | None] = nowhere) -> Read:
    """Read the text of a module; ``shown`` is the path to show in messages.

    ``source`` returns the text of another module of the application, whose classes may be part of types.
    """
    try:
        tree = ast.parse(text, filename=shown)
        return _Module(tree, module, shown, Types(tree, module, source)).read()
    except SyntaxError as error:
        fix = "Correct the line and save; the build runs again."
        return Read([], [Mistake(f"{shown}:{error.lineno or 1}", f"{error.msg}.", fix)])
    except RecursionError:
        what = "an expression of this file is nested too deeply to be read."
        return Read([], [Mistake(f"{shown}:1", what, "Move it out of src/app, or write it in parts.")])


class _Module:
    def __init__(self, tree: ast.Module, module: str, shown: str, kinds: Types) -> None:
        self._tree = tree
        self._types = kinds
        self._module = module
        self._shown = shown
        self._names = Names(tree)
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._aliases = dict(_aliases(tree))
        self._marks = Marks(self._names, self._aliases, self._classes)
        self._declared: list[Declared] = []
        self._mistakes: list[Mistake] = []

    def read(self) -> Read:
        """Return every declaration at the top level of the module, and the mistakes."""
        for wrong in _out_of_sight(self._tree):
            self._note(wrong)
        self._note(*self._marks.wrong(self._tree))
        for node in self._tree.body:
            if isinstance(node, ast.Assign):
                self._try(partial(self._assigned, node))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                for decorator in node.decorator_list:
                    declare = {"backend": self._function, "table": self._table, "middleware": self._wrapped}
                    found = declare.get(called_name(decorator))
                    if found is not None:
                        self._try(partial(found, node, decorator))
        return Read(self._declared, self._mistakes, [*self._orders()])

    def _orders(self) -> Iterator[Ordered]:
        for node in ast.walk(self._tree):
            found = _ordered(node)
            if found is not None:
                yield Ordered(*found, self._where(node.lineno))  # type: ignore[attr-defined]

    def _try(self, declare: Callable[[], Declared | None]) -> None:
        known = len(self._mistakes)
        found = self._value(declare, None)
        if found is not None and len(self._mistakes) == known:
            self._declared.append(found)

    def _value(self, read: Callable[[], T], instead: T) -> T:
        """Return what ``read`` returns; after a mistake note it and return ``instead``, to find further mistakes."""
        try:
            return read()
        except WrongError as wrong:
            self._note(wrong)
            return instead

    def _note(self, *wrong: WrongError) -> None:
        for one in wrong:
            mistake = Mistake(self._where(one.line), one.what, one.fix)
            if mistake not in self._mistakes:
                self._mistakes.append(mistake)

    def _where(self, line: int) -> str:
        return f"{self._shown}:{line}"

    def _is_bound(self, decorator: ast.expr) -> bool:
        """Return whether the decorator's name is imported: if not, the module fails with a better message."""
        root = decorator.func if isinstance(decorator, ast.Call) else decorator
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and root.id in self._names.known

    # --- functions ---------------------------------------------------------------------------------------------------

    def _function(self, node: ast.stmt, decorator: ast.expr) -> Declared | None:
        line = node.lineno
        if not isinstance(node, ast.AsyncFunctionDef):
            self._note(WrongError(line, "a backend function must be async.", "Write async def."))
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return None
        if not isinstance(decorator, ast.Call):
            self._note(WrongError(line, "@backend needs parentheses.", "Write @backend()."))
        call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
        self._note(*literals.keywords(call, line, _BACKEND))
        self._note(*_wrong_parameters(node))
        perm = self._value(lambda: literals.permission(call, "perm", line), NAMES["RWX"])
        self._value(lambda: literals.choice(call, "isolation", line, ("serializable", "snapshot")), "")
        self._value(lambda: literals.check_count(call, "max_attempts", line), None)
        self._note(*self._wrong_types(node, decorator))
        if not may_write(perm):
            self._note(*_writes(node, perm))
        name = self._text(call, "name", line) or node.name
        if not _NAME.fullmatch(name):
            self._note(
                WrongError(
                    line,
                    f"{name!a} cannot be the name of a function in a URL.",
                    "Use letters, digits, underscores, dots and dashes; start with a letter or an underscore.",
                )
            )
        return Declared(
            "backend",
            name,
            self._module,
            node.name,
            self._where(line),
            egroup=self._text(call, "egroup", line),
            ugroup=self._text(call, "ugroup", line),
            perm=perm,
            public=self._value(lambda: literals.switch(call, "public", line, default=False), False),
            arguments=tuple(_arguments(node.args)),
        )

    def _text(self, call: ast.Call, name: str, line: int) -> str | None:
        return self._value(lambda: literals.text(call, name, line), None)

    def _wrong_types(self, node: Function, decorator: ast.expr) -> Iterator[WrongError]:
        if not self._is_bound(decorator):
            return
        for argument in _parameters(node.args):
            if argument.annotation is not None:
                what = f"parameter {argument.arg} of {node.name}"
                wrong = [*self._names.check(argument.annotation, argument.lineno, what)]
                if not wrong and not _is_context(argument):
                    wrong += self._wrong_type(argument.annotation, argument.lineno, what)
                yield from wrong
        if node.returns is not None:
            what = f"what {node.name} returns"
            wrong = [*self._names.check(node.returns, node.lineno, what)]
            yield from wrong or self._wrong_type(node.returns, node.lineno, what, returned=True)

    def _wrong_type(
        self, annotation: ast.expr, line: int, what: str, *, stored: bool = False, returned: bool = False
    ) -> Iterator[WrongError]:
        """Yield an error for a type that msgspec cannot read and write without loss."""
        try:
            self._types.check(annotation, stored=stored, returned=returned)
        except TypeFlawError as flaw:
            yield WrongError(line, f"{what}: {ast.unparse(annotation)}: {flaw}.", "Use another type.")

    # --- tables ------------------------------------------------------------------------------------------------------

    def _table(self, node: ast.stmt, decorator: ast.expr) -> Declared | None:
        line = node.lineno
        if not isinstance(node, ast.ClassDef) or not isinstance(decorator, ast.Call) or not decorator.args:
            what = "@table takes the table's name and decorates a class."
            self._note(WrongError(line, what, 'Write @table("tasks").'))
        call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
        if not isinstance(node, ast.ClassDef):
            return None
        name = call.args[0] if call.args else ast.Constant("")
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            self._note(WrongError(line, "the name of a table must be a string in quotes.", 'Write @table("tasks").'))
            name = ast.Constant("")
        self._note(*literals.keywords(call, line, _TABLE, positional=1))
        if self._is_bound(decorator):
            self._note(*self._wrong_fields(node))
        return Declared(
            "table",
            str(name.value),
            self._module,
            node.name,
            self._where(line),
            rows=self._value(lambda: literals.choice(call, "rows", line, ("all", "own")), "all"),
            stream=self._value(lambda: literals.switch(call, "stream", line, default=True), True),
            arguments=tuple(
                Argument(field.target.id, ast.unparse(field.annotation), field.value is None)
                for field in node.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            ),
            unordered=tuple(
                name for name, field in self._fields_of(node) if not self._types.order_of(field.annotation)
            ),
            spelled=tuple(
                (name, order)
                for name, field in self._fields_of(node)
                if (order := self._types.compared_by(field.annotation)) is not None
            ),
        )

    def _fields_of(self, table: ast.ClassDef) -> Iterator[tuple[str, ast.AnnAssign]]:
        """The fields of a table and of its bases in this module, by name."""
        for one in self._family(table)[0]:
            for field in one.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, field

    def _wrong_fields(self, table: ast.ClassDef) -> Iterator[WrongError]:
        """Yield mistakes in the fields of a table and of its bases in this module; exactly one field must be its id."""
        classes, all_known = self._family(table)
        ids: dict[str, bool] = {}
        for node in classes:
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    ids[ast.unparse(field.target)] = self._is_id(field.annotation)
                    yield from self._wrong_field(node, field)
        count = sum(ids.values())
        if count > 1 or (count == 0 and all_known):
            yield WrongError(
                table.lineno,
                f"table {table.name} marks {'no field' if count == 0 else f'{count} fields'} as its id.",
                "Write id: Annotated[str, primkey], once.",
            )

    def _family(self, table: ast.ClassDef) -> tuple[list[ast.ClassDef], bool]:
        """Return the classes here that a table inherits its fields from, base first, and whether these are all."""
        found: list[ast.ClassDef] = []
        all_known = True
        waiting = [table]
        while waiting:
            node = waiting.pop(0)
            if node in found:
                continue
            found.append(node)
            for base in node.bases:
                named = base.value if isinstance(base, ast.Subscript) else base  # Box[int], Generic[T]
                written = ast.unparse(named)
                if written in self._classes:
                    waiting.append(self._classes[written])
                else:
                    all_known &= written.rpartition(".")[2] in ("Struct", "Generic")
        return found[::-1], all_known

    def _is_id(self, annotation: ast.expr, within: tuple[str, ...] = ()) -> bool:
        for inner in ast.walk(unquoted(annotation)):
            if isinstance(inner, (ast.Name, ast.Attribute)) and ast.unparse(inner).rpartition(".")[2] == "primkey":
                return True
            alias = self._aliases.get(inner.id) if isinstance(inner, ast.Name) and inner.id not in within else None
            if alias is not None and self._is_id(alias, (*within, ast.unparse(inner))):
                return True
        return False

    def _wrong_field(self, node: ast.ClassDef, field: ast.AnnAssign) -> Iterator[WrongError]:
        what = f"field {ast.unparse(field.target)} of {node.name}"
        wrong = [*self._names.check(field.annotation, field.lineno, what)]
        yield from wrong or self._wrong_type(field.annotation, field.lineno, what, stored=True)
        if self._is_id(field.annotation) and self._marks.hides(field.annotation):
            yield WrongError(
                field.lineno,
                f"{what} is the row id, which callers always see.",
                "Use perm(perms.R__), or remove perm().",
            )

    # --- middleware --------------------------------------------------------------------------------------------------

    def _wrapped(self, node: ast.stmt, decorator: ast.expr) -> Declared | None:
        if not isinstance(node, ast.AsyncFunctionDef) or not isinstance(decorator, ast.Call):
            self._note(
                WrongError(
                    node.lineno,
                    "@middleware decorates an async function and needs parentheses.",
                    'Write @middleware(egroup="api-v1") above async def log(ctx: Context, call_next).',
                )
            )
        if not isinstance(decorator, ast.Call):
            return None
        return self._middleware(decorator, getattr(node, "name", ""), node.lineno)

    def _assigned(self, node: ast.Assign) -> Declared | None:
        """``limit = middleware(egroup="x")(rate_limit(10))``: middleware that is defined elsewhere."""
        value = node.value
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Call):
            return None
        if called_name(value.func) != "middleware":
            return None
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise WrongError(node.lineno, "middleware needs a name.", "Write limit = middleware(...)(...).")
        return self._middleware(value.func, node.targets[0].id, node.lineno)

    def _middleware(self, call: ast.Call, attribute: str, line: int) -> Declared:
        self._note(*literals.keywords(call, line, _MIDDLEWARE, positional=len(call.args)))
        around = Around(
            self._text(call, "prefixurl", line),
            self._text(call, "egroup", line),
            self._value(lambda: literals.texts(call, "endpoints", line), None),
        )
        given = {keyword.arg for keyword in call.keywords if not _is_none(keyword.value)}
        if call.args or not given & {*_MIDDLEWARE, None}:
            self._note(
                WrongError(
                    line,
                    "middleware must say which functions it runs around.",
                    'Write middleware(prefixurl="/rpc"), middleware(egroup="...") or middleware(endpoints=["..."]).',
                )
            )
        return Declared("middleware", attribute, self._module, attribute, self._where(line), around=around)


def _aliases(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Return what names at the top of the module stand for: ``Id = Annotated[str, primkey]``."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((one.id, node.value) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        elif type(node).__name__ == "TypeAlias":  # `type Id = ...`, of Python 3.12
            yield node.name.id, node.value  # type: ignore[attr-defined]


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _arguments(arguments: ast.arguments) -> Iterator[Argument]:
    """Return the parameters that callers pass, in order."""
    plain = [*arguments.posonlyargs, *arguments.args]
    without = len(plain) - len(arguments.defaults)
    required = [*(position < without for position in range(len(plain))), *(d is None for d in arguments.kw_defaults)]
    for argument, is_required in zip(_parameters(arguments), required, strict=True):
        if argument.annotation is not None and not _is_context(argument):
            yield Argument(argument.arg, ast.unparse(argument.annotation), is_required)


def _wrong_parameters(node: Function) -> Iterator[WrongError]:
    for argument in _parameters(node.args):
        if argument.annotation is None:
            yield WrongError(
                node.lineno,
                f"parameter {argument.arg} of {node.name} has no type.",
                "Annotate it: the arguments of calls are validated against the type.",
            )
    late = _required_after_optional(node.args)
    if late is not None:
        yield WrongError(
            node.lineno,
            f"parameter {late} of {node.name} has no default but follows one that has.",
            "Put the parameters without a default first: callers can pass arguments by position.",
        )
    if node.args.vararg or node.args.kwarg:
        yield WrongError(node.lineno, f"{node.name} takes * or ** parameters.", "Name its parameters.")


def _required_after_optional(arguments: ast.arguments) -> str | None:
    """Return the first keyword-only parameter that is required after one that is not; Python itself allows it."""
    optional = bool(arguments.defaults)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None and optional and not _is_context(argument):
            return argument.arg
        optional = optional or default is not None
    return None


def _is_context(argument: ast.arg) -> bool:
    written = ast.unparse(argument.annotation).strip("'") if argument.annotation is not None else ""
    return written.rpartition(".")[2] == "Context"


def _writes(node: Function, perm: int) -> Iterator[WrongError]:
    """Yield an error for each ``ctx.storage.tasks.push(...)`` in a function that may not write."""
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Attribute):
            continue
        table = inner.func.value
        if inner.func.attr not in _WRITES or not isinstance(table, (ast.Attribute, ast.Subscript)):
            continue
        if isinstance(table.value, ast.Attribute) and table.value.attr == "storage":
            yield WrongError(
                inner.lineno,
                f"{node.name} has perm=perms.{name_of(perm)} but writes: {ast.unparse(inner.func)}.",
                "Give it perm=perms.RW_ or remove the write; the call would be rejected.",
            )


def _ordered(node: ast.AST) -> tuple[str, str] | None:
    """Return table and field of ``storage.tasks.query(order_by="title")``; None where they are not literals."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "query":
        return None
    table = node.func.value
    holder = table.value if isinstance(table, (ast.Attribute, ast.Subscript)) else None
    field = next((one.value for one in node.keywords if one.arg == "order_by"), None)
    if not isinstance(holder, ast.Attribute) or holder.attr != "storage":
        return None
    name = table.attr if isinstance(table, ast.Attribute) else getattr(getattr(table, "slice", None), "value", None)
    if not isinstance(name, str) or not isinstance(field, ast.Constant) or not isinstance(field.value, str):
        return None
    return name, field.value


def _out_of_sight(tree: ast.Module) -> Iterator[WrongError]:
    """Yield an error for what this module would not find: a guard must not be left out silently."""
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
                    yield WrongError(
                        inside.lineno,
                        f"{name.name} is imported under another name, {name.asname}.",
                        f"Import it under its own name: {READ_NOT_RUN[0].lower()}{READ_NOT_RUN[1:]}",
                    )
        if isinstance(inside, ast.Call) and called_name(inside) == "middleware" and inside not in seen:
            yield WrongError(
                inside.lineno,
                "middleware must be at the top of a module, above a function or assigned to a name.",
                "Write limit = middleware(...)(...), or @middleware(...) above async def.",
            )
