"""Reads the arguments of decorators without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kontract.cli.build.declared import WrongError
from kontract.core.model.perms import NAMES

READ_NOT_RUN = "The application is read, not run."


def called_name(decorator: ast.expr) -> str:
    """Return the last part of the name of a decorator, called or not: ``backend`` of ``@kontract.backend()``."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


def keywords(call: ast.Call, line: int, known: tuple[str, ...], positional: int = 0) -> Iterator[WrongError]:
    """Yield an error for each argument that the decorator does not take."""
    name = called_name(call)
    if len(call.args) > positional:
        yield WrongError(line, f"@{name} takes its arguments by name.", f"Use {', '.join(known)}.")
    for keyword in call.keywords:
        if keyword.arg is None:
            yield WrongError(line, f"@{name} cannot take ** arguments.", f"Write them out. {READ_NOT_RUN}")
        elif keyword.arg not in known:
            yield WrongError(line, f"@{name} does not take {keyword.arg}=.", f"It takes {', '.join(known)}.")


def text(call: ast.Call, name: str, line: int) -> str | None:
    """Return the argument ``name``, which is a string or None."""
    value = _argument(call, name)
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    raise WrongError(line, f"{name}= must be a string in quotes.", READ_NOT_RUN)


def texts(call: ast.Call, name: str, line: int) -> tuple[str, ...] | None:
    """Return the argument ``name``, which is a list of strings."""
    value = _argument(call, name)
    if value is None:
        return None
    try:
        found = ast.literal_eval(value)
    except ValueError:
        found = 0
    if isinstance(found, (list, tuple)) and all(isinstance(item, str) for item in found):
        return tuple(found)
    raise WrongError(line, f"{name}= must be a list of strings in quotes.", READ_NOT_RUN)


def choice(call: ast.Call, name: str, line: int, known: tuple[str, ...]) -> str:
    """Return the argument ``name``, which is one of ``known``; the first one is the default."""
    value = text(call, name, line)
    if value is None:
        return known[0]
    if value not in known:
        raise WrongError(line, f"{name}= cannot be {value!r}.", f"Use one of {', '.join(map(repr, known))}.")
    return value


def switch(call: ast.Call, name: str, line: int, *, default: bool) -> bool:
    """Return the argument ``name``, which is True or False."""
    value = _argument(call, name)
    if value is None:
        return default
    if isinstance(value, ast.Constant) and isinstance(value.value, bool):
        return value.value
    raise WrongError(line, f"{name}= must be True or False.", READ_NOT_RUN)


def check_count(call: ast.Call, name: str, line: int) -> None:
    """Refuse an argument ``name`` that is a number below 1; computed values are checked at the start."""
    value = _argument(call, name)
    if isinstance(value, (ast.Constant, ast.UnaryOp)) and not (
        isinstance(value, ast.Constant) and type(value.value) is int and value.value >= 1
    ):
        raise WrongError(line, f"{name}= must be a whole number above 0.", "Correct it, or leave it out.")


def permission(call: ast.Call, name: str, line: int) -> int:
    """Return the argument ``name``, which is a permission; all bits when it is not given."""
    value = _argument(call, name)
    return NAMES["RWX"] if value is None else bits(value, line, f"{name}=")


def bits(value: ast.expr, line: int, what: str) -> int:
    """Return the bits of an expression: ``perms.RW_``, ``perms.R__ | perms._W_``, 0 to 7."""
    if isinstance(value, ast.Constant) and type(value.value) is int and 0 <= value.value <= NAMES["RWX"]:
        return value.value
    if isinstance(value, ast.Attribute) and value.attr in NAMES:
        return NAMES[value.attr]
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        return bits(value.left, line, what) | bits(value.right, line, what)
    raise WrongError(
        line,
        f"{what} {ast.unparse(value)} is not a permission.",
        f"Use perms.{', perms.'.join(NAMES)}; write it out, because {READ_NOT_RUN.lower()}",
    )


def _argument(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
