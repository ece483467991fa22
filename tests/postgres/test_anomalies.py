"""The usual catalogue of anomalies as explicit interleavings, over the real database, coordinator and commit path.

Names as in the literature (Adya's thesis; the Hermitage suite): G0 dirty write, G1a aborted read, G1b intermediate
read, G1c circular information flow, OTV observed transaction vanishes, PMP predicate-many-preceders, P4 lost update,
G-single read skew, G2-item write skew, G2 anti-dependency cycles through predicates, and the read-only transaction
anomaly.

A transaction may lose (it would be run again); what must never happen is that all of them commit and the result fits no
serial order. Every scenario runs on versioned and on plain tables and, where two writers meet, in both commit orders.
"""

from __future__ import annotations

import asyncio
import itertools
import json

import asyncpg
import pytest

from kontract.coordination.shell import CoordinatorShell
from kontract.core.statements import Window
from kontract.core.transaction.store import SqlStore
from kontract.core.transaction.transaction import Call, RetryError, Transaction
from kontract.core.types import EVERY_ROW, Filter, TableKind, TablePointer
from kontract.server.database import AsyncpgDatabase
from kontract.server.journal import MemoryJournal
from kontract.server.system import SystemClock

OWNER = "tenant-1"

PLAIN = """
CREATE TABLE tbl_plain_1 (
  id            TEXT PRIMARY KEY,
  data          JSONB NOT NULL DEFAULT '{}',
  _txid         BIGINT NOT NULL,
  _deleted_txid BIGINT,
  _owner        TEXT NOT NULL,
  _order        SERIAL
)
"""

LOST = object()
"""What a step answers when its transaction has lost."""


class Txn:
    """One transaction on one table of integer values; a step after it has lost does nothing."""

    def __init__(self, bank: Bank) -> None:
        self.table = bank.pointer
        self.store = bank.store()
        self.lost = False
        call = Call(id=f"call-{next(bank.numbers)}", owner=OWNER, user="tester")
        self.transaction = Transaction(call, 1, bank.stub, self.store, SystemClock(), asyncio.Lock)

    async def read(self, key: str):
        version = await self._step(self.transaction.get(self.table, key))
        return version if version in (LOST, None) else json.loads(version.data)["v"]

    async def find(self, value: int | None = None):
        wanted = EVERY_ROW if value is None else Filter({"v": value})
        page = await self._step(self.transaction.page(self.table, wanted, Window(), limited=False))
        return page if page is LOST else {row.id: json.loads(row.data)["v"] for row in page[0]}

    async def write(self, key: str, value: int) -> None:
        await self._step(self.transaction.put(self.table, key, json.dumps({"v": value})))

    async def commit(self) -> bool:
        await self._step(self.transaction.commit())
        await self.store.aclose()
        return not self.lost

    async def abort(self) -> None:
        self.transaction.close()
        await self.store.aclose()

    async def _step(self, work):
        if self.lost:
            work.close()
            return LOST
        try:
            return await work
        except RetryError:
            self.lost = True
            return LOST


