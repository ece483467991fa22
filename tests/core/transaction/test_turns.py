"""Tasks of one function: reads go to the database together, at one snapshot; writes take turns."""

from __future__ import annotations

import asyncio

import pytest

from core.fakes import TABLE, Coordinator, Store, transaction
from kontract.core import limits
from kontract.core.messages import Begin, Key, Prepare
from kontract.core.statements import Window
from kontract.core.transaction.transaction import RetryError
from kontract.core.types import EVERY_ROW, Version
from kontract.ports import CoordinatorUnavailableError

PAGE = Window(None, False, None, 10, None, None)


class SlowStore(Store):
    """Statements wait until they are let through; ``sent`` has them in the order in which they were sent."""

    def __init__(self, rows: dict[str, str]) -> None:
        super().__init__(rows)
        self.sent: list[str] = []
        self.under_way: dict[str, asyncio.Future[None]] = {}

    async def _wait(self, what: str) -> None:
        what += " again" if what in self.under_way else ""
        self.sent.append(what)
        self.under_way[what] = asyncio.get_running_loop().create_future()
        try:
            await self.under_way[what]
        finally:
            del self.under_way[what]

    async def read_row(self, pointer, row_id, snapshot):
        await self._wait(f"get {row_id}")
        return await super().read_row(pointer, row_id, snapshot)

    async def query(self, pointer, wanted, snapshot, page, pending):
        await self._wait("page")
        return await super().query(pointer, wanted, snapshot, page, pending)

    async def count(self, pointer, wanted, snapshot, pending):
        await self._wait("count")
        return await super().count(pointer, wanted, snapshot, pending)

    async def select(self, pointer, selection, snapshot, pending):
        await self._wait(f"exec {selection}")
        self._at(snapshot, pending)
        return []

    async def end_row(self, pointer, snapshot, pending, *, last):
        """The first row that is there under the function's own writes."""
        gone = {one.id for one in pending if one.data is None}
        await self._wait(f"shift without {sorted(gone)}")
        row = next((row for row in sorted(self.rows) if row not in gone), None)
        return None if row is None else Version(row, self.rows[row], 3, "ann")

    async def let_through(self, *whats: str) -> None:
        """Answer statements, and give everybody time to go on."""
        for what in whats:
            self.under_way[what].set_result(None)
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def store() -> SlowStore:
    return SlowStore({name: f'{{"n":{number}}}' for number, name in enumerate("abcdefghij")})


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def txn(coordinator, store):
    return transaction(coordinator, store)


async def test_reads_are_sent_together_at_one_snapshot(coordinator, store, txn):
    """One begin, then every statement before the first answer; answers may come in any order."""
    reads = asyncio.gather(
        txn.get(TABLE, "a"),
        txn.get(TABLE, "b"),
        txn.page(TABLE, EVERY_ROW, PAGE, limited=False),
        txn.count(TABLE, EVERY_ROW),
    )
    await settled()
    assert store.sent == ["get a", "get b", "page", "count"]
    assert store.snapshots == [], "nothing was answered yet"
    await store.let_through("count", "page", "get b", "get a")
    a, b, (page, more), count = await reads
    assert (a.id, b.id, len(page), more, count) == ("a", "b", 10, True, 10)
    assert coordinator.kinds() == ["Begin"]
    assert set(store.snapshots) == {txn.snapshot}


async def test_so_many_reads_run_at_once(store, txn):
    """READS_AT_ONCE; whoever waits goes on with the first that is answered, wherever that is."""
    reads = asyncio.gather(*(txn.get(TABLE, name) for name in "abcdefghij"))
    await settled()
    assert len(store.under_way) == limits.READS_AT_ONCE == 4
    while store.under_way:
        assert len(store.under_way) <= limits.READS_AT_ONCE
        await store.let_through(next(reversed(store.under_way)))
    assert [row.id for row in await reads] == list("abcdefghij")


