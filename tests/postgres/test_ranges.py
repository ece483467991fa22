"""What conflicts with a range, a page, a count, a pop: no more than it must, and never less.

Every case is a reader that also writes, and a writer that commits in between, on versioned and on plain tables.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from kontract.core.statements import Window
from kontract.core.types import EVERY_ROW, Bound, Filter, Order
from postgres.test_anomalies import LOST, Bank, Txn, bank

__all__ = ["bank"]

WRITER = object()


def between(first: int, last: int) -> Filter:
    return Filter(bounds=(Bound("v", Order.NUMBER, ">=", (str(first),)), Bound("v", Order.NUMBER, "<=", (str(last),))))


class Reader(Txn):
    """A transaction that reads sets of rows."""

    async def ids(self, wanted: Filter, window: Window | None = None, *, limited: bool = False):
        page = await self._step(self.transaction.page(self.table, wanted, window or Window(), limited=limited))
        return page if page is LOST else [row.id for row in page[0]]

    async def first(self, *, descending: bool = False, limit: int = 2):
        window = Window("v", descending, limit=limit, order=Order.NUMBER)
        return await self.ids(EVERY_ROW, window, limited=True)

    async def count(self, wanted: Filter):
        return await self._step(self.transaction.count(self.table, wanted))

    async def exists(self, wanted: Filter):
        return await self._step(self.transaction.exists(self.table, wanted))

    async def take(self, *, last: bool):
        row = await self._step(self.transaction.take_end(self.table, last=last))
        return None if row is None else row.id

    async def set(self, key: str, value: Any) -> None:
        """Write over what was read."""
        await self._step(self.transaction.get(self.table, key))
        await self._step(self.transaction.put(self.table, key, json.dumps({"v": value})))

    async def remove(self, key: str) -> None:
        await self._step(self.transaction.remove(self.table, key))


# What is read of rows a=10, b=20, c=30, d=40; what another transaction does meanwhile; whether the reader then loses.
READS = {
    "range": lambda tx: tx.ids(between(20, 30)),
    "page": lambda tx: tx.first(),
    "page from the end": lambda tx: tx.first(descending=True),
    "whole page": lambda tx: tx.first(limit=9),
    "count": lambda tx: tx.count(between(20, 30)),
    "exists": lambda tx: tx.exists(between(20, 30)),
    "exists not": lambda tx: tx.exists(between(21, 29)),
    "shift": lambda tx: tx.take(last=False),
    "pop": lambda tx: tx.take(last=True),
}
WRITES = {
    "below": lambda tx: tx.write("x", 19),
    "at the beginning": lambda tx: tx.write("x", 20),
    "inside": lambda tx: tx.write("x", 25),
    "at the end": lambda tx: tx.write("x", 30),
    "above": lambda tx: tx.write("x", 31),
    "far above": lambda tx: tx.write("x", 99),
    "null": lambda tx: tx.write("x", None),
    "text": lambda tx: tx.write("x", "twenty"),
    "into it": lambda tx: tx.set("d", 25),
    "out of it": lambda tx: tx.set("b", 99),
    "outside of it": lambda tx: tx.set("d", 41),
    "blindly outside": lambda tx: tx.write("d", 41),
    "deletes inside": lambda tx: tx.remove("b"),
    "deletes outside": lambda tx: tx.remove("d"),
}
LOSES = {
    "range": {"at the beginning", "inside", "at the end", "text", "into it", "out of it", "deletes inside"},
    "page": {"below", "null", "text", "out of it", "deletes inside"},
    "page from the end": {"at the end", "above", "far above", "text", "into it", "out of it", "outside of it",
                          "blindly outside", "deletes outside"},
    "whole page": set(WRITES),
    # Of a row that is written without having been read nobody knows whether it was counted.
    "count": set(WRITES) - {"outside of it", "deletes outside"},
    "exists": {"out of it", "deletes inside"},
    "exists not": {"inside", "text", "into it"},
    "shift": set(),
    # A blind write may be one of a new row.
    "pop": {"below", "at the beginning", "inside", "at the end", "above", "far above", "null", "text", "into it",
            "outside of it", "blindly outside", "deletes outside"},
}  # fmt: skip


@pytest.mark.parametrize("read", READS)
async def test_what_a_read_conflicts_with(bank, read):
    """Each write by itself, with a coordinator and a table as new: who loses gets a place in line."""
    for name, write in WRITES.items():
        connection = await asyncpg.connect(bank.url)
        await connection.execute(f"TRUNCATE {bank.pointer.ptr}")
        await connection.close()
        world = Bank(bank.url, bank.pointer)
        world.numbers = bank.numbers
        table, reader, writer = Reader(world), Reader(world), Reader(world)
        for key, value in {"a": 10, "b": 20, "c": 30, "d": 40}.items():
            await table.write(key, value)
        assert await table.commit()
        assert await READS[read](reader) is not LOST
        await reader.write("result", 0)
        await write(writer)
        assert await writer.commit(), name
        assert await reader.commit() is (name not in LOSES[read]), name


async def test_a_reader_of_a_range_commits_beside_writers_outside_of_it(bank):
    """A hundred of them, and not one retry."""
    setup = Reader(bank)
    for n in range(5):
        await setup.write(f"in-{n}", 100 + n)
    assert await setup.commit()
    reader = Reader(bank)
    assert await reader.ids(between(100, 199)) == [f"in-{n}" for n in range(5)]
    await reader.write("in-5", 105)
    for n in range(100):
        writer = Reader(bank)
        await writer.write(f"out-{n}", n % 100 if n % 2 else 200 + n)
        assert await writer.commit()
    assert await reader.commit()


async def test_two_who_each_add_to_a_full_range_do_not_both(bank):
    """Write skew through a range: a capacity of one, which both have seen free."""
    one, two = Reader(bank), Reader(bank)
    assert [await one.count(between(500, 599)), await two.count(between(500, 599))] == [0, 0]
    await one.write("one", 500)
    await two.write("two", 599)
    assert [await one.commit(), await two.commit()] == [True, False]


async def test_a_count_by_a_spelled_value_sees_rows_that_become_it(bank):
    """The coordinator is not told such a value, because other releases may spell it otherwise."""
    setup = Reader(bank)
    await setup.write("d", 40)
    assert await setup.commit()
    reader, writer = Reader(bank), Reader(bank)
    wanted = Filter({"v": "5"}, typed=(("v", Order.NUMBER),), spelled=frozenset({"v"}))
    assert await reader.count(wanted) == 0
    await reader.write("result", 0)
    await writer.set("d", 5)
    assert await writer.commit()
    assert not await reader.commit()
