"""Results of backend functions: checked against the annotation while they are encoded.

Typed clients trust the annotation, and a struct checks nothing when it is constructed. So the encoded result is decoded
as its declared type, in compiled code, and the outcome is sent: a dict for a struct gets its defaults, and a 5 for a
Decimal becomes "5".
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from kontract.core import headers as header_fields
from kontract.core import limits
from kontract.core.errors import PayloadTooLargeError
from kontract.core.model import typed, values
from kontract.core.model.fields import redact
from kontract.core.model.kinds import holds, kind_of
from kontract.core.model.shown import hides
from kontract.gateway.http import JSON, HttpResp, Response, encode_json

_EXACT = (str, int, bool, type(None))
"""Types whose values need no further check when their class is the declared one."""


class ResultError(TypeError):
    """A function's result does not match its annotation or cannot be sent; the message is for the log."""


class Result:
    """The results of one function."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        """Read the return annotation; raises TypeError when msgspec cannot handle it."""
        self._name = name
        code = function.__code__
        self._where = f"{code.co_filename}:{code.co_firstlineno}: {function.__name__}"
        hint = typing.get_type_hints(function, include_extras=True).get("return", Any)
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        self.chooses_status = any((get_origin(one) or one) is HttpResp for one in members)
        carried = [(get_args(one) or (Any,))[0] if (get_origin(one) or one) is HttpResp else one for one in members]
        self.hint: Any = Union[tuple(carried)]  # noqa: UP007 - made of a list
        """The type of the value for every status: for ``HttpResp[Task]`` that is Task."""
        kind = kind_of(self.hint)
        self._is_any = holds(kind, (inspect.CustomType,)) or isinstance(kind, inspect.AnyType)
        self._may_hold_nan = holds(kind, (inspect.FloatType, inspect.AnyType, inspect.CustomType))
        self._may_hold_decimals = holds(kind, (inspect.DecimalType,))
        self._hides = hides(kind)
        self._has_defaults = holds(kind, (inspect.DataclassType,))
        self._decode = values.Decoder[Any](Any if self._is_any else self.hint).decode

    def response(self, value: Any) -> Response:
        """Return the answer for what the function returned.

        This runs before the commit: a result that cannot be sent aborts it. Raises ResultError, and
        PayloadTooLargeError when the result is too large.
        """
        return self._respond(value, self._checked)

    def middleware_response(self, value: Any) -> Response:
        """Return the answer for what middleware returns in place of the function's result, of whatever type it is."""
        return self._respond(value, redact)

    def _respond(self, value: Any, prepare: Callable[[Any], Any]) -> Response:
        if not isinstance(value, HttpResp):
            return Response(200, self._encoded(value, prepare), {"Content-Type": JSON})
        answer = value
        if type(answer.status) is not int or not 200 <= answer.status <= 599:
            message = f"{self._where} returned status {answer.status!r:.50}, which is not a valid HTTP status"
            raise ResultError(message)
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "content-type"}
        try:
            header_fields.check(headers)
        except ValueError as error:
            message = f"{self._where} returned a value that HTTP cannot carry: {error}"
            raise ResultError(message) from error
        if not answer.has_body:
            return Response(answer.status, b"", headers)
        # The details of an error are not the declared result.
        body = self._encoded(answer.value, prepare if answer.status < 300 else redact)
        return Response(answer.status, body, headers | {"Content-Type": JSON})

    def _encoded(self, value: Any, prepare: Callable[[Any], Any]) -> bytes:
        try:
            body = encode_json({"result": prepare(value)})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, ResultError):
                raise
            message = f"{self._where} returned a value that JSON cannot represent: {error}"
            raise ResultError(message) from error
        if len(body) > limits.ANSWER_BYTES:
            message = (
                f"{self._name} returned more than {limits.ANSWER_BYTES} bytes; return fewer rows at a time, for "
                "example with limit= and after="
            )
            raise PayloadTooLargeError(message)
        return body

    def _checked(self, value: Any) -> Any:
        if type(value) is self.hint and self.hint in _EXACT:
            return value
        text = encode_json(value)
        if self._may_hold_nan and b"null" in text:
            values.check_finite(value)
        if self._is_any:
            return redact(value)
        try:
            found = self._decode(text)
        except msgspec.ValidationError as error:
            message = f"{self._where} returned a value that does not match its annotation: {error}"
            raise ResultError(message) from None
        if self._may_hold_decimals:
            try:
                typed.check_decimals(found, "it")
            except values.UnspeakableError as error:
                message = f"{self._where} returned a number that other languages cannot read: {error}"
                raise ResultError(message) from None
        # Only the values know their hidden fields below `Any` and `list`.
        shown = redact(value)
        if shown is not value:
            return shown
        if self._has_defaults:
            typed.completed(found)
        return redact(found) if self._hides else found
