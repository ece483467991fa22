"""One attempt of one transaction, on the worker's side: what it read, what it will write, and how it commits.

Reads go to PostgreSQL at the snapshot; writes stay here until commit, and later reads of the transaction see them.
Nothing reaches the database before prepare has answered. :meth:`Transaction.commit` is the commit path::

    prepare   coordinator: validate, number, journal        no writes: nothing to do
    apply     PostgreSQL: one statement, all or nothing
    finish    coordinator: make visible, or find out what happened

Once prepare has answered only the fence in PostgreSQL decides, and this module never reports an outcome it did not
read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from kontract.core import limits
from kontract.core.errors import (
    Code,
    PayloadTooLargeError,
    PermissionDeniedError,
    UnavailableError,
)
from kontract.core.messages import (
    ABSENT,
    Aborted,
    Answer,
    Began,
    Begin,
    Busy,
    Committed,
    Conflict,
    Doubt,
    Fenced,
    Finish,
    Key,
    Prepare,
    Prepared,
    Replayed,
    TooOld,
    WentBack,
    Write,
)
from kontract.core.protocol import idempotency
from kontract.core.protocol.refusal import refusal, went_back
from kontract.core.statements import ApplyPlan, Pending, Selection, Window
from kontract.core.transaction.read_set import ReadSet, span_of
from kontract.core.transaction.turns import Turns
from kontract.core.transaction.write_set import WriteSet
from kontract.core.types import Epoch, Filter, Isolation, Snapshot, TablePointer, Txid, Version
from kontract.ports import (
    ApplyOutcome,
    ApplyRefusedError,
    Clock,
    CoordinatorStub,
    CoordinatorUnavailableError,
    DatabaseError,
    DatabaseUnavailableError,
    Mutex,
    SnapshotTooOldError,
    Store,
)

FINISH_TRIES = 4
"""How often finish is sent to a coordinator that does not answer (it may be restarting) before going on without."""

FINISH_PAUSE_MS = 50

T = TypeVar("T")

CONFLICT = "conflict"
REFUSED = "the database refused the commit"
UNDER_WAY = "the first call with this key is still running"


class RetryError(Exception):
    """This attempt cannot commit, but another may: run the function again once ``after`` is visible."""

    def __init__(self, reason: str, *, after: int = 0, table: str = "", row_id: str | None = None) -> None:
        """``reason``: why; ``table``, ``row_id``: what it lost on."""
        super().__init__(reason)
        self.reason = reason
        self.after = after
        self.table = table
        self.row_id = row_id

    @property
    def counts(self) -> bool:
        """Whether it counts as a lost attempt: conflicts, and commits that the database refused."""
        return self.reason in (CONFLICT, REFUSED)


class ReplayedError(Exception):
    """This idempotent call has already committed: return its result instead."""

    def __init__(self, txid: Txid, result: str | None) -> None:
        """Keep the txid and result of the first commit."""
        super().__init__(f"already applied as {txid}")
        self.txid = txid
        self.result = result


class Call(Struct, frozen=True, kw_only=True):
    """What all attempts of one call share.

    ``begins``: the function may run only after the coordinator has answered a begin, even if it needs no snapshot: it
    is not yet known that the session is live.
    """

    id: str
    owner: str
    user: str
    session: str = ""
    read_only: bool = False
    isolation: Isolation = Isolation.SERIALIZABLE
    idempotent: bool = False
    begins: bool = False
    remembered: bool = True  # if idempotent: even if nothing was written


def _never_applied(prepared: Prepared, refused: ApplyRefusedError | None) -> Exception:
    """Return the error of an attempt whose fence says never."""
    if refused is not None and refused.answer is not None:
        return refused.answer
    return RetryError(REFUSED, after=prepared.txid)


def _whole(rows: list[Version]) -> list[Version]:
    """Return the rows before the first that did not fit into its page."""
    return rows[: next((at for at, row in enumerate(rows) if not row.data), len(rows))]


class Transaction:
    """One attempt. Its methods may be awaited from several tasks of the handler; see :mod:`.turns`."""

    def __init__(
        self,
        call: Call,
        attempt: int,
        coordinator: CoordinatorStub,
        store: Store,
        clock: Clock,
        mutex: Callable[[], Mutex],
    ) -> None:
        """Start without reads and writes."""
        self.call = call
        self.attempt = attempt
        self.snapshot: Snapshot | None = None
        self._epoch = Epoch(0)
        self._coordinator = coordinator
        self._store = store
        self._clock = clock
        self._turns = Turns(mutex)
        self._reads = ReadSet()
        self._writes = WriteSet()
        self._doom: Exception | None = None
        self._closed = False
        self._tables: dict[str, str] = {}  # physical to logical name, for messages

    async def doubt(self) -> None:
        """Tell the coordinator that a connection was lost, so that it checks the database behind the next one."""
        with contextlib.suppress(CoordinatorUnavailableError):
            await self._coordinator.ask(Doubt())

    async def check_first(self) -> None:
        """Raise ReplayedError or RetryError when another run of this idempotent call has committed, or is about to.

        It is for a call that fails: two concurrent runs must not have two outcomes. Our own errors do not replace the
        function's.
        """
        try:
            answer = await self._ask_begin(0)
        except CoordinatorUnavailableError:
            return
        if isinstance(answer, Replayed):
            raise ReplayedError(answer.txid, answer.result)
        if isinstance(answer, Conflict):
            raise RetryError(UNDER_WAY, after=answer.txid)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def begin(self, after: int = 0) -> Snapshot:
        """Get the snapshot that all reads of this attempt use. ``after`` must be visible at it."""
        self._check_open()
        if self.snapshot is not None:
            return self.snapshot
        async with self._turns.to_begin():
            self._check_open()
            return await self._begin_once(after) if self.snapshot is None else self.snapshot

    async def get(self, pointer: TablePointer, row_id: str) -> Version | None:
        """Read one row: the transaction's own write if there is one, else the version at the snapshot."""
        row = await self._get(pointer, row_id)
        return row if pointer.shows(row) else None

    async def page(
        self, pointer: TablePointer, wanted: Filter, window: Window, *, limited: bool
    ) -> tuple[list[Version], bool]:
        """Read one page of a query, and whether there may be more.

        ``limited``: no rows beyond it are needed, so changes there do not conflict.
        """
        rows, own = await self._find(pointer, wanted, window)
        whole = _whole(rows)
        if rows and not whole:
            raise self._too_large(pointer, rows[0].id)
        more = len(whole) < len(rows) or len(rows) >= window.limit
        if wanted.id is None:
            span = span_of(window, whole[-1] if more else None) if limited else None
            self._reads.depend_on(pointer, wanted, span)
        else:
            self._reads.ask_for(Key(pointer.ptr, wanted.id))
        self._remember(pointer, whole, own)
        return whole, more

    async def exists(self, pointer: TablePointer, wanted: Filter) -> bool:
        """Return whether there is a row; only the one that was found can then conflict."""
        rows, _ = await self._find(pointer, wanted, Window(limit=1))
        if wanted.id is not None:
            self._reads.ask_for(Key(pointer.ptr, wanted.id))
        elif rows:
            self._reads.ask_for(Key(pointer.ptr, rows[0].id))
        else:
            self._reads.depend_on(pointer, wanted)
        return bool(rows)

    async def _find(self, pointer: TablePointer, wanted: Filter, window: Window) -> tuple[list[Version], set[str]]:
        """Run a query; return its rows, and the ids of this transaction's writes that it was given."""
        snapshot = await self.begin()
        own: list[Pending] = []

        def query() -> Awaitable[list[Version]]:
            own.extend(self._writes.pending(pointer))
            return self._store.query(pointer, wanted, snapshot, window, own)

        rows = await self._reading(pointer, query)
        return rows, {row.id for row in own}

    async def get_many(self, pointer: TablePointer, row_ids: Sequence[str]) -> list[Version | None]:
        """Read rows by id, unknown ones with one statement; None for missing rows."""
        self._check_open()
        keys = {row_id: Key(pointer.ptr, row_id) for row_id in row_ids}
        left = [one for one, key in keys.items() if key not in self._writes and key not in self._reads.rows]
        while left:
            left = await self._read_some(pointer, left)
        return [row if pointer.shows(row := self._known(keys[row_id])) else None for row_id in row_ids]

    async def _read_some(self, pointer: TablePointer, row_ids: list[str]) -> list[str]:
        """Read as many of these rows as fit into a page, in order of their ids, and return the other ids."""
        snapshot = await self.begin()
        rows = await self._reading(pointer, lambda: self._store.read_rows(pointer, row_ids, snapshot))
        whole = _whole(rows)
        if rows and not whole:
            raise self._too_large(pointer, rows[0].id)
        found = {row.id: row for row in whole}
        left = [one for one in row_ids if len(whole) < len(rows) and one > whole[-1].id]
        with self._dooming():
            self._reads.count(row.data for row in whole)
            for row_id in set(row_ids).difference(left):
                self._reads.note(Key(pointer.ptr, row_id), found.get(row_id))
        return left

    async def count(self, pointer: TablePointer, wanted: Filter) -> int:
        """Count rows."""
        snapshot = await self.begin()
        self._reads.depend_on(pointer, wanted, counted=True)
        return await self._reading(
            pointer, lambda: self._store.count(pointer, wanted, snapshot, self._writes.pending(pointer))
        )

    async def select(self, pointer: TablePointer, selection: Selection) -> list[str]:
        """Run a checked SELECT; returns rows as JSON text."""
        snapshot = await self.begin()
        self._reads.depend_on_table(pointer)
        rows = await self._reading(
            pointer,
            lambda: self._store.select(pointer, selection, snapshot, self._writes.pending(pointer)),
            alone=True,
        )
        with self._dooming():
            self._reads.count(rows)
        return rows

    async def history(self, pointer: TablePointer, row_id: str) -> list[tuple[Version, int | None]]:
        """Read the versions of a row at the snapshot, without uncommitted writes."""
        snapshot = await self.begin()
        self._reads.ask_for(Key(pointer.ptr, row_id))
        versions = await self._reading(pointer, lambda: self._store.history(pointer, row_id, snapshot))
        whole = [(version, ended) for version, ended in versions if version.data]
        if versions and not whole:
            raise self._too_large(pointer, row_id)
        with self._dooming():
            self._reads.count(version.data for version, _ in whole)
        return whole

    async def take_end(self, pointer: TablePointer, *, last: bool) -> Version | None:
        """Delete and return the row inserted last or first; None if there is no row."""
        async with self._turns.to_write():
            self._check_writable(pointer)
            snapshot = await self.begin()
            own = self._writes.pending(pointer)
            row = await self._reading(pointer, lambda: self._store.end_row(pointer, snapshot, own, last=last))
            self._depend_on_end(pointer, row, last=last)
            if row is not None:
                if not row.data:
                    raise self._too_large(pointer, row.id)
                self._remember(pointer, [row], {row.id for row in own})
                self._buffer(pointer, row.id, None, blind=False)
            return row

    # --- writing -----------------------------------------------------------------------------------------------------

    async def put(self, pointer: TablePointer, row_id: str, data: str) -> bool:
        """Write a row, whether it exists or not, without reading it; return False if it is another user's.

        Only if rows belong to users it has to be read, to check its owner.
        """
        async with self._turns.to_write():
            self._check_writable(pointer)
            if pointer.only is not None:
                row = await self._get(pointer, row_id)
                if row is not None and not pointer.shows(row):
                    return False
            self._buffer(pointer, row_id, data, blind=True)
            return True

    async def add(self, pointer: TablePointer, row_id: str, data: str, *, fresh: bool) -> bool:
        """Write a row that must not exist; return False if it does. ``fresh``: the id is new, so it is not read."""
        async with self._turns.to_write():
            self._check_writable(pointer)
            if not fresh and await self._get(pointer, row_id) is not None:
                return False
            if fresh:
                self._reads.rows.setdefault(Key(pointer.ptr, row_id), None)
            self._buffer(pointer, row_id, data, blind=False)
            return True

    async def replace(self, pointer: TablePointer, row_id: str, data: str) -> None:
        """Write a row that has been read in this attempt."""
        async with self._turns.to_write():
            self._check_writable(pointer)
            self._buffer(pointer, row_id, data, blind=False)

    async def remove(self, pointer: TablePointer, row_id: str) -> bool:
        """Delete a row; return False if there is none."""
        async with self._turns.to_write():
            self._check_writable(pointer)
            if not pointer.shows(await self._get(pointer, row_id)):
                return False
            self._buffer(pointer, row_id, None, blind=False)
            return True

    # --- ending ------------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the function has returned or failed."""
        return self._closed

    def close(self) -> None:
        """Refuse everything from now on: the function has returned or failed."""
        self._closed = True

    async def commit(self, result: str | None = None) -> Txid | None:
        """Commit what was written and return its txid; None when nothing was written.

        An idempotent call may commit even then, with only a fence, to be remembered with its ``result``.
        Raises RetryError when the attempt lost, ReplayedError for a repeated idempotent call, HttpError when the
        outcome cannot be determined (COMMIT_UNKNOWN) or the coordinator is fenced or unreachable.
        """
        self._closed = True
        if self._doom is not None:
            raise self._doom
        # Made once: what was validated and journalled is applied, even if a stray task writes meanwhile.
        changes = self._writes.changes(result)
        if not changes and not (self.call.idempotent and self.call.remembered):
            return None
        prepared = await self._prepare(changes, result)
        refused = None
        try:
            outcome = await self._store.apply(self._plan(prepared, changes, result))
        except ApplyRefusedError as error:
            outcome, refused = ApplyOutcome.FAILED, error
        return await self._finish(prepared, outcome, refused)

    async def _prepare(self, changes: list[tuple[TablePointer, Write]], result: str | None) -> Prepared:
        # A function that only reads has its place in the order at its snapshot, although its fence is younger.
        serializable = (
            self.call.isolation is Isolation.SERIALIZABLE and self.snapshot is not None and not self.call.read_only
        )
        message = Prepare(
            call=self.call.id,
            attempt=self.attempt,
            user=self.call.user,
            snapshot=self.snapshot,
            epoch=self._epoch,
            reads=self._reads.keys if serializable else [],
            predicates=self._reads.predicates if serializable else [],
            writes=[write for _, write in changes] or [idempotency.fence_of(self.call.id)],
            isolation=self.call.isolation.value,
            idempotent=self.call.idempotent,
            result=result,
            session=self.call.session,
            order={pointer.ptr: pointer.last_order for pointer, write in changes if write.may_insert},
        )
        try:
            answer = await self._coordinator.ask(message)
        except CoordinatorUnavailableError as error:
            # If it was prepared, nothing will apply it: its deadline aborts it.
            raise RetryError("the coordinator did not answer") from error
        match answer:
            case Prepared():
                return answer
            case Conflict(ptr=idempotency.FENCES):
                raise RetryError(UNDER_WAY, after=answer.txid)
            case Conflict():
                table = self._tables.get(answer.ptr, answer.ptr)
                raise RetryError(CONFLICT, after=answer.txid, table=table, row_id=answer.id)
            case TooOld():
                raise RetryError("the snapshot is too old")
            case Busy():
                raise RetryError("busy")
            case Replayed():
                raise ReplayedError(answer.txid, answer.result)
            case _:
                raise refusal(answer)

    def _plan(self, prepared: Prepared, changes: list[tuple[TablePointer, Write]], result: str | None) -> ApplyPlan:
        by_table: dict[str, tuple[TablePointer, list[Write]]] = {}
        for pointer, write in changes:
            by_table.setdefault(pointer.ptr, (pointer, []))[1].append(write)
        return ApplyPlan(
            prepared.sid,
            self.call.owner,
            self.call.user,
            prepared.txid,
            prepared.epoch,
            list(by_table.values()),
            None if self.call.id.startswith(idempotency.BRIEF) else result,
            prepared.order,
            prepared.witnesses,
        )

    async def _finish(self, prepared: Prepared, outcome: ApplyOutcome, refused: ApplyRefusedError | None) -> Txid:
        applied = outcome is ApplyOutcome.APPLIED
        fenced = outcome in (ApplyOutcome.FENCED, ApplyOutcome.WENT_BACK)
        if outcome is ApplyOutcome.FAILED and refused is None:
            await self.doubt()
        answer = await self._tell(Finish(prepared.txid, prepared.epoch, applied, fenced=fenced, checked=True))
        if applied or isinstance(answer, Committed):
            # The database said so. Without the coordinator's answer the commit may become visible a little later.
            return prepared.txid
        if outcome is ApplyOutcome.WENT_BACK:
            raise went_back()
        if isinstance(answer, Aborted):
            raise _never_applied(prepared, refused) from refused
        if isinstance(answer, Replayed):
            raise ReplayedError(answer.txid, answer.result)
        fence = await self._store.resolve(prepared.sid, self.call.owner, prepared.txid)
        if fence is None and refused is not None and refused.answer is not None:
            fence = await self._fence_that_cannot_be_written(prepared)
        if fence is None:
            message = (
                "the outcome of this call is unknown because the database does not answer; it is settled when the "
                "database is back. Repeat the call with its Idempotency-Key, or check the data first"
            )
            raise UnavailableError(message, code=Code.COMMIT_UNKNOWN)
        if fence == prepared.txid:
            return prepared.txid
        if fence > 0:
            raise ReplayedError(Txid(fence), None)
        if isinstance(answer, WentBack):
            raise went_back()
        if isinstance(answer, Fenced):
            raise refusal(answer)
        raise _never_applied(prepared, refused) from refused

    async def _fence_that_cannot_be_written(self, prepared: Prepared) -> int | None:
        """Read the fence of this call in a database that accepts no writes; None if it does not answer.

        The database has reported that it did not apply the transaction, and nothing else applies it. Once it accepts
        writes again, the coordinator writes -T.
        """
        try:
            found = await self._store.committed(self.call.id)
        except (DatabaseError, DatabaseUnavailableError) as error:
            # A call without a key has no other runs that may have committed before.
            return None if self.call.idempotent or isinstance(error, DatabaseUnavailableError) else -prepared.txid
        return -prepared.txid if found is None else found[0]

    async def _tell(self, message: Finish) -> Answer | None:
        for trial in range(FINISH_TRIES):
            try:
                return await self._coordinator.ask(message)
            except CoordinatorUnavailableError:
                if trial + 1 < FINISH_TRIES:
                    await self._clock.sleep(FINISH_PAUSE_MS << trial)
        return None

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _begin_once(self, after: int) -> Snapshot:
        self._store.warm()  # connects while the coordinator answers
        try:
            answer = await self._ask_begin(after)
        except CoordinatorUnavailableError as error:
            raise self._doomed(RetryError("the coordinator did not answer")) from error
        match answer:
            case Began():
                if answer.unsure:
                    await self._ask_fence(answer.snapshot)
                self.snapshot, self._epoch = answer.snapshot, answer.epoch
                return answer.snapshot
            case Replayed():
                raise self._doomed(ReplayedError(answer.txid, answer.result))
            case Conflict():
                raise self._doomed(RetryError(UNDER_WAY, after=answer.txid))
            case _:
                raise self._doomed(refusal(answer))

    async def _ask_begin(self, after: int) -> Answer:
        return await self._coordinator.ask(
            Begin(self.call.id, self.attempt, after, idempotent=self.call.idempotent, session=self.call.session)
        )

    async def _ask_fence(self, snapshot: Snapshot) -> None:
        """Check whether this idempotent call had committed before the coordinator's memory begins."""
        try:
            found = await self._store.committed(self.call.id)
        except Exception as error:
            self._doom = error
            raise
        if found is None:
            return
        txid, result = found
        if txid > snapshot:
            raise self._doomed(RetryError(UNDER_WAY, after=txid))  # a recent one: not before it is visible to others
        raise self._doomed(ReplayedError(txid, result))

    async def _get(self, pointer: TablePointer, row_id: str) -> Version | None:
        self._check_open()
        key = Key(pointer.ptr, row_id)
        if key not in self._writes and key not in self._reads.rows:
            snapshot = await self.begin()
            row = await self._reading(pointer, lambda: self._store.read_row(pointer, row_id, snapshot))
            if key in self._reads.rows:  # by another task, at the same snapshot
                return self._reads.rows[key]
            if row is not None and not row.data:
                raise self._too_large(pointer, row_id)
            with self._dooming():
                self._reads.count([row.data] if row is not None else [])
                self._reads.note(key, row)
            return row
        return self._known(key)

    def _known(self, key: Key) -> Version | None:
        """Return a row that was written or read in this attempt."""
        return self._writes.row(key) if key in self._writes else self._reads.rows[key]

    async def _reading(self, pointer: TablePointer, read: Callable[[], Awaitable[T]], *, alone: bool = False) -> T:
        self._tables[pointer.ptr] = pointer.name

        def statement() -> Awaitable[T]:
            self._check_open()  # it may have waited
            return read()

        try:
            return await self._turns.read(statement, alone=alone)
        except SnapshotTooOldError:
            raise self._doomed(RetryError("the snapshot is too old")) from None
        except Exception:
            self._reads.depend_on_table(pointer)  # a function that continues has seen that much
            raise

    def _doomed(self, error: Exception) -> Exception:
        """Make sure that a function that swallows this error cannot commit."""
        self._doom = error
        return error

    def _depend_on_end(self, pointer: TablePointer, row: Version | None, *, last: bool) -> None:
        """Depend on what could come before the row that was inserted last or first.

        New rows get the highest numbers, so none comes before the first; and only its deletion can remove the row that
        was found. When numbers run out, several rows share one.
        """
        runs_out = pointer.order_limit - pointer.last_order < limits.ORDER_RESERVE
        if row is None or row.txid == 0 or runs_out:
            self._reads.depend_on_table(pointer)
        elif last:
            self._reads.depend_on_inserts(pointer)

    def _remember(self, pointer: TablePointer, rows: Sequence[Version], own: Collection[str]) -> None:
        """Record that rows were read. ``own``: ids of own writes that the statement was given, which were not read."""
        with self._dooming():
            self._reads.count(row.data for row in rows)
            for row in rows:
                if row.id not in own:
                    self._reads.note(Key(pointer.ptr, row.id), row)

    @contextlib.contextmanager
    def _dooming(self) -> Iterator[None]:
        """Exceeding a limit ends the transaction, even if its function continues."""
        try:
            yield
        except PayloadTooLargeError as error:
            self._doom = error
            raise

    def _buffer(self, pointer: TablePointer, row_id: str, data: str | None, *, blind: bool) -> None:
        key = Key(pointer.ptr, row_id)
        self._tables[pointer.ptr] = pointer.name
        with self._dooming():
            if key in self._writes:
                self._writes.change(key, data)
            elif key in self._reads.rows:
                version = self._reads.rows[key]
                seen = ABSENT if version is None else version.txid
                self._writes.add(key, pointer, data, seen, version, self.call.user)
            elif blind:
                self._writes.add(key, pointer, data, None, None, self.call.user)
            else:
                message = f"row {row_id!r} was not read before it was written"
                raise AssertionError(message)

    def _check_open(self) -> None:
        if self._doom is not None:
            raise self._doom
        if self._closed:
            message = "ctx.storage was used after the function returned; its transaction has ended"
            raise RuntimeError(message)

    def _check_writable(self, pointer: TablePointer) -> None:
        self._check_open()
        if self.call.read_only:
            message = f"this function may not write ({pointer.name}): give it the W bit, for example perm=perms.RW_"
            raise PermissionDeniedError(message)

    def _too_large(self, pointer: TablePointer, row_id: str) -> PayloadTooLargeError:
        message = (
            f"row {row_id!r} of table {pointer.name!r} is larger than {limits.PAGE_BYTES} bytes in PostgreSQL's text "
            "form and cannot be read; read parts of it with exec, or make it smaller with SQL"
        )
        return PayloadTooLargeError(message)
