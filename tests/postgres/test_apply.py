"""The statement that commits: everything or nothing, once, in the right epoch, over both kinds of tables."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from kontract.core.messages import ABSENT
from kontract.core.statements import ApplyPlan, Statement
from kontract.core.transaction import fences, sql
from kontract.core.transaction.store import SqlStore
from kontract.ports import ApplyOutcome, DatabaseError, DatabaseUnavailableError
from kontract.server.database import AsyncpgDatabase
from support.postgres import apply

OWNER = "tenant-1"
APPLIED, FAILED, FENCED = ApplyOutcome.APPLIED, ApplyOutcome.FAILED, ApplyOutcome.FENCED


def live(contents: list[tuple]) -> dict:
    return {row: (data, txid, owner) for row, data, txid, deleted, owner in contents if deleted is None}


async def test_insert_change_and_delete(world):
    """The three writes, and the fence beside them."""
    await world.insert(1, a={"n": 1}, b={"n": 1})
    assert live(await world.contents()) == {"a": ({"n": 1}, 1, "ann"), "b": ({"n": 1}, 1, "ann")}
    await world.applied(2, world.write("a", {"n": 2}, seen=1), world.write("b", seen=1), user="bob")
    assert live(await world.contents()) == {"a": ({"n": 2}, 2, "ann")}, "the creator stays the owner"
    assert await world.fences() == {"s/1": 1, "s/2": 2}
    await world.applied(3, world.write("b", {"n": 3}, seen=ABSENT), user="bob")
    assert live(await world.contents())["b"] == ({"n": 3}, 3, "bob"), "a row that is made again has a new owner"


async def test_blind_writes(world):
    """Over nothing, over a live row, over a deleted one; a blind deletion may find nothing."""
    await world.applied(1, world.write("a", {"n": 1}))
    await world.applied(2, world.write("a", {"n": 2}), user="bob")
    assert live(await world.contents()) == {"a": ({"n": 2}, 2, "ann")}
    await world.applied(3, world.write("a"))
    assert live(await world.contents()) == {}
    await world.applied(4, world.write("a"))
    await world.applied(5, world.write("a", {"n": 5}), world.write("never"), user="bob")
    assert live(await world.contents()) == {"a": ({"n": 5}, 5, "bob")}


@pytest.mark.parametrize("seen", [ABSENT, 1, 3])
@pytest.mark.parametrize("value", [{"n": 9}, None])
async def test_a_row_that_is_not_as_it_was_read(world, seen, value):
    """Nothing at all is written then: not the other rows, not the fence."""
    await world.insert(1, a={"n": 1}, b={"n": 1})
    await world.applied(2, world.write("a", {"n": 2}, seen=1))
    if seen == ABSENT and value is None:
        return  # nothing to write: never sent
    before = await world.contents(), await world.fences()
    stale = world.write("a", value, seen=seen)
    assert await world.apply(4, world.write("b", {"n": 4}, seen=1), stale, world.write("z", {})) is FAILED
    assert (await world.contents(), await world.fences()) == before


@pytest.mark.parametrize("value", [{"n": 9}, None])
async def test_a_row_that_was_read_and_is_gone(world, value):
    """An update or deletion of it must not pass as done."""
    await world.insert(1, a={"n": 1})
    await world.applied(2, world.write("a", seen=1))
    before = await world.contents()
    assert await world.apply(3, world.write("a", value, seen=1)) is FAILED
    assert await world.apply(4, world.write("never", value, seen=1)) is FAILED
    assert await world.contents() == before
    assert await world.fences() == {"s/1": 1, "s/2": 2}


async def test_a_write_older_than_the_row_does_not_land(world):
    """A blind write is ordered by its txid: an apply that comes late must not undo a newer one."""
    await world.insert(5, a={"n": 5})
    assert await world.apply(4, world.write("a", {"n": 4}), sid="late") is FAILED
    assert live(await world.contents()) == {"a": ({"n": 5}, 5, "ann")}


@pytest.mark.parametrize("epoch", [2, 99])
async def test_another_epoch_writes_nothing(world, epoch):
    """The one thing that safety rests on: a superseded coordinator cannot commit."""
    assert await world.apply(1, world.write("a", {}), epoch=epoch) is FENCED
    assert (await world.contents(), await world.fences()) == ([], {})
    await world.store.take_over(OWNER, 1)
    assert await world.apply(1, world.write("a", {})) is FENCED
    assert (await world.contents(), await world.fences()) == ([], {})
    assert await world.apply(1, world.write("a", {}), epoch=2) is APPLIED


async def test_no_epoch_row_writes_nothing(world):
    """A database that nobody has taken over is not the coordinator's."""
    await world.sql.execute("DELETE FROM trxs")
    assert await world.apply(1, world.write("a", {})) is FENCED
    assert (await world.contents(), await world.fences()) == ([], {})


