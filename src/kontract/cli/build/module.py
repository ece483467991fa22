"""One file of the application: what it declares, and every mistake in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from kontract.cli.build import literals
from kontract.cli.build.declared import Argument, Around, Declared, Mistake, Read, WrongError
from kontract.cli.build.literals import READ_NOT_RUN, called_name
from kontract.cli.build.names import Names
from kontract.core import limits
from kontract.core.perms import may_write, name_of

_BACKEND = ("name", "ugroup", "perm", "egroup", "public", "isolation", "max_attempts")
_TABLE = ("rows", "stream")
_MIDDLEWARE = ("prefixurl", "egroup", "endpoints")
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{limits.FUNCTION_NAME_LENGTH - 1}}}", re.ASCII)
_WRITES = frozenset({"set", "insert", "update", "delete", "push", "pop", "shift"})


def read(text: str, module: str, shown: str) -> Read:
    """Read the text of a module; ``shown`` is its path as people know it."""
    try:
        tree = ast.parse(text, filename=shown)
        return _Module(tree, module, shown).read()
    except SyntaxError as error:
        fix = "Correct the line and save; it is built again."
        return Read([], [Mistake(f"{shown}:{error.lineno or 1}", f"{error.msg}.", fix)])
    except RecursionError:
        what = "an expression of this file is nested too deeply to be read."
        return Read([], [Mistake(f"{shown}:1", what, "Move it out of src/app, or write it in parts.")])


class _Module:
    def __init__(self, tree: ast.Module, module: str, shown: str) -> None:
        self._tree = tree
        self._module = module
        self._shown = shown
        self._names = Names(tree)
        self._declared: list[Declared] = []
        self._mistakes: list[Mistake] = []

    def read(self) -> Read:
        """Every declaration at the top of the module."""
        for wrong in _out_of_sight(self._tree):
            self._note(wrong)
        for node in self._tree.body:
            if isinstance(node, ast.Assign):
                self._try(lambda node=node: self._assigned(node))  # type: ignore[misc]
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                for decorator in node.decorator_list:
                    declare = {"backend": self._function, "table": self._table, "middleware": self._wrapped}
                    found = declare.get(called_name(decorator))
                    if found is not None:
                        self._try(lambda f=found, n=node, d=decorator: f(n, d))  # type: ignore[misc]
        return Read(self._declared, self._mistakes)

    def _try(self, declare: Callable[[], Declared | None]) -> None:
        try:
            found = declare()
        except WrongError as wrong:
            self._note(wrong)
        else:
            if found is not None:
                self._declared.append(found)

    def _note(self, wrong: WrongError) -> None:
        self._mistakes.append(Mistake(self._where(wrong.line), wrong.what, wrong.fix))

    def _where(self, line: int) -> str:
        return f"{self._shown}:{line}"

    def _is_bound(self, decorator: ast.expr) -> bool:
        """Whether the decorator's name is imported: a module without it fails anyway, and says so better."""
        root = decorator.func if isinstance(decorator, ast.Call) else decorator
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and root.id in self._names.known

    # --- functions ---------------------------------------------------------------------------------------------------

    def _function(self, node: ast.stmt, decorator: ast.expr) -> Declared:
        if not isinstance(decorator, ast.Call):
            raise WrongError(node.lineno, "@backend needs parentheses.", "Write @backend().")
        if not isinstance(node, ast.AsyncFunctionDef):
            raise WrongError(node.lineno, "a backend function must be async.", "Write async def.")
        line = node.lineno
        literals.check_keywords(decorator, line, _BACKEND)
        _check_parameters(node)
        perm = literals.permission(decorator, "perm", line)
        literals.choice(decorator, "isolation", line, ("serializable", "snapshot"))
        literals.check_count(decorator, "max_attempts", line)
        self._check_types(node, decorator)
        if not may_write(perm):
            _check_reads_only(node, perm)
        name = literals.text(decorator, "name", line) or node.name
        if not _NAME.fullmatch(name):
            raise WrongError(
                line,
                f"{name!a} cannot be the name of a function in a URL.",
                "Use letters, digits, underscores, dots and dashes, a letter or an underscore first.",
            )
        return Declared(
            "backend",
            name,
            self._module,
            node.name,
            self._where(line),
            egroup=literals.text(decorator, "egroup", line),
            ugroup=literals.text(decorator, "ugroup", line),
            perm=perm,
            public=literals.switch(decorator, "public", line, default=False),
            arguments=tuple(_arguments(node.args)),
        )

    def _check_types(self, node: ast.AsyncFunctionDef, decorator: ast.expr) -> None:
        if not self._is_bound(decorator):
            return
        for argument in _parameters(node.args):
            assert argument.annotation is not None
            self._names.check(argument.annotation, argument.lineno, f"parameter {argument.arg} of {node.name}")
        if node.returns is not None:
            self._names.check(node.returns, node.lineno, f"what {node.name} returns")

    # --- tables ------------------------------------------------------------------------------------------------------

    def _table(self, node: ast.stmt, decorator: ast.expr) -> Declared:
        line = node.lineno
        if not isinstance(node, ast.ClassDef) or not isinstance(decorator, ast.Call) or not decorator.args:
            raise WrongError(line, "@table takes the table's name and stands on a class.", 'Write @table("tasks").')
        name = decorator.args[0]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            raise WrongError(line, "the name of a table must be a string in quotes.", 'Write @table("tasks").')
        literals.check_keywords(decorator, line, _TABLE, positional=1)
        if self._is_bound(decorator):
            self._check_fields(node)
        return Declared(
            "table",
            name.value,
            self._module,
            node.name,
            self._where(line),
            rows=literals.choice(decorator, "rows", line, ("all", "own")),
            stream=literals.switch(decorator, "stream", line, default=True),
            arguments=tuple(
                Argument(field.target.id, ast.unparse(field.annotation), field.value is None)
                for field in node.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            ),
        )

    def _check_fields(self, node: ast.ClassDef) -> None:
        ids = 0
        for field in node.body:
            if not isinstance(field, ast.AnnAssign):
                continue
            what = f"field {ast.unparse(field.target)} of {node.name}"
            self._names.check(field.annotation, field.lineno, what)
            for inner in ast.walk(field.annotation):
                ids += isinstance(inner, (ast.Name, ast.Attribute)) and ast.unparse(inner).endswith("primkey")
                if isinstance(inner, ast.Call) and called_name(inner) == "perm" and len(inner.args) == 1:
                    literals.bits(inner.args[0], field.lineno, f"{what}: perm() of")
        own = all(ast.unparse(base) in ("Struct", "msgspec.Struct") for base in node.bases)
        if own and ids != 1:
            raise WrongError(
                node.lineno,
                f"table {node.name} marks {'no field' if ids == 0 else f'{ids} fields'} as its id.",
                "Write id: Annotated[str, primkey], once.",
            )

    # --- middleware --------------------------------------------------------------------------------------------------

    def _wrapped(self, node: ast.stmt, decorator: ast.expr) -> Declared:
        if not isinstance(node, ast.AsyncFunctionDef) or not isinstance(decorator, ast.Call):
            raise WrongError(
                node.lineno,
                "@middleware stands on an async function, with parentheses.",
                'Write @middleware(egroup="api-v1") above async def log(ctx: Context, call_next).',
            )
        return self._middleware(decorator, node.name, node.lineno)

    def _assigned(self, node: ast.Assign) -> Declared | None:
        """``limit = middleware(egroup="x")(rate_limit(10))``: middleware that comes from somewhere else."""
        value = node.value
        if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Call):
            return None
        if called_name(value.func) != "middleware":
            return None
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise WrongError(node.lineno, "middleware needs a name.", "Write limit = middleware(...)(...).")
        return self._middleware(value.func, node.targets[0].id, node.lineno)

    def _middleware(self, call: ast.Call, attribute: str, line: int) -> Declared:
        around = Around(
            literals.text(call, "prefixurl", line),
            literals.text(call, "egroup", line),
            literals.texts(call, "endpoints", line),
        )
        if call.args or around == Around(None, None, None):
            raise WrongError(
                line,
                "middleware must say what it is for.",
                'Write middleware(prefixurl="/rpc"), middleware(egroup="...") or middleware(endpoints=["..."]).',
            )
        literals.check_keywords(call, line, _MIDDLEWARE)
        return Declared("middleware", attribute, self._module, attribute, self._where(line), around=around)


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _arguments(arguments: ast.arguments) -> Iterator[Argument]:
    """The parameters that callers give, in their order."""
    plain = [*arguments.posonlyargs, *arguments.args]
    without = len(plain) - len(arguments.defaults)
    required = [*(position < without for position in range(len(plain))), *(d is None for d in arguments.kw_defaults)]
    for argument, is_required in zip(_parameters(arguments), required, strict=True):
        if not _is_context(argument):
            assert argument.annotation is not None
            yield Argument(argument.arg, ast.unparse(argument.annotation), is_required)


