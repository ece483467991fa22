"""The arguments of a backend function: from its annotations to a decoder of the request body."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, get_type_hints

import msgspec

from kontract.core.errors import InvalidRequestError
from kontract.core.fields import guarded, refuse

CONTEXT_NAMES = frozenset({"Context"})


class Signature:
    """What a backend function takes: its RPC parameters in order, and where the context goes."""

    def __init__(self, function: Callable[..., Any], name: str, context_type: type) -> None:
        """Read the annotations; raises TypeError with a sentence for what cannot be called over RPC."""
        self.name = name
        self._context_at: str | None = None
        hints = get_type_hints(function, include_extras=True)
        fields: list[Any] = []
        self.fields: list[tuple[str, Any, Any]] = []
        """Of each argument: its name, its type, and its default (inspect.Parameter.empty for none)."""
        self.parameters: list[str] = []
        self._guarded: list[tuple[int, str, Any]] = []  # position, name, type: may hold fields callers may not write
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name)
            if hint is context_type:
                self._context_at = parameter.name
                continue
            self._check(parameter, hint)
            self.parameters.append(parameter.name)
            self.fields.append((parameter.name, hint, parameter.default))
            if parameter.default is inspect.Parameter.empty and any(len(field) == 3 for field in fields):
                message = (
                    f"{name}: parameter {parameter.name} has no default but follows one that has; the arguments of a "
                    "call have an order, so put it first"
                )
                raise TypeError(message)
            if parameter.default is inspect.Parameter.empty:
                fields.append((parameter.name, hint))
            else:
                fields.append((parameter.name, hint, _default(parameter.default)))
            if guarded(hint):
                self._guarded.append((len(self.parameters) - 1, parameter.name, hint))
        self.required = sum(len(field) == 2 for field in fields)
        self._arguments = msgspec.defstruct(
            "Arguments", fields, array_like=True, forbid_unknown_fields=True, kw_only=False
        )

    def bind(self, arguments: list[Any], context: Any) -> dict[str, Any]:
        """Return the keyword arguments of a call.

        Raises InvalidRequestError naming the argument at fault, PermissionDeniedError for a field of a row that callers
        may not write.
        """
        if not self.required <= len(arguments) <= len(self.parameters):
            raise InvalidRequestError(self._wrong_number(len(arguments)))
        for position, name, hint in self._guarded:
            if position < len(arguments):
                refuse(hint, arguments[position], f"{self.name}: argument {name}")
        try:
            values = msgspec.convert(arguments, self._arguments)
        except msgspec.ValidationError as error:
            raise InvalidRequestError(self._wrong_type(str(error))) from None
        bound = {parameter: getattr(values, parameter) for parameter in self.parameters}
        if self._context_at is not None:
            bound[self._context_at] = context
        return bound

    def _check(self, parameter: inspect.Parameter, hint: Any) -> None:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            message = f"{self.name}: a backend function cannot take *{parameter.name}; name its parameters"
            raise TypeError(message)
        if hint is None:
            message = f"{self.name}: parameter {parameter.name} needs a type annotation; arguments are validated by it"
            raise TypeError(message)

    def _wrong_number(self, given: int) -> str:
        names = ", ".join(
            name if position < self.required else f"[{name}]" for position, name in enumerate(self.parameters)
        )
        return f"{self.name} takes ({names}), but {given} argument{'' if given == 1 else 's'} came"

    def _wrong_type(self, error: str) -> str:
        text, _, path = error.partition(" - at `$[")
        if not path:
            return f"{self.name}: {error}"
        position, _, rest = path.rstrip("`").partition("]")
        return f"{self.name}: argument {self.parameters[int(position)]}{rest}: {text}"


def _default(value: Any) -> Any:
    if isinstance(value, (list, dict, set, bytearray)):
        return msgspec.field(default_factory=lambda: copy(value))
    return value