async def test_a_repeated_apply_is_refused(world):
    """The fence's primary key makes it at most once, whatever the second one wants to write."""
    await world.applied(1, world.write("a", {"n": 1}), sid="same")
    before = await world.contents()
    assert await world.apply(2, world.write("b", {}), sid="same") is FAILED
    assert await world.contents() == before
    assert await world.fences() == {"same": 1}


async def test_all_tables_or_none(world):
    """A transaction over two tables fails as one."""
    await world.applied(1, world.write("a", {"n": 1}), world.write("x", {"n": 1}, table=world.other))
    bad = world.write("x", {"n": 2}, seen=7, table=world.other)
    assert await world.apply(2, world.write("a", {"n": 2}, seen=1), bad) is FAILED
    assert live(await world.contents())["a"][0] == {"n": 1}
    good = world.write("x", {"n": 2}, seen=1, table=world.other)
    await world.applied(3, world.write("a", {"n": 2}, seen=1), good)
    assert live(await world.contents())["a"][1] == live(await world.contents(world.other))["x"][1] == 3


async def test_the_order_of_insertion_is_kept(world):
    """New rows in the order of writing, a changed row where it was, a row made again at the end."""

    async def order() -> list[str]:
        rows = await world.sql.fetch(f"SELECT id FROM {world.table.ptr} WHERE _deleted_txid IS NULL ORDER BY _order")
        return [row[0] for row in rows]

    names = [f"r{n * 7 % 20}" for n in range(20)]
    await world.applied(1, *(world.write(name, {}, seen=ABSENT) for name in names))
    assert await order() == names
    await world.applied(2, *(world.write(name, {"n": 2}, seen=1) for name in reversed(names[5:9])))
    await world.applied(3, world.write(names[3], {"n": 3}))
    assert await order() == names
    await world.applied(4, world.write(names[0], seen=1))
    await world.applied(5, world.write(names[0], {}, seen=ABSENT), world.write("new", {}))
    assert await order() == [*names[1:], names[0], "new"]


async def test_a_thousand_rows_in_one_statement(world):
    """A large write set is still one statement, and every row arrives."""
    await world.applied(1, *(world.write(f"r{n}", {"n": n}) for n in range(1_000)))
    await world.applied(2, *(world.write(f"r{n}", {"n": -n}, seen=1) for n in range(1_000)))
    rows = live(await world.contents())
    assert len(rows) == 1_000
    assert all(rows[f"r{n}"][0] == {"n": -n} for n in range(1_000))


# --- the resolver ----------------------------------------------------------------------------------------------------


async def test_the_resolver_first_then_the_apply_is_refused(world):
    """Once the fence says never, a late apply of a slow worker writes nothing."""
    assert await world.store.resolve("s/1", OWNER, 1) == -1
    assert await world.store.resolve("s/1", OWNER, 1) == -1
    assert await world.apply(1, world.write("a", {})) is FAILED
    assert await world.contents() == []


