"""What an attempt will write: the final value of each row, buffered until commit."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Raw

from kontract.core import limits
from kontract.core.errors import PayloadTooLargeError
from kontract.core.messages import ABSENT, NOTHING, Key, Write
from kontract.core.statements import Pending
from kontract.core.types import TablePointer, Version


@dataclass(slots=True)
class _Buffered:
    """The pending write of one row; ``data`` is JSON text, None for a deletion."""

    pointer: TablePointer
    seen: int | None
    old: str | None
    data: str | None
    owner: str | None


class WriteSet:
    """The writes of one attempt."""

    def __init__(self) -> None:
        """Start with nothing written."""
        self._rows: dict[Key, _Buffered] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Count the rows that were written."""
        return len(self._rows)

    def __contains__(self, key: Key) -> bool:
        """Whether a row was written."""
        return key in self._rows

    def row(self, key: Key) -> Version | None:
        """Return a row that was written as this attempt sees it: under txid 0, None when it was deleted."""
        buffered = self._rows[key]
        return None if buffered.data is None else Version(key.id, buffered.data, 0, buffered.owner or "")

    def pending(self, pointer: TablePointer) -> list[Pending]:
        """Return the writes of a table as its reads see them."""
        return [Pending(key.id, b.data) for key, b in self._rows.items() if key.ptr == pointer.ptr]

    def change(self, key: Key, data: str | None) -> None:
        """Write a row again."""
        buffered = self._rows[key]
        self._grow(len(data or "") - len(buffered.data or ""))
        buffered.data = data

    def add(
        self, key: Key, pointer: TablePointer, data: str | None, seen: int | None, version: Version | None, owner: str
    ) -> None:
        """Write a row for the first time. ``seen``: as in :class:`Write`; ``version``: what was read, if anything was.

        ``owner``: whose row it becomes if there is none yet. Raises PayloadTooLargeError, after the write.
        """
        old = None if version is None else version.data
        self._rows[key] = _Buffered(pointer, seen, old, data, owner if version is None else version.owner)
        self._grow(len(data or ""))

    def _grow(self, by: int) -> None:
        self._bytes += by
        if self._bytes > limits.WRITE_SET_BYTES:
            message = f"this transaction writes more than {limits.WRITE_SET_BYTES} bytes; split it into several calls"
            raise PayloadTooLargeError(message)

    def changes(self, result: str | None) -> list[tuple[TablePointer, Write]]:
        """Return what is to be committed beside a kept ``result``; rows that came and went are not in it.

        What the rows were goes to the journal for streams alone, which do without when it is too much for it. Raises
        PayloadTooLargeError.
        """
        if self._bytes + len(result or "") > limits.WRITE_SET_BYTES:
            message = (
                f"this transaction writes more than {limits.WRITE_SET_BYTES} bytes, including its answer, which is "
                "stored for the Idempotency-Key; split it, or return less"
            )
            raise PayloadTooLargeError(message)
        rows = [(key, b) for key, b in self._rows.items() if not (b.seen == ABSENT and b.data is None)]
        with_old = self._bytes + sum(len(b.old or "") for _, b in rows) <= limits.WRITE_SET_BYTES
        return [(b.pointer, _write(key, b, with_old=with_old)) for key, b in rows]


def _write(key: Key, buffered: _Buffered, *, with_old: bool) -> Write:
    return Write(
        table=buffered.pointer.name,
        ptr=key.ptr,
        id=key.id,
        seen=buffered.seen,
        data=NOTHING if buffered.data is None else Raw(buffered.data.encode()),
        old=Raw(buffered.old.encode()) if with_old and buffered.old is not None else NOTHING,
        owner=buffered.owner,
    )