def _check_parameters(node: ast.AsyncFunctionDef) -> None:
    for argument in _parameters(node.args):
        if argument.annotation is None:
            raise WrongError(
                node.lineno,
                f"parameter {argument.arg} of {node.name} has no type.",
                "Annotate it; calls are validated by it.",
            )
    late = _required_after_optional(node.args)
    if late is not None:
        raise WrongError(
            node.lineno,
            f"parameter {late} of {node.name} has no default but follows one that has.",
            "The arguments of a call have an order: put the parameters without a default first.",
        )
    if node.args.vararg or node.args.kwarg:
        raise WrongError(node.lineno, f"{node.name} takes * or ** parameters.", "Name its parameters.")


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


def _check_reads_only(node: ast.AsyncFunctionDef, perm: int) -> None:
    """Refuse ``ctx.storage.tasks.push(...)`` in a function that may not write: every call of it would be refused."""
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Attribute):
            continue
        table = inner.func.value
        if inner.func.attr not in _WRITES or not isinstance(table, (ast.Attribute, ast.Subscript)):
            continue
        if isinstance(table.value, ast.Attribute) and table.value.attr == "storage":
            raise WrongError(
                inner.lineno,
                f"{node.name} has perm=perms.{name_of(perm)} and writes: {ast.unparse(inner.func)}.",
                "Give it perm=perms.RW_, or do not write; the call would be refused.",
            )


def _out_of_sight(tree: ast.Module) -> Iterator[WrongError]:
    """What would not be found: a guard that is written down must not be left out without a word."""
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
                        f"{name.name} is imported as {name.asname}.",
                        f"{READ_NOT_RUN[:-1]}: import it under its own name.",
                    )
        if isinstance(inside, ast.Call) and called_name(inside) == "middleware" and inside not in seen:
            yield WrongError(
                inside.lineno,
                "middleware stands at the top of a module, above a function or with a name.",
                "Write limit = middleware(...)(...), or @middleware(...) above async def.",
            )