async def test_the_apply_first_then_the_resolver_says_committed(world):
    """And asking changes nothing."""
    await world.applied(1, world.write("a", {}))
    assert await world.store.resolve("s/1", OWNER, 1) == 1
    assert await world.store.resolve("s/1", OWNER, 2) == 1, "another number: the fence of another attempt"
    assert await world.fences() == {"s/1": 1}


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_the_resolver_waits_for_an_apply_in_flight(world, ending):
    """It must not say "never" while the statement may still succeed."""
    statement = sql.apply(ApplyPlan("s/1", OWNER, "ann", 1, 1, [(world.table, [world.write("a", {"n": 1})[1]])]))
    await world.sql.execute("BEGIN")
    await world.sql.fetch(statement.text, *statement.params)
    asked = asyncio.create_task(world.store.resolve("s/1", OWNER, 1))
    await asyncio.sleep(0.2)
    assert not asked.done()
    await world.sql.execute(ending)
    assert await asked == (1 if ending == "COMMIT" else -1)
    assert len(await world.contents()) == (1 if ending == "COMMIT" else 0)


async def test_take_over_waits_for_an_apply_in_flight_and_counts_it(world):
    """Otherwise the successor could give the same txid again."""
    statement = sql.apply(ApplyPlan("s/41", OWNER, "ann", 41, 1, [(world.table, [world.write("a", {"n": 1})[1]])]))
    await world.sql.execute("BEGIN")
    await world.sql.fetch(statement.text, *statement.params)
    taken = asyncio.create_task(world.store.take_over(OWNER, 1))
    await asyncio.sleep(0.2)
    assert not taken.done()
    await world.sql.execute("COMMIT")
    assert await taken == (2, 41)


async def test_take_over_raises_the_epoch_and_finds_the_highest_txid(world):
    """From fences of either sign and from rows, of this owner only."""
    assert await world.store.take_over(OWNER, 1) == (2, 0)
    assert await world.store.take_over(OWNER, 10) == (10, 0)
    world.epoch = 10
    await world.applied(5, world.write("a", {}))
    assert await world.store.take_over(OWNER, 1) == (11, 5)
    await world.store.resolve("x", OWNER, 9)
    assert (await world.store.take_over(OWNER, 1))[1] == 9
    await world.store.resolve("y", "somebody else", 99)
    assert (await world.store.take_over(OWNER, 1))[1] == 9
    await world.sql.execute("DELETE FROM trxs WHERE sid NOT LIKE 'epoch/%'")
    assert (await world.store.take_over(OWNER, 1))[1] == 5, "fences are collected after a day, rows are not"
    world.epoch = 14
    await world.applied(20, world.write("a"))
    await world.sql.execute("DELETE FROM trxs WHERE sid NOT LIKE 'epoch/%'")
    assert (await world.store.take_over(OWNER, 1))[1] == 20, "a deletion is a txid in a row"
    assert await world.store.read_epoch(OWNER) == 15
    assert await world.store.read_epoch("nobody") == 0


async def test_a_take_over_that_arrives_late_changes_nothing(world):
    """A start that was given up must not put the next one out of office: it would answer FENCED for good."""
    late = fences.raise_epoch(OWNER, 2, 1)  # sent while the epoch was 1, and held up on its way
    assert await world.store.take_over(OWNER, 1) == (2, 0)
    assert await world.sql.fetch(late.text, *late.params) == []
    assert await world.store.read_epoch(OWNER) == 2
    first = fences.raise_epoch("new", 1, 0)
    assert await world.sql.fetch(first.text, *first.params) == [(1,)]
    assert await world.sql.fetch(first.text, *first.params) == [], "a second one that saw no epoch either"


