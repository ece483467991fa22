"""The transaction protocol's view of the database, over a connection that runs SQL statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kontract.core import sql
from kontract.core.sql import ApplyPlan, Page, Pending
from kontract.core.types import Filter, Snapshot, TableKind, TablePointer, Version
from kontract.ports import ApplyOutcome, Database, DatabaseError, DatabaseUnavailableError, SnapshotTooOldError


class TableMissingError(Exception):
    """``storage`` points to a physical table that does not exist or cannot hold versions."""


class SqlStore:
    """Implements :class:`kontract.ports.Store` with the statements of :mod:`kontract.core.sql`."""

    def __init__(self, database: Database) -> None:
        """Use ``database`` for everything; it is closed with the store."""
        self._database = database

    def warm(self) -> None:
        """Start connecting in the background."""
        self._database.warm()

    async def ping(self) -> None:
        """Ask the database for a sign of life; raises what the database raises."""
        await self._database.run(sql.PING)

    async def lookup(self, owner: str, name: str) -> TablePointer | None:
        """Find a logical table and what kind of table it is."""
        rows = await self._database.run(sql.lookup(owner, name))
        if not rows:
            return None
        ptr, permissions, key_columns = rows[0]
        if not sql.IDENTIFIER.fullmatch(ptr):
            message = f"storage points {name!r} to {ptr!r}, which is not a valid table name"
            raise TableMissingError(message)
        kind = {1: TableKind.PLAIN, 2: TableKind.VERSIONED}.get(key_columns)
        if kind is None:
            message = f"storage points {name!r} to {ptr!r}, which is not a table with primary key (id) or (id, _txid)"
            raise TableMissingError(message)
        return TablePointer(name, ptr, kind, permissions)

    async def read_row(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Version | None:
        """Read one row at the snapshot."""
        rows = await self._database.run(sql.read_row(pointer, row_id, snapshot))
        return _only(_versions(rows))

    async def query(
        self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, page: Page, pending: Sequence[Pending]
    ) -> list[Version]:
        """Read a page of rows at the snapshot, under one's own writes."""
        return _versions(await self._database.run(sql.query(pointer, wanted, snapshot, page, pending)))

    async def end_row(
        self, pointer: TablePointer, snapshot: Snapshot, pending: Sequence[Pending], *, last: bool
    ) -> Version | None:
        """Read the row inserted last or first."""
        return _only(_versions(await self._database.run(sql.end_row(pointer, snapshot, pending, last=last))))

    async def count(self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, pending: Sequence[Pending]) -> int:
        """Count rows at the snapshot, under one's own writes."""
        counted = _versions(await self._database.run(sql.count(pointer, wanted, snapshot, pending)))
        return counted[0].txid

    async def apply(self, plan: ApplyPlan) -> ApplyOutcome:
        """Run the apply statement. FAILED means no more than that success was not read."""
        try:
            await self._database.run(sql.apply(plan))
        except DatabaseError as error:
            if sql.verdict(error.sqlstate, error.message) == sql.FENCED:
                return ApplyOutcome.FENCED
            return ApplyOutcome.FAILED
        except DatabaseUnavailableError:
            return ApplyOutcome.FAILED
        return ApplyOutcome.APPLIED

    async def resolve(self, sid: str, owner: str, txid: int) -> int | None:
        """Write or read the fence; None when the database did not say."""
        try:
            rows = await self._database.run(sql.resolve(sid, owner, txid))
        except (DatabaseError, DatabaseUnavailableError):
            return None
        return int(rows[0][0])

    async def read_epoch(self, owner: str) -> int | None:
        """Return the epoch that may commit, 0 when there is no such row; None when the database did not say."""
        try:
            rows = await self._database.run(sql.read_epoch(owner))
        except (DatabaseError, DatabaseUnavailableError):
            return None
        return int(rows[0][0]) if rows else 0

    async def take_over(self, owner: str, at_least: int) -> tuple[int, int]:
        """Raise the epoch, then read the highest txid in use: (epoch, txid).

        The order matters: once the epoch is raised no apply of an older one can add a txid. Raises what the database
        raises.
        """
        epoch = int((await self._database.run(sql.raise_epoch(owner, at_least)))[0][0])
        highest = int((await self._database.run(sql.highest_fence(owner)))[0][0])
        ptrs = [row[0] for row in await self._database.run(sql.pointers(owner))]
        valid = [ptr for ptr in ptrs if sql.IDENTIFIER.fullmatch(ptr)]
        if valid:
            highest = max(highest, int((await self._database.run(sql.highest_txid(valid)))[0][0]))
        return epoch, highest

    async def aclose(self) -> None:
        """Give the connection back."""
        await self._database.aclose()


def _versions(rows: Sequence[Sequence[Any]]) -> list[Version]:
    versions = [Version(row[0], row[1] or "", int(row[2]), row[3] or "") for row in rows]
    if versions and versions[-1].id == sql.TOO_OLD_ID:
        raise SnapshotTooOldError
    return versions


def _only(versions: list[Version]) -> Version | None:
    return versions[0] if versions else None
