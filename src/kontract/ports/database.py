"""PostgreSQL as the transaction protocol sees it: a connection, and the store over it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

from kontract.core.errors import HttpError
from kontract.core.statements import ApplyPlan, Pending, Selection, Statement, Window
from kontract.core.types import Filter, Snapshot, TablePointer, Txid, Version


class DatabaseError(Exception):
    """PostgreSQL answered with an error: the statement has had no effect. ``sqlstate`` is its five-character code.

    ``constraint``: the name of the constraint or unique index that was violated, if that is what happened.
    """

    def __init__(self, sqlstate: str, message: str, constraint: str = "") -> None:
        """Keep code and message; neither may reach a caller."""
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate
        self.message = message
        self.constraint = constraint


class DatabaseUnavailableError(Exception):
    """There is no connection, or it was lost: it is unknown whether a running statement took effect."""


class SnapshotTooOldError(Exception):
    """A newer version has replaced the one of the snapshot (plain tables): begin again."""


class ApplyRefusedError(Exception):
    """PostgreSQL refused the apply statement; its DatabaseError is the cause.

    ``answer``: the error for the caller if no other attempt can succeed, for example for a constraint of the table.
    Another apply of the same transaction may still have succeeded: the fence decides, as always.
    """

    def __init__(self, answer: HttpError | None) -> None:
        """``answer``: None if another attempt may succeed."""
        super().__init__("the database refused the commit")
        self.answer = answer


class ApplyOutcome(Enum):
    """What a worker knows after it sent the apply statement. Only APPLIED is certain."""

    APPLIED = "applied"
    FAILED = "failed"
    FENCED = "fenced"
    WENT_BACK = "went back"


class Database(Protocol):
    """A connection (or a pool) that runs one statement at a time per transaction."""

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows; raises DatabaseError or DatabaseUnavailableError."""
        ...

    def warm(self) -> None:
        """Start connecting, if that takes time, and return at once; errors surface at the first statement."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to release."""
        ...

    async def aclose(self) -> None:
        """Give the connection back. Never raises."""
        ...


class Store(Protocol):
    """The database as the transaction protocol sees it. ``SqlStore`` implements it over a Database."""

    def warm(self) -> None:
        """Start connecting in the background."""
        ...

    async def lookup(self, owner: str, name: str) -> TablePointer | None:
        """Find a logical table; None when the owner has none of that name."""
        ...

    async def read_row(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Version | None:
        """Read one row; raises SnapshotTooOldError."""
        ...

    async def read_rows(self, pointer: TablePointer, row_ids: Sequence[str], snapshot: Snapshot) -> list[Version]:
        """Read rows in order of their ids, as many as fit into a page; raises SnapshotTooOldError.

        The data of those that do not fit is empty.
        """
        ...

    async def query(
        self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, window: Window, pending: Sequence[Pending]
    ) -> list[Version]:
        """Read a page of rows with this transaction's own writes (with txid 0); raises SnapshotTooOldError."""
        ...

    async def end_row(
        self, pointer: TablePointer, snapshot: Snapshot, pending: Sequence[Pending], *, last: bool
    ) -> Version | None:
        """Read the row inserted last (or first) with this transaction's own writes; raises SnapshotTooOldError."""
        ...

    async def count(self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, pending: Sequence[Pending]) -> int:
        """Count rows with this transaction's own writes; raises SnapshotTooOldError."""
        ...

    async def select(
        self, pointer: TablePointer, selection: Selection, snapshot: Snapshot, pending: Sequence[Pending]
    ) -> list[str]:
        """Run a checked SELECT with this transaction's own writes; return rows as JSON, at most one over the limit.

        Raises SnapshotTooOldError, and InvalidRequestError for what PostgreSQL cannot evaluate.
        """
        ...

    async def history(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> list[tuple[Version, int | None]]:
        """Read the versions of a row, oldest first, each with the txid that ended it; raises SnapshotTooOldError."""
        ...

    async def apply(self, plan: ApplyPlan) -> ApplyOutcome:
        """Run the apply statement; raises ApplyRefusedError when the database answered with an error."""
        ...

    async def resolve(self, sid: str, owner: str, txid: int) -> int | None:
        """Write or read the fence; None when the database did not answer."""
        ...

    async def committed(self, call: str) -> tuple[Txid, str | None] | None:
        """Return txid and stored result of a committed idempotent call; None if it has not committed."""
        ...

    async def aclose(self) -> None:
        """Give the connection back. Never raises."""
        ...
