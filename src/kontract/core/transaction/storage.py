"""``ctx.storage``: the tables of the caller's owner, inside the running transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import ValidationError
from msgspec.structs import replace

from kontract.core import limits
from kontract.core.errors import Code, ConflictError, InvalidRequestError, NotFoundError, PermissionDeniedError
from kontract.core.model import documents
from kontract.core.model.page import Page
from kontract.core.model.perms import ALL, EXECUTE, READ, WRITE, may_write, name_of
from kontract.core.model.rows import RowType
from kontract.core.statements import Window
from kontract.core.transaction import cursors, select
from kontract.core.transaction.catalog import Catalog
from kontract.core.transaction.transaction import Transaction
from kontract.core.types import TablePointer, Version
from kontract.ports import Store


class Storage:
    """All tables by name: ``ctx.storage.tasks`` or ``ctx.storage["tasks"]``."""

    def __init__(
        self,
        transaction: Transaction,
        store: Store,
        catalog: Catalog,
        row_type: Callable[[str], RowType],
        new_id: Callable[[], str],
        perm: int = ALL,
    ) -> None:
        """Bind tables to one transaction of a function with the permission ``perm``."""
        self._perm = perm
        self._transaction = transaction
        self._store = store
        self._catalog = catalog
        self._row_type = row_type
        self._new_id = new_id

    def __getitem__(self, name: str) -> Table:
        """Return the table; its first use checks whether it exists."""
        return Table(name, self._row_type(name), self._transaction, self._reach, self._new_id)

    def __getattr__(self, name: str) -> Table:
        """Return the table; names that start with an underscore need brackets."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    async def _reach(self, rows: RowType, need: int) -> TablePointer:
        """Return the table's pointer for this caller; raises PermissionDeniedError if permission bits are missing."""
        if need & READ and not self._perm & READ:
            message = f"this function may not read ({rows.name}): give it the R bit, for example perm=perms.RW_"
            raise PermissionDeniedError(message)
        if need & WRITE and not may_write(self._perm):
            # Also where there is nothing to write: what a function may do does not depend on which rows there are.
            message = f"this function may not write ({rows.name}): give it the W bit, for example perm=perms.RW_"
            raise PermissionDeniedError(message)
        pointer = await self._catalog.pointer(self._store, self._transaction.call.owner, rows.name)
        missing = need & ~pointer.permissions
        if missing:
            what = "read" if missing & READ else "written" if missing & WRITE else "asked with SQL"
            message = (
                f"table {rows.name!r} may not be {what}: its permissions in storage are {name_of(pointer.permissions)}"
            )
            raise PermissionDeniedError(message)
        return replace(pointer, only=self._transaction.call.user) if rows.own else pointer


