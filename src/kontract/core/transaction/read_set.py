"""What an attempt has read: rows by key, and sets of rows by predicate. The coordinator validates both at prepare."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw

from kontract.core import limits
from kontract.core.errors import PayloadTooLargeError
from kontract.core.messages import Key, Predicate
from kontract.core.model import documents
from kontract.core.statements import Window
from kontract.core.types import Filter, Order, RowPosition, Span, TablePointer, Version

_encode = msgspec.json.Encoder(order="sorted").encode


class ReadSet:
    """The reads of one attempt. Methods raise PayloadTooLargeError when they are over the limits of a transaction."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self.rows: dict[Key, Version | None] = {}
        self._asked_for: set[Key] = set()
        self._predicates: dict[bytes, Predicate] = {}
        self._bytes = 0

    @property
    def keys(self) -> list[Key]:
        """All rows that were read, or looked for."""
        return [*self.rows, *(self._asked_for - self.rows.keys())]

    @property
    def predicates(self) -> list[Predicate]:
        """All sets of rows that were read."""
        return list(self._predicates.values())

    def ask_for(self, key: Key) -> None:
        """Note a row that was asked for by its id and more: what is there is not known."""
        self._asked_for.add(key)

    def note(self, key: Key, row: Version | None) -> None:
        """Note a row that was read, or that there is none; of two reads the first counts."""
        self.rows.setdefault(key, row)
        if len(self.rows) > limits.READ_SET_ROWS:
            message = f"this transaction reads more than {limits.READ_SET_ROWS} rows; read fewer at a time"
            raise PayloadTooLargeError(message)

    def count(self, texts: Iterable[str]) -> None:
        """Add to the bytes read. Each statement is bounded, and READS_AT_ONCE of them run."""
        self._bytes += sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
        if self._bytes > limits.READ_BYTES:
            message = (
                f"this transaction reads more than {limits.READ_BYTES} bytes of rows; read fewer at a time, with a "
                "filter or limit=, or less of each with exec"
            )
            raise PayloadTooLargeError(message)

    def depend_on_table(self, pointer: TablePointer) -> None:
        """Depend on every write of a table."""
        self._add(Predicate(pointer.ptr, whole=True))

    def depend_on_inserts(self, pointer: TablePointer) -> None:
        """Depend on new rows of a table."""
        self._add(Predicate(pointer.ptr, inserts=True))

    def depend_on(
        self, pointer: TablePointer, wanted: Filter, span: Span | None = None, *, counted: bool = False
    ) -> None:
        """Depend on rows that match a filter, in part of an order. ``counted``: the keys of those there are not known.

        A count by a value that may be stored in several spellings depends on every write: the filter that the
        coordinator gets leaves such a value out, so it could not tell which rows were counted.
        """
        if counted and wanted.spelled:
            self.depend_on_table(pointer)
            return
        contains = Raw(_encode(wanted.certain()))
        self._add(Predicate(pointer.ptr, contains, counted, wanted.bounds, span, counted=counted))

    def _add(self, predicate: Predicate) -> None:
        self._predicates.setdefault(_encode(predicate), predicate)


def span_of(window: Window, last: Version | None) -> Span | None:
    """Return the part of an order that a page shows, up to its last row (None: to the end); None: nobody can tell."""
    if window.order_by is not None and window.order is None:
        return None  # it compares as JSON
    after = None if window.after is None else RowPosition(documents.text_of(window.after_value), window.after)
    until = None
    if last is not None:
        value = None if window.order_by is None else documents.text_of(documents.part(last.data, window.order_by))
        until = RowPosition(value, last.id)
    if window.order_by is None:
        # The id is the value, too.
        after, until = (None if one is None else RowPosition(one.id, one.id) for one in (after, until))
    return Span(window.order_by or "", window.order or Order.TEXT, window.descending, after, until)
