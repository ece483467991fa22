"""Cursors: where the next page of a query starts, as text that callers hand back.

A cursor holds the id of the last row and the value that the row was ordered by, so that it stays valid whatever happens
to the row. Both were shown to the caller, so it is neither signed nor encrypted; a digest of the question tells one
that belongs to another query.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec
from msgspec import Struct

from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.core.model import documents
from kontract.core.protocol.ranges import is_value
from kontract.core.types import Filter, Order


class _Cursor(Struct, array_like=True):
    question: str
    id: str
    value: str | None = None


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(_Cursor).decode


def digest(table: str, wanted: Filter, field: str | None, *, descending: bool) -> str:
    """Return what tells one question from others."""
    asked = (table, wanted.contains, wanted.id, wanted.bounds, field, descending)
    return hashlib.sha256(_encode(asked)).hexdigest()[:16]


def write(question: str, row_id: str, value: str | None) -> str:
    """Return the cursor after a row; ``value``: JSON text of the field that rows are ordered by, None without."""
    return urlsafe_b64encode(_encode(_Cursor(question, row_id, value))).decode().rstrip("=")


def read(text: str, question: str, order: Order | None) -> tuple[str, str | None]:
    """Return the id and the value of a cursor; raises InvalidRequestError for one of another question, or of none."""
    found = _read(text)
    if found is None:
        message = "cursor: this is not a cursor that a page returned; start without one"
        raise InvalidRequestError(message)
    if found.question != question:
        message = "cursor: it belongs to another query; use it with the filter and the order that it was returned for"
        raise InvalidRequestError(message)
    if order is not None and not is_value(order, documents.text_of(found.value)):
        message = "cursor: it was changed; use it as it was returned"
        raise InvalidRequestError(message)
    return found.id, found.value


def _read(text: object) -> _Cursor | None:
    if not isinstance(text, str) or len(text) > limits.CURSOR_BYTES:
        return None
    try:
        found = _decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        documents.check_id(found.id, "")
        documents.check_text(documents.text_of(found.value) or "", "")
    except (ValueError, binascii.Error, InvalidRequestError):
        return None
    return found