class Table:
    """One logical table. Rows are instances of its ``@table`` struct, or dicts with their id under ``"id"``.

    All methods raise NotFoundError when the owner has no such table, InvalidRequestError for values that cannot be
    stored, PermissionDeniedError when the function or the table (in ``storage``) lacks a permission bit (R to read, W
    to write, R and X for ``exec``), and PayloadTooLargeError above the limits. In a table with ``rows="own"`` the rows
    of other users are invisible.
    """

    def __init__(
        self,
        name: str,
        rows: RowType,
        transaction: Transaction,
        reach: Callable[[RowType, int], Awaitable[TablePointer]],
        new_id: Callable[[], str],
    ) -> None:
        """Bind a table to one transaction."""
        self.name = name
        self._rows = rows
        self._transaction = transaction
        self._reach = reach
        self._new_id = new_id

    async def get(self, id: str) -> Any | None:  # noqa: A002 - public name
        """Return the row; None if there is none."""
        row_id = documents.check_id(id, self.name)
        version = await self._transaction.get(await self._reach(self._rows, READ), row_id)
        return None if version is None else self._rows.decode(version)

    async def set(self, id: str, value: Any) -> None:  # noqa: A002
        """Write the row, whether it exists or not. It does not read the row, so it conflicts with almost nothing.

        In a table with ``rows="own"`` it does read it, and raises ConflictError (ALREADY_EXISTS) for another user's
        row.
        """
        row_id = documents.check_id(id, self.name)
        data = self._rows.encode(value, row_id)
        if not await self._transaction.put(await self._reach(self._rows, WRITE), row_id, data):
            raise self._taken(row_id)

    async def insert(self, id: str, value: Any) -> None:  # noqa: A002
        """Write a new row; raises ConflictError (ALREADY_EXISTS) if the id exists."""
        row_id = documents.check_id(id, self.name)
        data = self._rows.encode(value, row_id)
        if not await self._transaction.add(await self._reach(self._rows, WRITE), row_id, data, fresh=False):
            raise self._taken(row_id)

    async def update(self, id: str, /, **changes: Any) -> Any:  # noqa: A002
        """Change fields of a row and return the new row; raises NotFoundError if there is none."""
        row_id = documents.check_id(id, self.name)
        pointer = await self._reach(self._rows, READ | WRITE)
        version = await self._transaction.get(pointer, row_id)
        if version is None:
            message = f"table {self.name!r} has no row {row_id!r}"
            raise NotFoundError(message)
        await self._transaction.replace(pointer, row_id, self._rows.merge(version.data, changes, row_id))
        return await self.get(row_id)

    async def delete(self, id: str) -> bool:  # noqa: A002
        """Delete the row; return False if there was none."""
        row_id = documents.check_id(id, self.name)
        return await self._transaction.remove(await self._reach(self._rows, WRITE), row_id)

    async def push(self, value: Any) -> str:
        """Append a row under a new, time-ordered id (UUID version 7) and return the id."""
        data = self._rows.encode(value, None)
        row_id = self._new_id()
        await self._transaction.add(await self._reach(self._rows, WRITE), row_id, data, fresh=True)
        return row_id

    async def pop(self) -> Any | None:
        """Delete and return the row inserted last; None if there is none."""
        return await self._take(last=True)

    async def shift(self) -> Any | None:
        """Delete and return the row inserted first; None if there is none."""
        return await self._take(last=False)

    async def count(self, filter: Mapping[str, Any] | None = None) -> int:  # noqa: A002 - public name
        """Count the rows that match ``filter``."""
        wanted = self._rows.filter(filter)
        return await self._transaction.count(await self._reach(self._rows, READ), wanted)

    async def query(
        self,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - public name
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Any]:
        """Iterate over the rows that match ``filter``, in order of id, or of ``order_by`` and then id.

        ``filter``: values that fields contain, and conditions of :mod:`kontract.where`; all must hold. Fields of a
        declared table compare by their types; null and absent come first, and pass no condition. InvalidRequestError
        for a field whose type has no order.

        ``after``: the id of the last row of the previous page; with ``order_by`` that row must still exist. ``page``
        has cursors that outlive their rows.
        """
        wanted = self._rows.filter(filter)
        field, order = (None, None) if order_by is None else self._rows.order(order_by)
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            message = f"limit must be a whole number from 0, not {limit!r:.50}"
            raise InvalidRequestError(message)
        position = None if after is None else documents.check_id(after, self.name)
        pointer = await self._reach(self._rows, READ)
        value = None
        if field is not None and position is not None:
            last = await self._transaction.get(pointer, position)
            if last is None:
                message = (
                    f"after: table {self.name!r} has no row {position!r} any more; start again from the first page"
                )
                raise InvalidRequestError(message)
            value = documents.part(last.data, field)
        left = limit
        while left is None or left > 0:
            size = limits.QUERY_ROWS if left is None else min(left, limits.QUERY_ROWS)
            page = Window(field, descending, position, size, value, order)
            versions, more = await self._transaction.page(pointer, wanted, page, limited=limit is not None)
            for version in versions:
                yield self._rows.decode(version)
            if not more or not versions:
                return
            position = versions[-1].id
            value = None if field is None else documents.part(versions[-1].data, field)
            if left is not None:
                left -= len(versions)

    async def first(
        self,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - public name
        *,
        order_by: str | None = None,
        descending: bool = False,
    ) -> Any | None:
        """Return the first row that matches, in the order that ``query`` has, or None."""
        rows = [row async for row in self.query(filter, order_by=order_by, descending=descending, limit=1)]
        return rows[0] if rows else None

    async def exists(self, filter: Mapping[str, Any] | None = None) -> bool:  # noqa: A002 - public name
        """Return whether a row matches."""
        wanted = self._rows.filter(filter)
        return await self._transaction.exists(await self._reach(self._rows, READ), wanted)

    async def get_many(self, ids: Sequence[str]) -> list[Any | None]:
        """Return rows by their ids, in the order of these, None where there is none. It costs one statement."""
        row_ids = [documents.check_id(one, self.name) for one in ids]
        if len(row_ids) > limits.QUERY_ROWS:
            message = f"get_many of table {self.name!r} takes at most {limits.QUERY_ROWS} ids, not {len(row_ids)}"
            raise InvalidRequestError(message)
        versions = await self._transaction.get_many(await self._reach(self._rows, READ), row_ids)
        return [None if version is None else self._rows.decode(version) for version in versions]

    async def page(
        self,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - public name
        *,
        order_by: str | None = None,
        descending: bool = False,
        size: int = limits.PAGE_ROWS,
        cursor: str | None = None,
    ) -> Page[Any]:
        """Return a page of the rows that match: up to ``size`` of them, and the ``cursor`` of the next page.

        The cursor is None at the end. It stays valid when the row that it follows is changed or deleted, and belongs to
        one filter and order: InvalidRequestError with another one.
        """
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= limits.QUERY_ROWS:
            message = f"size must be a whole number from 1 to {limits.QUERY_ROWS}, not {size!r:.50}"
            raise InvalidRequestError(message)
        wanted = self._rows.filter(filter)
        field, order = (None, None) if order_by is None else self._rows.order(order_by)
        question = cursors.digest(self.name, wanted, field, descending=descending)
        after, value = (None, None) if cursor is None else cursors.read(cursor, question, order)
        window = Window(field, descending, after, size, value, order)
        pointer = await self._reach(self._rows, READ)
        versions, more = await self._transaction.page(pointer, wanted, window, limited=True)
        following = None
        if more and versions:
            last = versions[-1]
            following = cursors.write(question, last.id, None if field is None else documents.part(last.data, field))
        return Page([self._rows.decode(version) for version in versions], following)

    async def exec(self, sql: str, params: Sequence[select.Param] = ()) -> list[dict[str, Any]]:
        """Run one SELECT on this table only, for example ``SELECT id, data->>'title' AS title FROM tasks``.

        It sees the columns id, data (jsonb: what callers may see of the row), _txid and _owner of the rows at the
        snapshot, with this transaction's own writes (whose _txid is 0), and counts as reading the whole table.
        ``params`` are bound to $1, $2 and so on. Raises InvalidRequestError for SQL that exec does not allow, or that
        PostgreSQL cannot evaluate.
        """
        selection = select.parse(sql, params, self.name, self._rows.struct)
        return select.rows(await self._transaction.select(await self._reach(self._rows, READ | EXECUTE), selection))

    async def history(self, id: str) -> list[dict[str, Any]]:  # noqa: A002 - public name
        """Return the stored versions of a row, oldest first: ``{"txid", "deleted_txid", "value"}``.

        Dead versions are collected after a while; at most the newest limits.QUERY_ROWS are returned. The value of a
        version that is too old for the struct is a dict with what callers may see of it.
        """
        row_id = documents.check_id(id, self.name)
        versions = await self._transaction.history(await self._reach(self._rows, READ), row_id)
        return [
            {"txid": version.txid, "deleted_txid": ended, "value": self._old(version)} for version, ended in versions
        ]

    def _old(self, version: Version) -> Any:
        try:
            return self._rows.decode(version)
        except ValidationError:
            return self._rows.shown(version)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over all rows in order of id."""
        return self.query()

    def _taken(self, row_id: str) -> ConflictError:
        message = f"table {self.name!r} already has a row {row_id!r}"
        return ConflictError(message, code=Code.ALREADY_EXISTS)

    async def _take(self, *, last: bool) -> Any | None:
        version = await self._transaction.take_end(await self._reach(self._rows, READ | WRITE), last=last)
        return None if version is None else self._rows.decode(version)