class Bank:
    """A table with x = 10 and y = 20, and the coordinator of its owner."""

    def __init__(self, url: str, pointer: TablePointer) -> None:
        self.url = url
        self.pointer = pointer
        self.numbers = itertools.count()
        self.begun: list[Txn] = []
        shell = CoordinatorShell(
            OWNER, MemoryJournal(), lambda: AsyncpgDatabase(url), SystemClock(), lambda *_, **__: None
        )
        self.stub = shell

    def store(self) -> SqlStore:
        return SqlStore(AsyncpgDatabase(self.url))

    def begin(self) -> Txn:
        txn = Txn(self)
        self.begun.append(txn)
        return txn

    async def values(self) -> dict[str, int]:
        txn = self.begin()
        found = await txn.find()
        await txn.abort()
        return found

    async def assert_one_live_version(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            doubles = await connection.fetch(
                f"SELECT id FROM {self.pointer.ptr} WHERE _deleted_txid IS NULL GROUP BY id HAVING count(*) > 1"
            )
        finally:
            await connection.close()
        assert doubles == []


@pytest.fixture(params=[TableKind.VERSIONED, TableKind.PLAIN], ids=lambda kind: kind.value)
async def bank(request, postgres):
    url = postgres.create_database()
    if request.param is TableKind.PLAIN:
        connection = await asyncpg.connect(url)
        await connection.execute(PLAIN)
        await connection.close()
    ptr = "tbl_plain_1" if request.param is TableKind.PLAIN else "tbl_accounts_9b27e4"
    bank = Bank(url, TablePointer("accounts", ptr, request.param, 7))
    setup = bank.begin()
    await setup.write("x", 10)
    await setup.write("y", 20)
    assert await setup.commit()
    yield bank
    for txn in bank.begun:
        await txn.store.aclose()
    await bank.assert_one_live_version()


@pytest.fixture(params=["first", "second"])
def order(request):
    """Which of two transactions commits first."""
    return (lambda a, b: (a, b)) if request.param == "first" else (lambda a, b: (b, a))


async def commit_both(order, one: Txn, two: Txn) -> list[bool]:
    """Commit in the given order; the answers are those of (one, two)."""
    done = {}
    for txn in order(one, two):
        done[txn] = await txn.commit()
    return [done[one], done[two]]


async def test_g0_dirty_writes_do_not_mix(bank, order):
    """Two transactions write x and y interleaved: both rows end with values of the same one."""
    one, two = bank.begin(), bank.begin()
    await one.write("x", 11)
    await two.write("x", 12)
    await one.write("y", 21)
    await two.write("y", 22)
    assert any(await commit_both(order, one, two))
    assert await bank.values() in ({"x": 11, "y": 21}, {"x": 12, "y": 22})


async def test_g1a_aborted_writes_are_never_read(bank):
    """What an aborted transaction wrote was never there."""
    one, two = bank.begin(), bank.begin()
    await one.write("x", 101)
    assert await two.read("x") == 10
    await one.abort()
    assert await two.read("x") == 10
    assert await two.commit()


async def test_g1b_intermediate_writes_are_never_read(bank):
    """Only the last value of a transaction exists for others."""
    one, two = bank.begin(), bank.begin()
    await one.write("x", 101)
    assert await two.read("x") == 10
    await one.write("x", 11)
    assert await one.commit()
    assert await two.read("x") in (10, LOST)


async def test_g1c_no_circular_information_flow(bank, order):
    """Two transactions cannot each have read the other's write, nor both miss it and commit."""
    one, two = bank.begin(), bank.begin()
    await one.write("x", 11)
    await two.write("y", 22)
    assert await one.read("y") in (20, LOST)
    assert await two.read("x") in (10, LOST)
    assert sum(await commit_both(order, one, two)) == 1


async def test_otv_an_observed_transaction_does_not_vanish(bank):
    """A reader that sees one row of a transaction sees all of them."""
    one, two = bank.begin(), bank.begin()
    await one.write("x", 11)
    await one.write("y", 19)
    assert await one.commit()
    three = bank.begin()
    assert await three.read("x") == 11
    await two.write("x", 12)
    await two.write("y", 18)
    assert await two.commit()
    assert await three.read("y") in (19, LOST)


async def test_pmp_a_predicate_reads_the_same_set_again(bank):
    """Rows that match later do not appear in the middle of a transaction."""
    one = bank.begin()
    assert await one.find(30) == {}
    two = bank.begin()
    await two.write("z", 30)
    assert await two.commit()
    again = await one.find(30)
    assert again is LOST or again == {}


async def test_pmp_with_a_write_loses(bank):
    """A transaction that writes on the strength of a predicate loses to a row that began to match."""
    one = bank.begin()
    await one.find(30)
    two = bank.begin()
    await two.write("z", 30)
    assert await two.commit()
    await one.write("count-of-30", 0)
    assert not await one.commit()


async def test_p4_no_update_is_lost(bank, order):
    """Two read-modify-writes of one row: one wins, the other must run again."""
    one, two = bank.begin(), bank.begin()
    assert await one.read("x") == 10
    assert await two.read("x") == 10
    await one.write("x", 11)
    await two.write("x", 11)
    assert sum(await commit_both(order, one, two)) == 1


async def test_g_single_no_read_skew(bank):
    """A reader sees x and y of the same moment."""
    one = bank.begin()
    assert await one.read("x") == 10
    two = bank.begin()
    await two.write("x", 12)
    await two.write("y", 18)
    assert await two.commit()
    assert await one.read("y") in (20, LOST)


async def test_g_single_through_a_predicate(bank):
    """The same when the second read is a query."""
    one = bank.begin()
    assert await one.find(10) == {"x": 10}
    two = bank.begin()
    await two.write("x", 12)
    await two.write("y", 10)
    assert await two.commit()
    again = await one.find(10)
    assert again is LOST or again == {"x": 10}


async def test_g_single_that_writes_loses(bank):
    """A transaction that read before another's commit may not write over it."""
    one = bank.begin()
    assert await one.read("x") == 10
    two = bank.begin()
    await two.write("x", 12)
    await two.write("y", 18)
    assert await two.commit()
    await one.write("y", 100)
    assert not await one.commit()
    assert await bank.values() == {"x": 12, "y": 18}


async def test_g2_item_no_write_skew(bank, order):
    """Both read x and y, each writes one of them: only one may commit."""
    one, two = bank.begin(), bank.begin()
    for txn in (one, two):
        assert (await txn.read("x"), await txn.read("y")) == (10, 20)
    await one.write("x", -15)
    await two.write("y", -15)
    assert sum(await commit_both(order, one, two)) == 1


async def test_g2_no_write_skew_through_predicates(bank, order):
    """Both see that no row has the value 30, each inserts one: only one may commit."""
    one, two = bank.begin(), bank.begin()
    assert await one.find(30) == {}
    assert await two.find(30) == {}
    await one.write("a", 30)
    await two.write("b", 30)
    assert sum(await commit_both(order, one, two)) == 1


async def test_g2_two_edges_with_a_reader_between(bank):
    """A read of everything, an update by another, and a write by the first: a cycle, so it loses."""
    one = bank.begin()
    assert await one.find() == {"x": 10, "y": 20}
    two = bank.begin()
    assert await two.read("y") == 20
    await two.write("y", 25)
    assert await two.commit()
    three = bank.begin()
    assert await three.find() == {"x": 10, "y": 25}
    assert await three.commit()
    await one.write("x", 0)
    assert not await one.commit()


async def test_the_read_only_transaction_anomaly(bank):
    """A report between a withdrawal and a deposit must fit the order in which they end up."""
    withdrawal = bank.begin()
    assert (await withdrawal.read("x"), await withdrawal.read("y")) == (10, 20)
    deposit = bank.begin()
    assert await deposit.read("y") == 20
    await deposit.write("y", 40)
    assert await deposit.commit()
    report = bank.begin()
    assert (await report.read("x"), await report.read("y")) == (10, 40)
    assert await report.commit()
    await withdrawal.write("x", -1)  # with the fee for an overdraft that the report has ruled out
    assert not await withdrawal.commit()


async def test_a_deleted_row_is_a_conflict_for_those_who_read_it(bank):
    """Deleting counts as writing."""
    one, two = bank.begin(), bank.begin()
    assert await one.read("x") == 10
    assert await two.read("x") == 10
    assert await two.transaction.remove(two.table, "x")
    assert await two.commit()
    await one.write("y", 21)
    assert not await one.commit()


async def test_transactions_on_different_rows_never_meet(bank):
    """No anomaly, no conflict: independent work commits in any order."""
    one, two = bank.begin(), bank.begin()
    assert await one.read("x") == 10
    assert await two.read("y") == 20
    await one.write("x", 11)
    await two.write("y", 21)
    assert await two.commit()
    assert await one.commit()
    assert await bank.values() == {"x": 11, "y": 21}
