"""The body of a call: a JSON array of arguments, or one value in place of an array of one."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from kontract.core import documents
from kontract.core.errors import InvalidRequestError


def check(body: bytes) -> None:
    """Raise InvalidRequestError for a body that :func:`decode` must not be given, or that means two things."""
    documents.check_depth(body, "the request body")
    documents.check(_decode(body), "arguments")
    check_names(body)


def check_names(body: bytes) -> None:
    """Raise InvalidRequestError when an object of valid JSON has a name twice.

    What that means differs from parser to parser (RFC 8259, section 4). The one that decodes takes the last; something
    in front of the gateway may have looked at the first.
    """
    if b"{" in body:
        json.loads(body, object_pairs_hook=_unique, parse_int=str, parse_float=str)


def decode(body: bytes) -> list[Any]:
    """Return the arguments of a checked body; none when it is empty."""
    value = _decode(body)
    return value if isinstance(value, list) else [value]


def _decode(body: bytes) -> Any:
    if not body.strip():
        return []
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the request body is not valid JSON: {error}"
        raise InvalidRequestError(message) from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        message = f"the request body has an object with the name {twice!r:.100} twice"
        raise InvalidRequestError(message)
