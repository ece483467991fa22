"""Reads at a snapshot, under one's own writes, from real tables of both kinds."""

from __future__ import annotations

import pytest

from kontract.core.model import documents
from kontract.core.statements import Pending, Window
from kontract.core.transaction.store import SqlStore, TableMissingError
from kontract.core.types import EVERY_ROW, Filter
from kontract.ports import SnapshotTooOldError
from kontract.server.database import AsyncpgDatabase


async def ids(world, snapshot, page=Window(), wanted=EVERY_ROW, pending=()) -> list[str]:  # noqa: B008
    return [row.id for row in await world.store.query(world.table, wanted, snapshot, page, pending)]


async def test_a_row_at_a_snapshot(world):
    """The newest version that had finished, with its txid and creator; None before and after its life."""
    await world.insert(1, a={"n": 1})
    row = await world.store.read_row(world.table, "a", 1)
    assert (row.id, row.data, row.txid, row.owner) == ("a", '{"n": 1}', 1, "ann")
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    assert (await world.store.read_row(world.table, "a", 2)).data == '{"n": 2}'
    await world.applied(3, world.write("a", seen=2))
    assert await world.store.read_row(world.table, "a", 3) is None
    assert (await world.store.read_row(world.table, "a", 2)).data == '{"n": 2}', "the deleted row is still there"
    assert await world.store.read_row(world.table, "b", 3) is None


async def test_history_is_kept_on_versioned_tables(versioned):
    """A reader at any snapshot sees exactly what was there then."""
    world = versioned
    await world.insert(1, a={"n": 1}, b={"n": 1})
    await world.applied(2, world.write("a", {"n": 2}, seen=1), world.write("b", seen=1))
    await world.applied(3, world.write("b", {"n": 3}, seen=0))
    seen = [{r.id: r.data for r in await world.store.query(world.table, EVERY_ROW, s, Window(), ())} for s in range(4)]
    assert seen == [
        {}, {"a": '{"n": 1}', "b": '{"n": 1}'}, {"a": '{"n": 2}'}, {"a": '{"n": 2}', "b": '{"n": 3}'},
    ]  # fmt: skip
    assert [await world.store.count(world.table, EVERY_ROW, s, ()) for s in range(4)] == [0, 2, 1, 2]


async def test_a_plain_table_says_when_it_cannot_show_the_snapshot(plain):
    """One version a row: what was overwritten cannot be read any more, and a guess would be a wrong answer."""
    world = plain
    await world.insert(1, a={"n": 1}, b={"n": 1})
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    assert (await world.store.read_row(world.table, "b", 1)).txid == 1, "this row has not changed"
    reads = [
        lambda: world.store.read_row(world.table, "a", 1),
        lambda: world.store.query(world.table, EVERY_ROW, 1, Window(), ()),
        lambda: world.store.query(world.table, Filter({"n": 1}), 1, Window(limit=1), ()),
        lambda: world.store.count(world.table, EVERY_ROW, 1, ()),
        lambda: world.store.end_row(world.table, 1, (), last=True),
        lambda: world.store.query(world.table, EVERY_ROW, 1, Window(), [Pending("a", "{}")]),
    ]
    for read in reads:
        with pytest.raises(SnapshotTooOldError):
            await read()
    assert await world.store.count(world.table, EVERY_ROW, 2, ()) == 2
    await world.applied(3, world.write("a", seen=2))
    assert await world.store.count(world.table, EVERY_ROW, 2, ()) == 2, "a deletion leaves the row for older readers"
    await world.applied(4, world.write("a", {"n": 4}, seen=0))
    with pytest.raises(SnapshotTooOldError):
        await world.store.read_row(world.table, "a", 3)


async def test_rows_come_in_the_order_of_their_ids_bytes(world):
    """Not in that of the database's language: pages must not depend on where it runs."""
    await world.insert(1, **{row: {} for row in ["b", "B", "a", "ä", "Z", "10", "9"]})
    expected = sorted(["b", "B", "a", "ä", "Z", "10", "9"], key=str.encode)
    assert await ids(world, 1) == expected
    assert await ids(world, 1, Window(descending=True)) == expected[::-1]


