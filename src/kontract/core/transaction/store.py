"""The transaction protocol's view of the database, over a connection that runs SQL statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kontract.core.errors import InternalError
from kontract.core.statements import ApplyPlan, Pending, Selection, Statement, Window
from kontract.core.transaction import fences, sql, sqlstates
from kontract.core.transaction.select import TOO_LARGE, explain, too_large
from kontract.core.types import Filter, Snapshot, TableKind, TablePointer, Txid, Version
from kontract.ports import (
    ApplyOutcome,
    ApplyRefusedError,
    Database,
    DatabaseError,
    DatabaseUnavailableError,
    SnapshotTooOldError,
)

KINDS = {1: TableKind.PLAIN, 2: TableKind.VERSIONED, sql.JUST_ADOPTED: TableKind.VERSIONED}
"""What the lookup says of a table's primary key."""


SYSTEM = "__system"
"""The owner of the gateway's own tables. No token names it."""

SESSIONS = "__sessions"
"""Its table of sessions: see :mod:`kontract.gateway.accounts`."""

_NO_SESSIONS = frozenset({"42P01", "42501"})  # undefined_table, insufficient_privilege


class TableMissingError(Exception):
    """``storage`` points to a physical table that does not exist or cannot hold versions."""


class SqlStore:
    """Implements :class:`kontract.ports.Store` with the statements of :mod:`kontract.core.transaction.sql`."""

    def __init__(self, database: Database) -> None:
        """Use ``database``, which is closed with the store."""
        self._database = database
        self.failure: DatabaseError | DatabaseUnavailableError | None = None
        """Why :meth:`resolve` and :meth:`standing` last returned None."""

    def warm(self) -> None:
        """Start connecting in the background."""
        self._database.warm()

    async def ready(self) -> None:
        """Check that the database accepts writes; raises the database's errors."""
        await self._database.run(sql.READY)

    async def lookup(self, owner: str, name: str) -> TablePointer | None:
        """Find a logical table and what kind of table it is."""
        rows = await self._database.run(sql.lookup(owner, name))
        if not rows:
            return None
        ptr, permissions, key_columns, last_order, order_bytes = rows[0]
        if not sql.IDENTIFIER.fullmatch(ptr):
            message = f"storage points {name!r} to {ptr!r}, which is not a valid table name"
            raise TableMissingError(message)
        kind = KINDS.get(key_columns)
        if kind is None:
            message = f"storage points {name!r} to {ptr!r}, which is not a table with primary key (id) or (id, _txid)"
            raise TableMissingError(message)
        return TablePointer(
            name,
            ptr,
            kind,
            permissions,
            just_adopted=key_columns == sql.JUST_ADOPTED,
            last_order=last_order or 0,
            order_limit=2 ** (8 * order_bytes - 1) - 1,
        )

    async def read_row(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Version | None:
        """Read one row at the snapshot."""
        rows = await self._database.run(sql.read_row(pointer, row_id, snapshot))
        return _only(_versions(rows))

    async def read_rows(self, pointer: TablePointer, row_ids: Sequence[str], snapshot: Snapshot) -> list[Version]:
        """Read rows in order of id, as many as fit into a page."""
        return _versions(await self._database.run(sql.read_rows(pointer, row_ids, snapshot)))

    async def query(
        self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, window: Window, pending: Sequence[Pending]
    ) -> list[Version]:
        """Read a page of rows at the snapshot, with this transaction's own writes."""
        return _versions(await self._compared(pointer, sql.query(pointer, wanted, snapshot, window, pending)))

    async def end_row(
        self, pointer: TablePointer, snapshot: Snapshot, pending: Sequence[Pending], *, last: bool
    ) -> Version | None:
        """Read the row inserted last or first."""
        return _only(_versions(await self._database.run(sql.end_row(pointer, snapshot, pending, last=last))))

    async def count(self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, pending: Sequence[Pending]) -> int:
        """Count rows at the snapshot, with this transaction's own writes."""
        [(_, _, counted, _)] = _shown(await self._compared(pointer, sql.count(pointer, wanted, snapshot, pending)))
        return int(counted)

    async def _compared(self, pointer: TablePointer, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run a read that compares fields by type; rows from other writers may not match their types."""
        try:
            return await self._database.run(statement)
        except DatabaseError as error:
            if not error.sqlstate.startswith("22"):
                raise
            message = (
                f"table {pointer.name!r} has rows whose values do not match the declared type of their field and "
                "cannot be compared; kontract doctor names them"
            )
            raise InternalError(message) from error

    async def select(
        self, pointer: TablePointer, selection: Selection, snapshot: Snapshot, pending: Sequence[Pending]
    ) -> list[str]:
        """Run a checked SELECT at the snapshot, with this transaction's own writes; return rows as JSON text."""
        try:
            rows = await self._database.run(sql.select(pointer, selection, snapshot, pending))
        except DatabaseError as error:
            is_large = sqlstates.verdict(error.sqlstate, error.message) == TOO_LARGE
            refusal = too_large() if is_large else explain(error.sqlstate)
            if refusal is None:
                raise
            # On a plain table the rows may be incomplete, not the SELECT wrong: overwritten versions are missing.
            if pointer.kind is TableKind.PLAIN and await self._database.run(sql.has_newer(pointer, snapshot)):
                raise SnapshotTooOldError from None
            raise refusal from None
        return [data for _, data, _, _ in _shown(rows)]

    async def history(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> list[tuple[Version, int | None]]:
        """Read all versions of a row, oldest first, each with the txid that ended it if that is in the snapshot."""
        rows = _shown(await self._database.run(sql.history(pointer, row_id, snapshot)))
        return [
            (Version(row[0], row[1] or "", int(row[2]), ""), int(row[3]) if row[3] else None) for row in reversed(rows)
        ]

    async def apply(self, plan: ApplyPlan) -> ApplyOutcome:
        """Run the apply statement. FAILED only means that success was not confirmed; see ApplyRefusedError."""
        try:
            await self._database.run(sql.apply(plan))
        except DatabaseError as error:
            if sqlstates.verdict(error.sqlstate, error.message) == sql.FENCED:
                return ApplyOutcome.FENCED
            if sqlstates.verdict(error.sqlstate, error.message) == sql.WENT_BACK:
                return ApplyOutcome.WENT_BACK
            if sqlstates.verdict(error.sqlstate, error.message) == sql.STALE:
                raise ApplyRefusedError(None) from error
            raise ApplyRefusedError(sqlstates.refusal(error.sqlstate, error.constraint)) from error
        except DatabaseUnavailableError:
            return ApplyOutcome.FAILED
        return ApplyOutcome.APPLIED

    async def resolve(self, sid: str, owner: str, txid: int) -> int | None:
        """Write or read the fence; None if the database did not answer."""
        try:
            rows = await self._database.run(fences.resolve(sid, owner, txid))
        except (DatabaseError, DatabaseUnavailableError) as error:
            self.failure = error
            return None
        return int(rows[0][0])

    async def committed(self, call: str) -> tuple[Txid, str | None] | None:
        """Return txid and stored result of a committed idempotent call; None if it has not committed.

        Raises what the database raises.
        """
        first = 1
        while True:
            rows = await self._database.run(fences.of_call(call, first))
            for txid, result in rows:
                if int(txid) > 0:
                    return Txid(int(txid)), result
            if len(rows) < fences.ASKED:
                return None
            first += fences.ASKED

    async def read_epoch(self, owner: str) -> int | None:
        """Return the epoch that may commit, 0 if there is no row; None if the database did not answer."""
        try:
            rows = await self._database.run(fences.read_epoch(owner))
        except (DatabaseError, DatabaseUnavailableError):
            return None
        return int(rows[0][0]) if rows else 0

    async def standing(self, owner: str, witnesses: Sequence[str]) -> tuple[int, int] | None:
        """Return the epoch that may commit (0: none), and how many witnesses are missing; None: no answer.

        See :func:`kontract.core.protocol.witnesses.verdict`.
        """
        try:
            rows = await self._database.run(fences.standing(owner, witnesses))
        except (DatabaseError, DatabaseUnavailableError) as error:
            self.failure = error
            return None
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    async def note_loss(self, owner: str, epoch: int, now: int, note: str) -> None:
        """Record that acknowledged commits are lost; raises the database's errors."""
        await self._database.run(fences.note_loss(owner, epoch, now, note))

    async def newest_loss(self) -> int | None:
        """Return when acknowledged commits were last found lost (ms), None: never; raises the database's errors."""
        rows = await self._database.run(fences.newest_loss())
        return int(rows[0][0]) if rows else None

    async def take_over(self, owner: str, at_least: int) -> tuple[int, int]:
        """Raise the epoch, then read the highest txid in use: (epoch, txid).

        The order matters: once the epoch is raised no apply of an older one can add a txid. Raises what the database
        raises, and DatabaseUnavailableError when another coordinator raised the epoch at the same moment.
        """
        before = await self._epoch(owner)
        return await self._raise(owner, max(before + 1, at_least), before)

    async def claim(self, owner: str, epoch: int) -> tuple[int, int]:
        """Raise the epoch to this one unless it is already as high, then continue as :meth:`take_over`."""
        before = await self._epoch(owner)
        if before >= epoch:
            return before, await self._highest(owner)
        return await self._raise(owner, epoch, before)

    async def _epoch(self, owner: str) -> int:
        rows = await self._database.run(fences.read_epoch(owner))
        return int(rows[0][0]) if rows else 0

    async def _raise(self, owner: str, epoch: int, before: int) -> tuple[int, int]:
        if not await self._database.run(fences.raise_epoch(owner, epoch, before)):
            message = f"another coordinator took over {owner!r} at the same moment"
            raise DatabaseUnavailableError(message)
        return epoch, await self._highest(owner)

    async def _highest(self, owner: str) -> int:
        highest = int((await self._database.run(fences.highest_fence(owner)))[0][0])
        ptrs = await self.pointers(owner)
        if ptrs:
            highest = max(highest, int((await self._database.run(fences.highest_txid(ptrs)))[0][0]))
        return highest

    async def ended_sessions(self, owner: str) -> dict[str, int]:
        """Return the ended sessions of an owner, each with the time when it may be forgotten (ms).

        It is empty if the gateway has no table of sessions or may not read it: then there are no sessions. Raises what
        the database raises.
        """
        try:
            pointer = await self.lookup(SYSTEM, SESSIONS)
            if pointer is None:
                return {}
            rows = await self._database.run(fences.ended_sessions(pointer.ptr, owner))
        except TableMissingError:
            return {}
        except DatabaseError as error:
            if error.sqlstate in _NO_SESSIONS:
                return {}
            raise
        return {str(session): int(until) for session, until in rows}

    async def row_order(self, owner: str) -> dict[str, int]:
        """Return for each table of an owner an upper bound of its row numbers; raises the database's errors."""
        return {row[0]: int(row[1]) for row in await self._database.run(fences.row_order(owner))}

    async def pointers(self, owner: str) -> list[str]:
        """Return the physical tables of an owner; raises what the database raises."""
        rows = await self._database.run(fences.pointers(owner))
        return sorted(row[0] for row in rows if sql.IDENTIFIER.fullmatch(row[0]))

    async def collect_versions(self, owner: str, epoch: int, ptr: str, up_to: int) -> int | None:
        """Remove a batch of dead versions: how many, or None in another epoch. Raises what the database raises."""
        return _collected(await self._database.run(fences.collect_versions(owner, epoch, ptr, up_to)), epoch)

    async def collect_fences(self, owner: str, epoch: int, up_to: int) -> int | None:
        """Remove a batch of fences: how many, or None in another epoch. Raises what the database raises."""
        return _collected(await self._database.run(fences.collect_fences(owner, epoch, up_to)), epoch)

    async def collect_sessions(self, now: int) -> int:
        """Remove sessions whose refresh tokens have expired by ``now``, at most COLLECT_ROWS; return how many."""
        pointer = await self.lookup(SYSTEM, SESSIONS)
        if pointer is None:
            return 0
        return len(await self._database.run(fences.collect_sessions(pointer.ptr, SYSTEM, now)))

    async def highest_fence(self, owner: str) -> int:
        """Return the highest txid among the fences; raises what the database raises."""
        return int((await self._database.run(fences.highest_fence(owner)))[0][0])

    async def aclose(self) -> None:
        """Release the connection."""
        await self._database.aclose()


def _shown(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Return the rows of a read, four columns each; raises SnapshotTooOldError when the marker row is among them."""
    if any(row[0] == sql.TOO_OLD_ID for row in rows):
        raise SnapshotTooOldError
    return rows


def _versions(rows: Sequence[Sequence[Any]]) -> list[Version]:
    return [Version(row[0], row[1] or "", int(row[2]), row[3] or "") for row in _shown(rows)]


def _collected(rows: Sequence[Sequence[Any]], epoch: int) -> int | None:
    current, removed = rows[0]
    return int(removed) if current is not None and int(current) == epoch else None


def _only(versions: list[Version]) -> Version | None:
    return versions[0] if versions else None