async def test_a_read_waits_for_no_other_while_there_is_room(store, txn):
    """Two tasks that read one row after the other each: neither waits for the other one's."""

    async def chain(*names):
        for name in names:
            await txn.get(TABLE, name)

    slow, quick = asyncio.ensure_future(chain("a")), asyncio.ensure_future(chain("b", "c", "d"))
    await settled()
    for name in "bcd":
        assert set(store.under_way) == {"get a", f"get {name}"}
        await store.let_through(f"get {name}")
    assert quick.done()
    assert not slow.done()
    await store.let_through("get a")
    await asyncio.gather(slow, quick)


async def test_of_exec_one_runs_at_a_time(store, txn):
    """Each may bring READ_BYTES."""
    both = asyncio.gather(txn.select(TABLE, "one"), txn.select(TABLE, "two"), txn.get(TABLE, "a"))
    await settled()
    assert set(store.under_way) == {"exec one", "get a"}
    await store.let_through("exec one")
    assert set(store.under_way) == {"exec two", "get a"}
    await store.let_through("exec two", "get a")
    await both


async def test_two_shifts_at_once_take_two_rows(store, txn):
    """What reads in order to write takes turns: the second one sees what the first has taken."""
    both = asyncio.gather(txn.take_end(TABLE, last=False), txn.take_end(TABLE, last=False))
    await settled()
    assert store.sent == ["shift without []"]
    await store.let_through("shift without []")
    assert store.sent[1:] == ["shift without ['a']"]
    await store.let_through("shift without ['a']")
    assert [row.id for row in await both] == ["a", "b"]


async def test_a_write_waits_for_a_shift_and_not_for_a_read(store, txn):
    """A shift that is under way will delete what it finds: a write in between would be lost."""
    reading = asyncio.ensure_future(txn.get(TABLE, "b"))
    await settled()
    await asyncio.wait_for(txn.put(TABLE, "b", '{"n":7}'), 5)
    await store.let_through("get b")
    assert (await reading).data == '{"n":1}', "it was asked before the write"
    shifting = asyncio.ensure_future(txn.take_end(TABLE, last=False))
    await settled()
    writing = asyncio.ensure_future(txn.put(TABLE, "a", '{"n":8}'))
    await settled()
    assert not writing.done()
    await store.let_through("shift without []")
    assert (await shifting).id == "a"
    assert await writing
    assert (await txn.get(TABLE, "a")).data == '{"n":8}'


@pytest.mark.parametrize("read", ["get", "page"])
async def test_a_row_that_is_written_while_it_is_read_was_read(coordinator, store, txn, read):
    """The commit is validated against what the read found, although the row was written before the answer came."""
    asked = txn.get(TABLE, "c") if read == "get" else txn.page(TABLE, EVERY_ROW, PAGE, limited=False)
    reading = asyncio.ensure_future(asked)
    await settled()
    await txn.put(TABLE, "c", '{"n":7}')
    await store.let_through("get c" if read == "get" else "page")
    await reading
    await txn.commit()
    [prepare] = [message for message in coordinator.heard if isinstance(message, Prepare)]
    assert Key(TABLE.ptr, "c") in prepare.reads


async def test_a_read_that_waits_is_not_sent_after_the_function_has_returned(store, txn):
    """Nobody is there to hear it, and the transaction is over."""
    reads = [asyncio.ensure_future(txn.get(TABLE, name)) for name in "abcdef"]
    await settled()
    txn.close()
    await store.let_through(*list(store.under_way))
    assert store.sent == ["get a", "get b", "get c", "get d"]
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(one) for one in results[4:]] == [RuntimeError, RuntimeError]


async def test_a_begin_that_fails_fails_for_all_and_is_asked_once(coordinator, store, txn):
    coordinator.answers[Begin] = [CoordinatorUnavailableError()]
    results = await asyncio.gather(*(txn.get(TABLE, name) for name in "ab"), return_exceptions=True)
    assert [type(one) for one in results] == [RetryError, RetryError]
    assert store.sent == []
    assert coordinator.kinds() == ["Begin"]


async def test_the_same_row_asked_for_twice_at_once_is_one_row(store, txn):
    """What was read first is what was read, also if the database could say two things of one snapshot."""
    both = asyncio.gather(txn.get(TABLE, "a"), txn.get(TABLE, "a"))
    await settled()
    await store.let_through("get a again")
    store.rows["a"] = '{"n":"something else"}'
    await store.let_through("get a")
    one, other = await both
    assert one is other
