"""The arguments of a backend function: from its annotations to decoders of the request body."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from copy import copy
from decimal import Decimal
from enum import Enum
from typing import Any, get_type_hints

import msgspec

from kontract.core import incoming, limits
from kontract.core.errors import InvalidRequestError
from kontract.core.model import typed, values
from kontract.core.model.fields import check, guarded, refuse
from kontract.core.model.kinds import holds, kind_of

_INTEGER_DIGITS = 20
"""Digits of an integer written as a float: more than 64 bits have."""

_STRING_OR_FLOAT = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"|(?<![\d.])-?\d++(?:\.\d++(?:[eE][+-]?\d++)?|[eE][+-]?\d++)', re.DOTALL
)

_anything = values.Decoder[Any]()
_decode_any = msgspec.json.Decoder().decode
_decode_one = msgspec.json.Decoder(msgspec.Raw).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Passing(Enum):
    """How the body of a call carries its arguments."""

    BY_POSITION = "position"
    """An array of arguments, or a single one that is not an array: ``POST /rpc/<function>``."""

    BY_NAME = "name"
    """An object of arguments by name: ``POST /call/<function>``."""


class Arguments:
    """The arguments of one call, checked. Each attempt is given its own: a function may change what it gets."""

    def __init__(self, first: dict[str, Any], decode: Callable[[], dict[str, Any]], context_at: str | None) -> None:
        """``decode``: what makes them again. ``context_at``: where the context goes."""
        self._unused: dict[str, Any] | None = first
        self._decode = decode
        self._context_at = context_at

    def take(self, context: Any) -> dict[str, Any]:
        """Return them as keyword arguments, which nobody else has."""
        taken, self._unused = self._unused, None
        if taken is None:
            taken = self._decode()
        if self._context_at is not None:
            taken[self._context_at] = context
        return taken


class Signature:
    """The parameters of a backend function: those of calls in order, and the one for the context."""

    def __init__(self, function: Callable[..., Any], name: str, context_type: type) -> None:
        """Read the annotations; raises TypeError for a function that cannot be called over HTTP."""
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
            check(hint, f"{name}: parameter {parameter.name}")
            self.parameters.append(parameter.name)
            self.fields.append((parameter.name, hint, parameter.default))
            if parameter.default is inspect.Parameter.empty and any(len(field) == 3 for field in fields):
                message = (
                    f"{name}: parameter {parameter.name} has no default but follows one that has; callers can pass "
                    "arguments by position, so put it first"
                )
                raise TypeError(message)
            if parameter.default is inspect.Parameter.empty:
                fields.append((parameter.name, hint))
            else:
                fields.append((parameter.name, hint, _default(parameter.default)))
            if guarded(hint):
                self._guarded.append((len(self.parameters) - 1, parameter.name, hint))
        check(hints.get("return"), f"{name}: what it returns")
        self._kinds = {name: kind_of(hint) for name, hint, _ in self.fields}
        self._takes_floats = any(holds(kind, (msgspec.inspect.FloatType,)) for kind in self._kinds.values())
        self._takes_dataclasses = any(holds(kind, (msgspec.inspect.DataclassType,)) for kind in self._kinds.values())
        decimals = (msgspec.inspect.DecimalType,)
        self._take_decimals = [name for name, kind in self._kinds.items() if holds(kind, decimals)]
        self.required = sum(len(field) == 2 for field in fields)
        by_position = msgspec.defstruct("Arguments", fields, array_like=True, forbid_unknown_fields=True)
        by_name = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True)
        self._decoders = {
            Passing.BY_POSITION: values.Decoder[Any](by_position),
            Passing.BY_NAME: values.Decoder[Any](by_name),
        }

    def read(self, body: bytes, passing: Passing = Passing.BY_POSITION) -> Arguments:
        """Return the arguments of a call, checked. An empty body has none.

        Raises InvalidRequestError naming the wrong argument, PermissionDeniedError for a field that callers may not
        write.
        """
        joints = incoming.check(body)
        odd = self._unheld(joints, passing)
        incoming.check_text(body)
        text = _array(body) if passing is Passing.BY_POSITION else body.strip() or b"{}"
        try:
            self._refuse(text)
            given = self._decode(text, passing, joints, odd)
        except msgspec.ValidationError as error:
            raise InvalidRequestError(self._explain(str(error), text, passing)) from None
        except values.TooManyNumbersError:
            message = (
                f"{self.name}: more than {limits.JSON_UNUSUAL_NUMBERS} numbers have more digits than a float holds; "
                "round them, declare Decimals, or send strings"
            )
            raise InvalidRequestError(message) from None
        except TypeError as error:  # a list within a set, where anything was declared
            raise InvalidRequestError(f"{self.name}: {error}") from None
        if self._takes_floats and odd:
            self._check_digits(text, joints, odd)
        bound = self._bind(given)
        for name in self._take_decimals:
            try:
                typed.check_decimals(bound[name], f"argument {name}")
            except values.UnspeakableError as error:
                raise InvalidRequestError(f"{self.name}: {error}") from None
        return Arguments(bound, lambda: self._bind(self._decode(text, passing, joints, odd)), self._context_at)

    def _bind(self, given: Any) -> dict[str, Any]:
        bound = {parameter: getattr(given, parameter) for parameter in self.parameters}
        if self._takes_dataclasses:
            typed.completed(bound)
        return bound

    def _unheld(self, joints: bytes, passing: Passing) -> tuple[str, ...]:
        if not self._takes_floats and not self._decoders[passing].is_open:
            return ()
        return values.unheld(joints, integers=self._takes_floats)

    def _decode(self, text: bytes, passing: Passing, joints: bytes, odd: tuple[str, ...]) -> Any:
        def decoder(text: bytes) -> Any:
            return self._decoders[passing].decode_with(text, joints, odd, limits.JSON_UNUSUAL_NUMBERS)

        try:
            return incoming.parse(text, decoder)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            # In JSON 5 and 5.0 are the same number, and some callers send 5.0 for an integer.
            return incoming.parse(_STRING_OR_FLOAT.sub(_as_integer, text), decoder)

    def _check_digits(self, text: bytes, joints: bytes, odd: tuple[str, ...]) -> None:
        """Refuse a number that a float cannot hold where a float is declared."""
        for some in (odd[:1], odd):  # usually the first one fails, and the others need not be built
            sent = _anything.decode_with(text, joints, some)
            named = sent.items() if isinstance(sent, dict) else zip(self.parameters, sent, strict=False)
            for name, value in named:
                place = typed.rounded(self._kinds[name], value, name)
                if place is not None:
                    message = (
                        f"{self.name}: argument {place}: a float cannot hold all digits of this number; round it, or "
                        "declare a Decimal"
                    )
                    raise InvalidRequestError(message)

    def _refuse(self, text: bytes) -> None:
        """Refuse fields that callers may not write, before decoding hides which fields were sent."""
        if not self._guarded:
            return
        sent = incoming.parse(text, _decode_any)
        for position, name, hint in self._guarded:
            if isinstance(sent, list) and position < len(sent):
                refuse(hint, sent[position], f"{self.name}: argument {name}")
            elif isinstance(sent, dict) and name in sent:
                refuse(hint, sent[name], f"{self.name}: argument {name}")

    def _check(self, parameter: inspect.Parameter, hint: Any) -> None:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            message = f"{self.name}: a backend function cannot take *{parameter.name}; name its parameters"
            raise TypeError(message)
        if hint is None:
            message = f"{self.name}: parameter {parameter.name} needs a type annotation to validate arguments"
            raise TypeError(message)

    def _explain(self, error: str, text: bytes, passing: Passing) -> str:
        """Return msgspec's error as a sentence, with the name of the argument."""
        # A decoder stops at the first wrong type; invalid JSON after it is the greater mistake.
        with contextlib.suppress(msgspec.ValidationError):
            incoming.parse(text, _decode_any)
        what, _, path = error.partition(" - at `$")
        path = path.rstrip("`")
        position, _, rest = path.removeprefix("[").partition("]")
        if path.startswith("[") and int(position) < len(self.parameters):
            return f"{self.name}: argument {self.parameters[int(position)]}{rest}: {what}"
        if path.startswith("."):
            return f"{self.name}: argument {path[1:]}: {what}"
        if passing is Passing.BY_POSITION:
            return self._wrong_number(len(_decode_items(text)))
        return self._wrong_names(text)

    def _wrong_number(self, given: int) -> str:
        names = ", ".join(
            name if position < self.required else f"[{name}]" for position, name in enumerate(self.parameters)
        )
        if not names:
            return f"{self.name} takes no arguments but got {given}"
        most, least = len(self.parameters), self.required
        count = f"{most} argument{'' if most == 1 else 's'}" if least == most else f"{least} to {most} arguments"
        return f"{self.name} takes {count} ({names}) but got {given}"

    def _wrong_names(self, text: bytes) -> str:
        try:
            sent = _decode_names(text)
        except msgspec.ValidationError:
            return f"{self.name}: the request body must be an object of arguments by name"
        takes = f"it takes {', '.join(self.parameters)}" if self.parameters else "it takes no arguments"
        unknown = [name for name in sent if name not in self.parameters]
        if unknown:
            return f"{self.name} has no argument {unknown[0]!r:.100}; {takes}"
        missing = ", ".join(name for name in self.parameters[: self.required] if name not in sent)
        return f"{self.name}: missing arguments: {missing}"


def _array(body: bytes) -> bytes:
    """Return the array of arguments; a single value becomes an array of one."""
    text = body.strip()
    if not text:
        return b"[]"
    if text.startswith(b"["):
        return text
    incoming.parse(text, _decode_one)  # it is a single value: `1, 2` must not become two
    return b"[" + text + b"]"


def _as_integer(found: re.Match[bytes]) -> bytes:
    """Return a whole float as an integer; everything else unchanged."""
    token = found[0]
    if token.startswith(b'"'):
        return token
    number = Decimal(token.decode())
    if number.is_finite() and number.adjusted() < _INTEGER_DIGITS and number == (whole := int(number)):
        return str(whole).encode()
    return token


def _default(value: Any) -> Any:
    if isinstance(value, (list, dict, set, bytearray)):
        return msgspec.field(default_factory=lambda: copy(value))
    return value