@pytest.mark.parametrize("order_by", [None, "n"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("own", [False, True])
async def test_pages_cover_everything_once(world, order_by, descending, own):
    """Page after page is the same as all at once, with equal, missing and null values, and own writes in between."""
    rows = {f"r{n}": {"n": n // 3} for n in range(9)} | {"none": {}, "null": {"n": None}, "text": {"n": "1"}}
    await world.insert(1, **rows)
    pending = [Pending("r4", None), Pending("r5", '{"n":0}'), Pending("r55", '{"n":1}')] if own else []
    everything = await ids(world, 1, Window(order_by, descending), pending=pending)
    assert len(everything) == len(set(everything)) == 12
    assert ("r55" in everything) is own
    pages, after, value = [], None, None
    while True:
        page = await world.store.query(
            world.table, EVERY_ROW, 1, Window(order_by, descending, after, 5, value), pending
        )
        pages += [row.id for row in page]
        if len(page) < 5:
            break
        after, value = page[-1].id, documents.part(page[-1].data, "n")
    assert pages == everything


async def test_orders_of_a_field(world):
    """null and missing first, then strings, numbers, booleans, arrays and objects; equal values by id."""
    values = {"g": {"x": 1}, "f": [1], "e": True, "d": 10, "c": 9, "b": "z", "a2": None, "a1": None}
    await world.insert(1, **{row: {"v": value} for row, value in values.items()}, a0={})
    order = ["a0", "a1", "a2", "b", "c", "d", "e", "f", "g"]
    assert await ids(world, 1, Window("v")) == order
    assert await ids(world, 1, Window("v", descending=True)) == order[::-1]


async def test_filters(world):
    """Containment, an id, or both."""
    await world.insert(1, a={"n": 1, "t": ["x", "y"]}, b={"n": 1}, c={"n": 2})
    assert await ids(world, 1, wanted=Filter({"n": 1})) == ["a", "b"]
    assert await ids(world, 1, wanted=Filter({"t": ["y"]})) == ["a"]
    assert await ids(world, 1, wanted=Filter({"n": 1}, "b")) == ["b"]
    assert await ids(world, 1, wanted=Filter({"n": 2}, "b")) == []
    assert await world.store.count(world.table, Filter({"n": 1}), 1, ()) == 2
    assert await ids(world, 1, wanted=Filter({"'; --": '"'})) == []


async def test_own_writes_lie_over_the_snapshot(world):
    """Insert, change and deletion show in every kind of read; filters and orders mean the same for them."""
    await world.insert(1, a={"n": 1}, b={"n": 2}, c={"n": 3})
    own = [Pending("b", '{"n":9}'), Pending("c", None), Pending('d"', '{"n":0,"q":"\\u00e4"}')]
    rows = await world.store.query(world.table, EVERY_ROW, 1, Window("n"), own)
    assert [(r.id, r.txid) for r in rows] == [('d"', 0), ("a", 1), ("b", 0)]
    assert rows[0].data == '{"n": 0, "q": "ä"}'
    assert await ids(world, 1, wanted=Filter({"n": 2}), pending=own) == []
    assert await ids(world, 1, wanted=Filter({"n": 9}), pending=own) == ["b"]
    assert await ids(world, 1, wanted=Filter(None, "c"), pending=own) == []
    assert await world.store.count(world.table, EVERY_ROW, 1, own) == 3
    assert await world.store.count(world.table, Filter({"n": 3}), 1, own) == 0


async def test_pop_and_shift_take_by_order_of_insertion(world):
    """A change keeps a row's place, new rows come last, and own deletions are passed over."""
    await world.insert(1, c={}, a={}, b={})
    await world.applied(2, world.write("c", {"n": 2}, seen=1))

    async def end(pending=(), *, last):
        row = await world.store.end_row(world.table, 2, pending, last=last)
        return row and row.id

    assert [await end(last=False), await end(last=True)] == ["c", "b"]
    assert await end([Pending("c", '{"n":3}')], last=False) == "c"
    assert await end([Pending("c", None)], last=False) == "a"
    assert await end([Pending("z", "{}"), Pending("y", "{}")], last=True) == "y"
    assert await end([Pending("c", '{"n":3}')], last=True) == "b"
    assert await end([Pending(row, None) for row in "abc"], last=True) is None


async def test_big_numbers_and_odd_texts_come_back_as_they_went_in(world):
    """The path of a row through JSON and jsonb loses nothing."""
    value = {"big": 2**80, "small": -(2**63), "float": 0.1, "text": 'a"\\\n\u2028😀', "": {"": []}}
    await world.insert(1, **{"odd 'id' \\ 😀": value})
    assert (await world.contents())[0][:2] == ("odd 'id' \\ 😀", value)
    own = [Pending(row[0], '{"big":1208925819614629174706176}') for row in await world.contents()]
    assert await ids(world, 1, wanted=Filter({"big": 2**80}), pending=own) == [own[0].id]


async def test_looking_up(versioned):
    """A tenant finds its own tables only, the second tenant's under its long id; the kind is read from the catalog."""
    world = versioned
    await world.sql.execute(
        "INSERT INTO storage VALUES ('two/tasks', 'tbl_x_1', 'two', 4), ('gone', 'nowhere', 'tenant-1', 7), "
        "('evil', 'a\";b', 'tenant-1', 7), ('odd', 'keyless', 'tenant-1', 7); CREATE TABLE keyless (id TEXT)"
    )
    mine, other = await world.store.lookup("tenant-1", "tasks"), await world.store.lookup("two", "tasks")
    assert (mine.ptr, mine.kind.value, mine.permissions) == ("tbl_tasks_5f0c1d", "versioned", 7)
    assert (other.ptr, other.kind.value, other.permissions) == ("tbl_x_1", "plain", 4)
    assert await world.store.lookup("two", "accounts") is None
    assert await world.store.lookup("three", "tasks") is None
    for name in ("gone", "evil", "odd"):
        with pytest.raises(TableMissingError):
            await world.store.lookup("tenant-1", name)


async def test_a_lookup_survives_a_stranger_in_the_catalog(versioned):
    """A table of the same name in another schema is not ours."""
    world = versioned
    await world.sql.execute("CREATE SCHEMA other; CREATE TABLE other.tbl_tasks_5f0c1d (id TEXT PRIMARY KEY)")
    assert (await world.store.lookup("tenant-1", "tasks")).kind.value == "versioned"


async def test_ready(world):
    """Answers when the database does."""
    await world.store.ready()
    fresh = SqlStore(AsyncpgDatabase(world.url))
    await fresh.ready()
    await fresh.aclose()
