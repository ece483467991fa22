"""One attempt on the worker's side, over a store and a coordinator that do as they are told."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from core.fakes import TABLE, Clock, Coordinator, Store, transaction
from kontract.core import limits
from kontract.core.errors import (
    Code,
    HttpError,
    InternalError,
    PayloadTooLargeError,
    PermissionDeniedError,
    UnavailableError,
)
from kontract.core.messages import (
    ABSENT,
    Aborted,
    Began,
    Begin,
    Busy,
    Committed,
    Conflict,
    Fenced,
    Finish,
    InDoubt,
    Key,
    Predicate,
    Prepare,
    Prepared,
    Replayed,
    TooOld,
    Unready,
    WentBack,
)
from kontract.core.statements import Window
from kontract.core.transaction.transaction import FINISH_TRIES, Call, ReplayedError, RetryError
from kontract.core.types import EVERY_ROW, Filter, Isolation, RowPosition, Span
from kontract.ports import ApplyOutcome, CoordinatorUnavailableError, SnapshotTooOldError


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def store() -> Store:
    return Store({"a": '{"n":1}', "b": '{"n":2}'})


@pytest.fixture
def tx(coordinator, store):
    return transaction(coordinator, store)


def sent(coordinator: Coordinator) -> Prepare:
    [prepare] = [message for message in coordinator.heard if isinstance(message, Prepare)]
    return prepare


def writes(prepare: Prepare) -> dict[str, tuple[int | None, object]]:
    return {w.id: (w.seen, msgspec.json.decode(w.data)) for w in prepare.writes}


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_one_snapshot_for_all_reads_and_each_row_once(tx, coordinator, store):
    """Begin comes with the first read, and a row that was read does not change within an attempt."""
    first = await tx.get(TABLE, "a")
    store.rows["a"] = '{"n":99}'
    assert await tx.get(TABLE, "a") == first
    await tx.get(TABLE, "gone")
    assert coordinator.heard == [Begin("call")]
    assert store.snapshots == [7, 7]


async def test_own_writes_are_read_back(tx, store):
    """Insert, change and deletion show in get, and are handed to the database for queries."""
    await tx.put(TABLE, "a", '{"n":10}')
    await tx.add(TABLE, "c", '{"n":3}', fresh=False)
    assert await tx.remove(TABLE, "b")
    assert (await tx.get(TABLE, "a")).data == '{"n":10}'
    assert (await tx.get(TABLE, "c")).data == '{"n":3}'
    assert await tx.get(TABLE, "b") is None
    await tx.page(TABLE, EVERY_ROW, Window(), limited=False)
    assert {p.id: p.data for p in store.pending} == {"a": '{"n":10}', "c": '{"n":3}', "b": None}


async def test_nothing_reaches_the_database_before_prepare_has_answered(tx, coordinator, store):
    """The order of the protocol: begin, reads, prepare, apply, finish."""
    await tx.get(TABLE, "a")
    await tx.replace(TABLE, "a", "{}")
    assert store.applied == []
    assert await tx.commit() == 8
    assert [type(m) for m in coordinator.heard] == [Begin, Prepare, Finish]
    assert coordinator.heard[-1] == Finish(8, 1, applied=True, checked=True)
    [plan] = store.applied
    assert (plan.sid, plan.owner, plan.user, plan.txid, plan.epoch) == ("call/1", "tenant", "ann", 8, 1)


async def test_what_was_read_is_told_at_prepare(tx, coordinator):
    """Every row looked at, every row looked for in vain, and every predicate."""
    await tx.get(TABLE, "a")
    await tx.get(TABLE, "gone")
    await tx.page(TABLE, Filter(id="never"), Window(), limited=False)
    await tx.page(TABLE, Filter({"n": 2}), Window(), limited=False)
    await tx.put(TABLE, "z", "{}")
    await tx.commit()
    prepare = sent(coordinator)
    assert set(prepare.reads) == {Key("tbl", row) for row in ("a", "gone", "never", "b")}
    assert [(bytes(p.contains), p.whole) for p in prepare.predicates] == [(b'{"n":2}', False)]
    assert prepare.snapshot == 7


@pytest.mark.parametrize(
    ("read", "predicates"),
    [
        ("a limited page", [Predicate("tbl", Raw(b'{"n":2}'), span=Span(until=RowPosition("b", "b")))]),
        ("the end of a query", [Predicate("tbl", Raw(b'{"n":2}'), span=Span(after=RowPosition("a", "a")))]),
        ("count", [Predicate("tbl", whole=True, counted=True)]),
        ("count of a spelled value", [Predicate("tbl", whole=True)]),
        ("exists", []),
        ("exists not", [Predicate("tbl", Raw(b'{"n":9}'))]),
        ("pop", [Predicate("tbl", inserts=True)]),
        ("shift", []),
        ("shift of an own row", [Predicate("tbl", whole=True)]),
        ("shift near the last number", [Predicate("tbl", whole=True)]),
    ],
)
async def test_what_answers_depend_on_besides_the_rows_they_return(tx, coordinator, read, predicates):
    """As little as possible, or callers conflict for nothing; never less, or a phantom goes unseen."""
    match read:
        case "a limited page":
            await tx.page(TABLE, Filter({"n": 2}), Window(limit=1), limited=True)
        case "the end of a query":
            await tx.page(TABLE, Filter({"n": 2}), Window(after="a", limit=2), limited=True)
        case "count":
            await tx.count(TABLE, EVERY_ROW)
        case "count of a spelled value":
            await tx.count(TABLE, Filter({"n": "5"}, spelled=frozenset({"n"})))
        case "exists":
            assert await tx.exists(TABLE, Filter({"n": 2}))
            assert await tx.exists(TABLE, EVERY_ROW)
        case "exists not":
            assert not await tx.exists(TABLE, Filter({"n": 9}))
        case "pop":
            assert (await tx.take_end(TABLE, last=True)).id == "b"
        case "shift":
            assert (await tx.take_end(TABLE, last=False)).id == "a"
        case "shift of an own row":
            await tx.put(TABLE, "a", '{"n":10}')
            assert (await tx.take_end(TABLE, last=False)).txid == 0
        case "shift near the last number":
            await tx.take_end(replace(TABLE, last_order=TABLE.order_limit - limits.ORDER_RESERVE + 1), last=False)
    await tx.put(TABLE, "z", "{}")
    await tx.commit()
    assert sent(coordinator).predicates == predicates


async def test_rows_by_their_ids_cost_one_statement_and_are_read_like_others(tx, coordinator, store):
    """Own writes show, what is known is not asked for again, and every id is told at prepare, found or not."""
    await tx.put(TABLE, "z", '{"n":9}')
    assert (await tx.get(TABLE, "a")).data == '{"n":1}'
    rows = await tx.get_many(TABLE, ["b", "a", "gone", "z", "b"])
    assert [row and row.data for row in rows] == ['{"n":2}', '{"n":1}', None, '{"n":9}', '{"n":2}']
    assert store.asked_for == [["b", "gone"]]
    assert await tx.get_many(TABLE, ["b", "gone"]) == [rows[0], None]
    assert len(store.asked_for) == 1
    await tx.commit()
    assert set(sent(coordinator).reads) == {Key("tbl", row) for row in ("a", "b", "gone")}


async def test_a_read_that_fails_is_a_read(tx, coordinator, store):
    """A function that catches the error knows something of the rows."""
    store.fails = InternalError("the rows cannot be compared")
    with pytest.raises(InternalError):
        await tx.page(TABLE, Filter({"n": 2}), Window(), limited=True)
    store.fails = None
    await tx.put(TABLE, "z", "{}")
    await tx.commit()
    assert sent(coordinator).predicates == [Predicate("tbl", whole=True)]


async def test_snapshot_isolation_tells_no_reads(coordinator, store):
    """They would be checked for nothing and cost bytes."""
    tx = transaction(coordinator, store, isolation=Isolation.SNAPSHOT)
    await tx.count(TABLE, EVERY_ROW)
    await tx.get(TABLE, "a")
    await tx.replace(TABLE, "a", "{}")
    await tx.commit()
    prepare = sent(coordinator)
    assert (prepare.reads, prepare.predicates, prepare.isolation, prepare.snapshot) == ([], [], "snapshot", 7)


# --- writing ---------------------------------------------------------------------------------------------------------


async def test_a_blind_write_needs_no_snapshot(tx, coordinator):
    """Two coordinator calls, and no version to compare."""
    await tx.put(TABLE, "a", '{"n":5}')
    await tx.commit()
    prepare = sent(coordinator)
    assert (prepare.snapshot, prepare.reads, writes(prepare)) == (None, [], {"a": (None, {"n": 5})})
    assert [type(m) for m in coordinator.heard] == [Prepare, Finish]


async def test_what_was_seen_travels_with_the_write(tx, coordinator):
    """The apply statement checks the version that was read; a put of a row that was read is not blind any more."""
    await tx.get(TABLE, "a")
    await tx.put(TABLE, "a", '{"n":5}')
    await tx.add(TABLE, "new", "{}", fresh=False)
    await tx.add(TABLE, "fresh", "{}", fresh=True)
    await tx.remove(TABLE, "b")
    await tx.commit()
    prepare = sent(coordinator)
    assert writes(prepare) == {"a": (3, {"n": 5}), "new": (ABSENT, {}), "fresh": (ABSENT, {}), "b": (3, None)}
    assert {w.id: msgspec.json.decode(w.old) for w in prepare.writes}["a"] == {"n": 1}


async def test_writes_of_a_row_collapse_into_the_last(tx, coordinator):
    """PostgreSQL sees one write a row, against the version that was there before the transaction."""
    await tx.get(TABLE, "a")
    await tx.replace(TABLE, "a", '{"n":2}')
    await tx.remove(TABLE, "a")
    await tx.put(TABLE, "a", '{"n":4}')
    await tx.commit()
    assert writes(sent(coordinator)) == {"a": (3, {"n": 4})}


async def test_an_insert_that_is_deleted_again_is_nothing(tx, coordinator, store):
    """Nothing to write means no prepare at all."""
    await tx.add(TABLE, "new", "{}", fresh=False)
    assert await tx.remove(TABLE, "new")
    assert await tx.commit() is None
    assert [type(m) for m in coordinator.heard] == [Begin]
    assert store.applied == []


async def test_a_blind_write_that_is_deleted_again_still_deletes(tx, coordinator):
    """Whether the row was there is not known, so the deletion must be carried out."""
    await tx.put(TABLE, "a", "{}")
    assert await tx.remove(TABLE, "a")
    await tx.commit()
    assert writes(sent(coordinator)) == {"a": (None, None)}


async def test_add_and_remove_look_first(tx):
    """An existing row cannot be added, a missing one cannot be removed."""
    assert not await tx.add(TABLE, "a", "{}", fresh=False)
    assert not await tx.remove(TABLE, "gone")
    assert await tx.commit() is None


async def test_a_read_only_call_cannot_write(coordinator, store):
    """It has no W bit: every way of writing is refused, and the message says what to do."""
    tx = transaction(coordinator, store, read_only=True)
    await tx.get(TABLE, "a")
    for attempt in (
        tx.put(TABLE, "a", "{}"),
        tx.add(TABLE, "z", "{}", fresh=True),
        tx.replace(TABLE, "a", "{}"),
        tx.remove(TABLE, "a"),
        tx.take_end(TABLE, last=True),
    ):
        with pytest.raises(PermissionDeniedError, match="W bit"):
            await attempt
    assert await tx.commit() is None


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_the_write_set_is_bounded(tx, coordinator):
    """Over the bound nothing commits, even if the handler swallows the error; rewriting a row counts once."""
    half = json.dumps({"x": "y" * (limits.WRITE_SET_BYTES // 2 - 100)})
    for _ in range(3):
        await tx.put(TABLE, "a", half)
    await tx.put(TABLE, "b", half)
    with pytest.raises(PayloadTooLargeError):
        await tx.put(TABLE, "c", half)
    with pytest.raises(PayloadTooLargeError):
        await tx.commit()
    assert coordinator.heard == []


async def test_the_read_set_is_bounded(tx, store, monkeypatch):
    """Every id read is sent to the coordinator."""
    monkeypatch.setattr(limits, "READ_SET_ROWS", 3)
    store.rows = {str(n): "{}" for n in range(4)}
    with pytest.raises(PayloadTooLargeError):
        await tx.page(TABLE, EVERY_ROW, Window(), limited=False)
    with pytest.raises(PayloadTooLargeError):
        await tx.commit()


# --- doom ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Conflict("tbl", 3, reserved=True), RetryError),
        (Replayed(3, "1"), ReplayedError),
        (Fenced(9), UnavailableError),
        (Unready("no database"), UnavailableError),
        (CoordinatorUnavailableError(), RetryError),
    ],
)
async def test_a_handler_that_swallows_a_failed_begin_cannot_commit(tx, coordinator, answer, error):
    """`except Exception: pass` around a read must not turn a lost attempt into a commit."""
    coordinator.answers[Begin] = [answer]
    with pytest.raises(error):
        await tx.get(TABLE, "a")
    with pytest.raises(error):
        await tx.put(TABLE, "z", "{}")
    with pytest.raises(error):
        await tx.commit()
    assert len(coordinator.heard) == 1


async def test_a_handler_that_swallows_an_old_snapshot_cannot_commit(tx, store):
    """A read of a plain table that met a newer version has shown nothing."""
    store.fails = SnapshotTooOldError()
    for read in (tx.get(TABLE, "a"), tx.count(TABLE, EVERY_ROW)):
        with pytest.raises(RetryError, match="too old"):
            await read
    with pytest.raises(RetryError, match="too old"):
        await tx.commit()


async def test_storage_ends_with_the_function(tx):
    """A task that outlives its function must not read or write under a transaction that has ended."""
    tx.close()
    with pytest.raises(RuntimeError, match="after the function returned"):
        await tx.get(TABLE, "a")
    with pytest.raises(RuntimeError, match="after the function returned"):
        await tx.put(TABLE, "a", "{}")


async def test_tasks_of_a_handler_take_turns(tx, coordinator):
    """`asyncio.gather` over reads begins once and reads each row once."""
    await asyncio.gather(*(tx.get(TABLE, row) for row in ("a", "b", "a", "b")))
    assert coordinator.heard == [Begin("call")]


# --- committing ------------------------------------------------------------------------------------------------------


async def change(tx) -> None:
    await tx.get(TABLE, "a")
    await tx.replace(TABLE, "a", "{}")


@pytest.mark.parametrize(
    ("answer", "reason", "after"),
    [
        (Conflict("tbl", 9, "a"), "conflict", 9),
        (TooOld(), "the snapshot is too old", 0),
        (Busy(), "busy", 0),
        (CoordinatorUnavailableError(), "the coordinator did not answer", 0),
    ],
)
async def test_a_lost_prepare_is_retried_and_never_applied(tx, coordinator, store, answer, reason, after):
    """Without a txid nothing may reach the database."""
    coordinator.answers[Prepare] = [answer]
    await change(tx)
    with pytest.raises(RetryError) as lost:
        await tx.commit()
    assert (lost.value.reason, lost.value.after) == (reason, after)
    assert store.applied == []


async def test_a_conflict_names_the_logical_table_and_the_key(tx, coordinator):
    """Callers know "tasks", not the physical table."""
    coordinator.answers[Prepare] = [Conflict("tbl", 9, "a")]
    await change(tx)
    with pytest.raises(RetryError) as lost:
        await tx.commit()
    assert (lost.value.table, lost.value.row_id) == ("tasks", "a")


async def test_a_repeated_idempotent_call_is_not_applied(tx, coordinator, store):
    """Prepare may find out that it committed before."""
    coordinator.answers[Prepare] = [Replayed(4, "42")]
    await change(tx)
    with pytest.raises(ReplayedError) as replayed:
        await tx.commit()
    assert (replayed.value.txid, replayed.value.result) == (4, "42")
    assert store.applied == []


async def test_a_commit_that_was_read_stands_whatever_the_coordinator_says(tx, coordinator):
    """The database said yes; a coordinator that does not answer, or was superseded, cannot take it back."""
    await change(tx)
    coordinator.answers[Finish] = [CoordinatorUnavailableError()] * FINISH_TRIES
    assert await tx.commit() == 8
    assert len([m for m in coordinator.heard if isinstance(m, Finish)]) == FINISH_TRIES


async def test_finish_is_repeated_until_it_is_heard(coordinator, store):
    """The coordinator may be restarting; pauses between the tries grow."""
    clock = Clock()
    tx = transaction(coordinator, store, clock=clock)
    await change(tx)
    coordinator.answers[Finish] = [CoordinatorUnavailableError(), CoordinatorUnavailableError(), Committed(8)]
    assert await tx.commit() == 8
    assert clock.slept == [50, 100]


@pytest.mark.parametrize(
    ("answer", "fence", "outcome"),
    [
        (Committed(8), None, 8),
        (Aborted(8), None, RetryError),
        (Replayed(5, None), None, ReplayedError),
        (InDoubt(8), 8, 8),
        (InDoubt(8), -8, RetryError),
        (InDoubt(8), 5, ReplayedError),
        (InDoubt(8), None, Code.COMMIT_UNKNOWN),
        (Fenced(9), 8, 8),
        (Fenced(9), -8, Code.FENCED),
        (Fenced(9), None, Code.COMMIT_UNKNOWN),
        (WentBack(), 8, 8),
        (WentBack(), -8, Code.DATABASE_WENT_BACK),
        (WentBack(), None, Code.COMMIT_UNKNOWN),
        (Unready("x"), -8, RetryError),
        (CoordinatorUnavailableError(), 8, 8),
        (CoordinatorUnavailableError(), None, Code.COMMIT_UNKNOWN),
    ],
)
async def test_after_a_failed_apply_only_the_fence_decides(tx, coordinator, store, answer, fence, outcome):
    """An outcome that nobody has read is never claimed: committed, lost, or honestly unknown."""
    await change(tx)
    store.outcome, store.fence = ApplyOutcome.FAILED, fence
    coordinator.answers[Finish] = [answer] * FINISH_TRIES
    if isinstance(outcome, int):
        assert await tx.commit() == outcome
    elif isinstance(outcome, Code):
        with pytest.raises(HttpError) as unknown:
            await tx.commit()
        assert unknown.value.error_code is outcome
    else:
        with pytest.raises(outcome):
            await tx.commit()


async def test_the_witnesses_go_into_the_apply_statement(tx, coordinator, store):
    coordinator.answers[Prepare] = [Prepared(8, "call/1", 1, witnesses=["before/1"])]
    await change(tx)
    await tx.commit()
    assert store.applied[0].witnesses == ["before/1"]


async def test_a_database_that_has_gone_back_takes_nothing(tx, coordinator, store):
    """The coordinator is told to look, and the caller what happened, whatever becomes of the fence."""
    store.outcome = ApplyOutcome.WENT_BACK
    coordinator.answers[Finish] = [Aborted(8)]
    await change(tx)
    with pytest.raises(UnavailableError) as told:
        await tx.commit()
    assert told.value.error_code is Code.DATABASE_WENT_BACK
    assert coordinator.heard[-1] == Finish(8, 1, applied=False, fenced=True, checked=True)


@pytest.mark.parametrize("message", [Begin, Prepare, Finish])
async def test_who_waits_meanwhile_is_told_the_same(tx, coordinator, store, message):
    store.outcome, store.fence = ApplyOutcome.FAILED, -8
    coordinator.answers[message] = [WentBack()]

    async def work() -> None:
        await change(tx)
        await tx.commit()

    with pytest.raises(UnavailableError) as told:
        await work()
    assert told.value.error_code is Code.DATABASE_WENT_BACK


async def test_a_fenced_apply_is_reported_as_such(tx, coordinator, store):
    """The coordinator looks at the epoch row only if a worker says that it met another one."""
    await change(tx)
    store.outcome, store.fence = ApplyOutcome.FENCED, -8
    coordinator.answers[Finish] = [Fenced(9)]
    with pytest.raises(HttpError):
        await tx.commit()
    assert coordinator.heard[-1] == Finish(8, 1, applied=False, fenced=True, checked=True)


async def test_writes_are_grouped_by_table(tx, store):
    """One CTE a table, in order of writing."""
    other = msgspec.structs.replace(TABLE, name="notes", ptr="tbl2")
    for table, row in ((TABLE, "x"), (other, "y"), (TABLE, "w")):
        await tx.put(table, row, "{}")
    await tx.commit()
    assert [(p.ptr, [w.id for w in w_]) for p, w_ in store.applied[0].writes] == [("tbl", ["x", "w"]), ("tbl2", ["y"])]


async def test_the_result_of_an_idempotent_call_is_journalled(coordinator, store):
    """A repeated call gets it back."""
    tx = transaction(coordinator, store, idempotent=True)
    await change(tx)
    await tx.commit("42")
    prepare = sent(coordinator)
    assert (prepare.idempotent, prepare.result, prepare.user) == (True, "42", "ann")
    assert coordinator.heard[0] == Begin("call", idempotent=True)


@pytest.mark.parametrize("read_only", [False, True])
async def test_an_idempotent_call_that_wrote_nothing_commits_its_fence(coordinator, store, read_only):
    """It is prepared as a write of the fence alone. What only reads is not validated, so it cannot conflict."""
    tx = transaction(coordinator, store, idempotent=True, read_only=read_only)
    await tx.get(TABLE, "a")
    assert await tx.commit("42") == 8
    prepare = sent(coordinator)
    assert [(w.table, w.ptr, w.id) for w in prepare.writes] == [("", "trxs", "call")]
    assert prepare.reads == ([] if read_only else [Key("tbl", "a")])
    assert (store.applied[0].writes, store.applied[0].result) == ([], "42")


async def test_two_that_write_nothing_under_one_key_wait_for_each_other(coordinator, store):
    """That is no conflict over a row, and counts as none."""
    coordinator.answers[Prepare] = [Conflict("trxs", 6, "call", reserved=True)]
    tx = transaction(coordinator, store, idempotent=True)
    await tx.begin()
    with pytest.raises(RetryError) as waits:
        await tx.commit("42")
    assert (waits.value.after, waits.value.counts, waits.value.table) == (6, False, "")


async def test_a_call_that_need_not_be_remembered_writes_nothing(coordinator, store):
    tx = transaction(coordinator, store, idempotent=True, remembered=False)
    await tx.get(TABLE, "a")
    assert await tx.commit("42") is None
    assert store.applied == []


async def test_the_result_counts_among_what_is_written(coordinator, store):
    tx = transaction(coordinator, store, idempotent=True)
    await tx.begin()
    with pytest.raises(PayloadTooLargeError):
        await tx.commit("x" * (limits.WRITE_SET_BYTES + 1))
    assert store.applied == []


def test_a_call_is_writable_and_serializable_unless_told_otherwise():
    """The safe defaults."""
    call = Call(id="x", owner="o", user="u")
    assert (call.read_only, call.isolation, call.idempotent) == (False, Isolation.SERIALIZABLE, False)
    assert Began(7, 1) == Coordinator().answer(Begin("x"))
    assert isinstance(Coordinator().answer(Prepare("x", [])), Prepared)