async def test_of_two_that_take_over_at_once_one_is_told_to_try_again(world, monkeypatch):
    """Both have read the same epoch; one raises it, the other finds it raised."""
    reads = []
    both_have_read = asyncio.Event()
    run = AsyncpgDatabase.run

    async def in_step(self, statement):
        rows = await run(self, statement)
        if statement == fences.read_epoch(OWNER):
            reads.append(rows)
            if len(reads) == 2:
                both_have_read.set()
            await both_have_read.wait()
        return rows

    stores = [SqlStore(AsyncpgDatabase(world.url)) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(AsyncpgDatabase, "run", in_step)
        results = await asyncio.gather(*(store.take_over(OWNER, 1) for store in stores), return_exceptions=True)
    for store in stores:
        await store.aclose()
    assert sorted(map(type, results), key=str) == [DatabaseUnavailableError, tuple]
    assert await world.store.read_epoch(OWNER) == 2


# --- concurrency -----------------------------------------------------------------------------------------------------


async def test_applies_of_different_rows_do_not_wait_for_each_other(world):
    """The epoch row is shared: reading it FOR SHARE must not make commits queue."""
    statement = sql.apply(ApplyPlan("s/1", OWNER, "ann", 1, 1, [(world.table, [world.write("a", {})[1]])]))
    await world.sql.execute("BEGIN")
    await world.sql.fetch(statement.text, *statement.params)
    plan = ApplyPlan("s/2", OWNER, "ann", 2, 1, [(world.table, [world.write("b", {})[1]])])
    assert await asyncio.wait_for(world.store.apply(plan), 3) is APPLIED
    await world.sql.execute("COMMIT")


async def test_two_applies_of_one_sid_at_once(world):
    """A worker that sends twice, on two connections: one of them wins."""
    stores = [SqlStore(AsyncpgDatabase(world.url)) for _ in range(4)]
    plan = ApplyPlan("same", OWNER, "ann", 1, 1, [(world.table, [world.write("a", {"n": 1})[1]])])
    outcomes = await asyncio.gather(*(apply(store, plan) for store in stores))
    assert sorted(outcome.value for outcome in outcomes) == ["applied", "failed", "failed", "failed"]
    await world.check()
    for store in stores:
        await store.aclose()


# --- the adapter -----------------------------------------------------------------------------------------------------


async def test_errors_of_the_driver_become_the_ports_errors(world):
    """The core tells an answer that is an error from no answer."""
    database = AsyncpgDatabase(world.url)
    with pytest.raises(DatabaseError) as refused:
        await database.run(Statement("SELECT 'x'::int"))
    assert refused.value.sqlstate == "22P02"
    with pytest.raises(DatabaseUnavailableError):
        await database.run(Statement("SELECT pg_sleep(5)", (), 50))
    await database.aclose()
    with pytest.raises(DatabaseUnavailableError):
        await AsyncpgDatabase("postgresql://u:p@127.0.0.1:1/x").run(Statement("SELECT 1"))


async def test_a_connection_that_is_cut_is_not_an_answer(versioned):
    """Whether the statement took effect is not known: resolve says None, apply says FAILED."""
    world = versioned

    async def cut() -> None:
        pid = (await world.store._database.run(Statement("SELECT pg_backend_pid()")))[0][0]
        await world.sql.execute("SELECT pg_terminate_backend($1)", pid)
        while not world.store._database._connection.is_closed():
            await asyncio.sleep(0.01)

    await cut()
    assert await world.store.resolve("s/1", OWNER, 1) is None
    await cut()
    assert await apply(world.store, ApplyPlan("s/2", OWNER, "ann", 2, 1, [])) is FAILED


async def test_no_error_of_the_driver_gets_through(versioned, monkeypatch):
    """asyncpg raises InternalClientError when the cut arrives between two statements; a resolve must survive that."""
    await versioned.store.ready()

    async def confused(*args, **more):
        raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")

    monkeypatch.setattr(asyncpg.Connection, "fetch", confused)
    assert await versioned.store.resolve("s/1", OWNER, 1) is None
