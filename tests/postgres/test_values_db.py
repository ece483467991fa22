"""Stored values have one spelling, and compare by their types: in real tables, through the gateway."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import Struct

from kontract import Context, backend, perms, primkey, table
from kontract.core.model.rows import row_type
from support.api import apis


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 2
    LARGE = 10


class Money(Struct):
    amount: Decimal
    currency: str = "EUR"


@table("things")
class Thing(Struct):
    id: Annotated[str, primkey]
    price: Decimal | None = None
    starts: datetime | None = None
    opens: time | None = None
    day: date | None = None
    name: str | None = None
    count: int | None = None
    weight: float | None = None
    done: bool | None = None
    key: UUID | None = None
    colour: Colour | None = None
    size: Size | None = None
    step: Literal["a", "B"] | None = None
    takes: timedelta | None = None
    cost: Money | None = None
    prices: list[Decimal] = []
    by_name: dict[str, datetime] = {}
    tags: set[str] = set()
    anything: Any = None


DDL = """CREATE TABLE {ptr} (
  id TEXT COLLATE "C" NOT NULL, data JSONB NOT NULL, _txid BIGINT NOT NULL, _deleted_txid BIGINT, _owner TEXT NOT NULL,
  _order SERIAL, PRIMARY KEY (id, _txid)
)"""


@backend(perm=perms.RW_)
async def put(ctx: Context, things: list[Thing]) -> list[str]:
    for thing in things:
        await ctx.storage.things.set(thing.id, thing)
    return [thing.id for thing in things]


@backend(perm=perms.RW_)
async def change(ctx: Context, id: str, field: str, value: Any) -> Thing:  # noqa: A002
    return await ctx.storage.things.update(id, **{field: value})


@backend(perm=perms.R__)
async def found(ctx: Context, wanted: dict[str, Any]) -> list[str]:
    ids = [thing.id async for thing in ctx.storage.things.query(wanted)]
    assert await ctx.storage.things.count(wanted) == len(ids)
    return ids


@backend(perm=perms.R__)
async def ordered(ctx: Context, field: str, descending: int = 0, size: int = 100) -> list[list[str]]:
    pages: list[list[str]] = []
    after = None
    while not pages or len(pages[-1]) == size:
        page = ctx.storage.things.query(order_by=field, descending=bool(descending), limit=size, after=after)
        pages.append([thing.id async for thing in page])
        after = pages[-1][-1] if pages[-1] else None
    return pages


@backend(perm=perms.R__)
async def get(ctx: Context, id: str) -> Thing | None:  # noqa: A002
    return await ctx.storage.things.get(id)


@backend(perm=perms.RW_)
async def own(ctx: Context, things: list[Thing], wanted: dict[str, Any], field: str) -> list[list[str]]:
    """One's own writes, which PostgreSQL has not seen before."""
    for thing in things:
        await ctx.storage.things.set(thing.id, thing)
    rows = ctx.storage.things
    answer = [[t.id async for t in rows.query(wanted)], [t.id async for t in rows.query(order_by=field)]]
    for thing in things:
        await ctx.storage.things.delete(thing.id)
    return answer


@backend(perm=perms.RW_)
async def native(ctx: Context, id: str) -> list[str]:  # noqa: A002
    """Values as a function makes them, in filters too."""
    east = timezone(timedelta(hours=5, minutes=30))
    await ctx.storage.things.set(
        id,
        {"price": Decimal("7.50"), "starts": datetime(2026, 1, 1, 5, 30, tzinfo=east), "cost": Money(Decimal("1.0"))},
    )
    await ctx.storage.things.update(id, opens=time(9, 31), prices=[Decimal("7.00")])
    found: list[str] = []
    for wanted in (
        {"price": Decimal("7.5")}, {"starts": datetime(2026, 1, 1, tzinfo=UTC)}, {"cost": Money(Decimal(1))},
        {"cost": {"amount": 1}}, {"opens": time(9, 31)}, {"prices": [7]}, {"price": 7.5},
    ):  # fmt: skip
        found += [thing.id async for thing in ctx.storage.things.query(wanted)]
    return found


@backend(perm=perms.RW_)
async def put_plain(ctx: Context, id: str, value: dict[str, Any]) -> Any:  # noqa: A002
    await ctx.storage.plain.set(id, value)
    return await ctx.storage.plain.get(id)


@backend(perm=perms.RW_)
async def change_plain(ctx: Context, id: str, value: dict[str, Any]) -> Any:  # noqa: A002
    return await ctx.storage.plain.update(id, **value)


@backend(perm=perms.R__)
async def get_plain(ctx: Context, id: str) -> Any:  # noqa: A002
    return await ctx.storage.plain.get(id)


@backend(perm=perms.R_X)
async def sums(ctx: Context) -> Any:
    return await ctx.storage.plain.exec("SELECT sum((data->>'n')::numeric) AS sum, avg(3.3) AS avg FROM plain")


FUNCTIONS = [put, change, found, ordered, get, own, native, put_plain, change_plain, get_plain, sums]


@pytest.fixture
async def api(postgres):
    async with apis(postgres, FUNCTIONS, [Thing]) as make:
        api = make()
        for name in ("things", "plain"):
            await api.sql.execute(DDL.format(ptr=f"tbl_{name}"))
            await api.sql.execute(
                "INSERT INTO storage (id, ptr, owner) VALUES ($1, $2, 'tenant-1')", name, f"tbl_{name}"
            )
        yield api


async def write_by_sql(api, table: str, **rows: str) -> None:
    """Rows that no release of this kind has written."""
    for row_id, data in rows.items():
        await api.sql.execute(
            f"INSERT INTO tbl_{table} (id, data, _txid, _owner) VALUES ($1, $2::jsonb, 1, 'ann')", row_id, data
        )


async def stored(api, row_id: str, table: str = "things") -> dict[str, Any]:
    text = await api.sql.fetchval(f"SELECT data::text FROM tbl_{table} WHERE id = $1 AND _deleted_txid IS NULL", row_id)
    return json.loads(text, parse_float=Decimal)


async def test_what_is_stored_has_one_spelling(api):
    """Equal values are equal text, whoever wrote them and however."""
    rows = [
        {
            "price": price, "starts": starts, "opens": opens, "day": "2026-01-31", "key": key,
            "cost": {"amount": price}, "prices": [price], "by_name": {"a": starts}, "tags": tags, "weight": weight,
        }
        for price, starts, opens, key, tags, weight in [
            ("9.00", "2026-01-01T17:30:00-02:00", "09:30:00", "550E8400-E29B-41D4-A716-446655440000", ["b", "a"], -0.0),
            (9, "2026-01-01T19:30:00Z", "09:30:00.000", "550e8400e29b41d4a716446655440000", ["a", "b", "a"], 0),
            ("0.9E1", "2026-01-02 01:00:00+05:30", "09:30:00.0", "550E8400e29b41d4a716446655440000", ["a", "b"], 0.0),
        ]
    ]  # fmt: skip
    await api.result("put", [{"id": f"r{n}", **row} for n, row in enumerate(rows)])
    first, second, third = [await stored(api, f"r{n}") for n in range(3)]
    for one in (first, second, third):
        one["tags"].sort()
    assert first == second == third
    assert (first["price"], first["starts"], first["opens"]) == ("9", "2026-01-01T19:30:00.000000Z", "09:30:00.000000")
    assert (first["cost"]["amount"], first["prices"], first["by_name"]) == ("9", ["9"], {"a": first["starts"]})
    assert first["key"] == "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("price", [None, "-3", "0", "9.00", "10.00", 99.5, "100.00", "1E+3", "90071992547409.93", "90071992547409.94"]),
        (
            "starts",
            [
                None, "0001-01-01T00:00:00Z", "2026-01-01T17:30:00+02:00", "2026-01-01T18:00:00Z",
                "2026-01-01T18:00:00.000001Z", "2026-01-01T17:30:00-02:00", "9999-12-31T23:59:59.999999Z",
            ],
        ),
        ("opens", [None, "00:00:00", "09:30:00", "09:30:00.5", "10:00:00"]),
        ("day", [None, "0099-12-31", "2026-01-31", "2026-02-01"]),
        ("name", [None, "", "10", "9", "B", "a", "b", "\u00e4"]),
        ("count", [None, -10, 9, 10, 2**53 + 1, 2**70]),
        ("weight", [None, -1.5, 0, 9.25, 10, 1e300]),
        ("done", [None, False, True]),
        ("key", [None, "00000000-0000-0000-0000-00000000000F", "a0000000-0000-0000-0000-000000000000"]),
        ("colour", [None, "blue", "red"]),
        ("size", [None, 2, 10]),
        ("step", [None, "B", "a"]),
    ],
)  # fmt: skip
async def test_rows_come_in_the_order_of_their_values(api, field, values):
    """By type and not as text; null and absent first; pages of every size cover everything once."""
    ids = [f"r{(7 * n) % 11}-{n}" for n in range(len(values))]
    await api.result("put", [{"id": i, field: value} for i, value in zip(ids, values, strict=True)])
    await write_by_sql(api, "things", absent="{}")
    expected = ["absent", *ids]
    for size in (1, 2, 100):
        pages = await api.result("ordered", field, 0, size)
        assert [one for page in pages for one in page] == expected, size
        pages = await api.result("ordered", field, 1, size)
        assert [one for page in pages for one in page] == [*ids[:0:-1], *sorted(["absent", ids[0]], reverse=True)], size


async def test_equal_values_are_found(api):
    """Whatever spelling and offset a caller gives, and wherever the value stands."""
    await api.result(
        "put",
        [
            {
                "id": "a", "price": "10.00", "starts": "2026-01-01T17:30:00-02:00", "opens": "09:30:00", "size": 2,
                "key": "550E8400-E29B-41D4-A716-446655440000", "cost": {"amount": "3.50"}, "prices": ["1.0", "2.0"],
                "by_name": {"x": "2026-01-01T00:00:00Z"}, "takes": "PT90S", "weight": 2, "colour": "red",
            },
            {"id": "b", "price": "1", "starts": "2026-01-01T17:30:00Z"},
        ],
    )  # fmt: skip
    for wanted in [
        {"price": "10"}, {"price": 10}, {"price": 10.0}, {"price": "1E1"}, {"starts": "2026-01-01T19:30:00Z"},
        {"starts": "2026-01-02T01:00:00+05:30"}, {"opens": "09:30:00.000"}, {"size": 2}, {"takes": "PT1M30S"},
        {"key": "550e8400e29b41d4a716446655440000"}, {"cost": {"amount": 3.5}}, {"cost": {"currency": "EUR"}},
        {"prices": ["1.00"]}, {"prices": [2, "1"]}, {"by_name": {"x": "2026-01-01T01:00:00+01:00"}}, {"weight": 2.0},
        {"price": "10.0", "starts": "2026-01-01T19:30:00Z", "colour": "red"}, {"price": "10", "id": "a"},
    ]:  # fmt: skip
        assert await api.result("found", wanted) == ["a"], wanted
    for wanted in [{"price": "10", "colour": "blue"}, {"price": "10.01"}, {"prices": [3]}, {"price": "10", "id": "b"}]:
        assert await api.result("found", wanted) == [], wanted
    assert await api.result("found", {"opens": None}) == ["b"]
    things = [{"id": "c", "price": "1e1"}, {"id": "d", "price": 9}]
    assert await api.result("own", things, {"price": "10.00"}, "price") == [["a", "c"], ["b", "d", "a", "c"]]
    assert await api.result("native", "n") == ["n"] * 7


async def test_what_cannot_be_right_is_refused_with_a_sentence(api):
    """Nothing is guessed, and nothing is rounded."""
    for row, words in [
        ({"starts": "2026-01-01T00:00:00"}, "is a datetime without an offset"),
        ({"starts": "0001-01-01T00:00:00+10:00"}, "outside the years"),
        ({"opens": "09:30:00Z"}, "is a time with an offset"),
        ({"price": "NaN"}, "is NaN, which is not a number"),
        ({"cost": {"amount": "-Infinity"}}, ".cost.amount is -Infinity"),
        ({"price": "1e999999999"}, "has more than 400 digits"),
        ({"prices": ["1", "1e-401"]}, ".prices[1] has more than 400 digits"),
        ({"by_name": {"a": "2026-01-01T00:00:00"}}, ".by_name.a is a datetime without"),
        ({"weight": 90071992547409.93}, None),
        ({"anything": [1e300]}, None),
    ]:
        response = await api.rpc("put", [{"id": "a", **row}])
        assert response.status == (400 if words else 200), response.body
        assert words is None or words in json.loads(response.body)["message"]
    for text in ("90071992547409.931", "1e400", "1e-400", "123456789012345678901234567890"):
        response = await api.send("POST", "/rpc/put", b'[[{"id": "a", "weight": %s}]]' % text.encode())
        assert response.status == 400, (text, response.body)
    for wanted, words in [
        ({"price": "ten"}, "price is decimal or none, not 'ten'"),
        ({"starts": "2026-01-31"}, "starts is datetime or none, not '2026-01-31'"),
        ({"cost": {"colour": 1}}, "has no field 'cost.colour'"),
        ({"prices": 1}, "can hold what the filter wants of 'prices'"),
        ({"key": "1"}, "key is uuid or none"),
    ]:
        assert words in (await api.error(400, "INVALID_REQUEST", "found", wanted))["message"]
    for field in ("takes", "cost", "prices", "by_name", "tags"):
        message = (await api.error(400, "INVALID_REQUEST", "ordered", field))["message"]
        assert f"cannot be ordered by '{field}'" in message


async def test_rows_in_other_spellings_are_neither_lost_nor_compared_as_text(api):
    """What an older release or SQL has written: found, ordered, and spelled anew when it is written."""
    await write_by_sql(
        api,
        "things",
        a='{"price": "10.00", "starts": "2026-01-01T17:30:00-02:00", "opens": "10:00:00"}',
        b='{"price": 9, "starts": "2026-01-01T18:00:00", "opens": "09:59:00"}',
        c='{"price": "1E+2", "starts": "2026-01-01 18:30:00Z", "opens": "10:00:00.5"}',
    )
    await api.result("put", [{"id": "d", "price": "9.5", "starts": "2026-01-01T19:00:00Z", "opens": "09:59:30"}])
    assert await api.result("ordered", "price") == [["b", "d", "a", "c"]]
    assert await api.result("ordered", "starts", 1) == [["a", "d", "c", "b"]]
    assert await api.result("found", {"price": 10}) == ["a"]
    assert await api.result("found", {"price": "100.0"}) == ["c"]
    assert await api.result("found", {"starts": "2026-01-01T19:30:00Z"}) == ["a"]
    await api.result("change", "a", "name", "x")
    assert (await stored(api, "a"))["price"] == "10"
    assert (await stored(api, "a"))["starts"] == "2026-01-01T19:30:00.000000Z"
    await write_by_sql(api, "things", e='{"price": "ten"}')
    error = await api.error(500, "INTERNAL", "ordered", "price")
    assert "table 'things' has rows whose values do not match the declared type" in error["message"]


async def test_an_update_rounds_nothing_that_it_does_not_touch(api):
    """Numbers that SQL wrote keep all their digits, in fields of every type, known and unknown."""
    long = "1.00000000000000000000000000000000000001"
    await write_by_sql(
        api,
        "things",
        a=f'{{"weight": {long}, "anything": [{long}], "price": {long}, "unknown": {{"x": {long}}}}}',
    )
    await write_by_sql(api, "plain", a=f'{{"n": {long}, "big": 9007199254740993, "m": {{"x": [{long}]}}}}')
    thing = await api.rpc("change", "a", "count", 5)
    assert thing.status == 200
    after = await stored(api, "a")
    assert [after["weight"], after["anything"], after["price"], after["unknown"], after["count"]] == [
        Decimal(long), [Decimal(long)], long, {"x": Decimal(long)}, 5,
    ]  # fmt: skip
    assert long.encode() in (await api.rpc("get", "a")).body, "an answer has them, too"
    await api.rpc("change_plain", "a", {"o": 1.5})
    assert await stored(api, "a", "plain") == {
        "n": Decimal(long), "big": 9007199254740993, "m": {"x": [Decimal(long)]}, "o": Decimal("1.5"),
    }  # fmt: skip
    read = await api.rpc("get_plain", "a")
    assert read.body.count(long.encode()) == 2
    written = await api.send("POST", "/rpc/put_plain", b'["b", {"v": [%s, 1e350, 1e-350]}]' % long.encode())
    assert long.encode() in written.body
    assert await stored(api, "b", "plain") == {"v": [Decimal(long), Decimal("1e350"), Decimal("1e-350")]}
    selected = await api.rpc("sums")
    assert long.encode() in selected.body


async def test_a_float_stays_a_float(api):
    """jsonb writes 1e20 as the digits of an integer; whoever wrote a float reads one."""
    values = [1.0, 1e15, 1e16, 1e20, 1e22, 1e300, 5e-324, 0.1, -0.0, 2**60 * 1.0]
    assert await api.result("put_plain", "a", {"v": values, "i": 10**20})
    read = await api.result("get_plain", "a")
    assert read["v"] == values
    assert [type(one) for one in read["v"]] == [float] * len(values)
    assert type(read["i"]) is int


async def test_a_filter_by_type_conflicts_with_whatever_may_match(api):
    """What an older release commits beside this one may be spelled otherwise: no phantom may be missed."""
    wanted = row_type(Thing).filter({"price": "10.00", "name": "x", "cost": {"amount": 1}, "day": "2026-01-31"})
    assert wanted.certain() == {"name": "x", "day": "2026-01-31"}
    assert wanted.contains == {"price": "10", "name": "x", "cost": {"amount": "1"}, "day": "2026-01-31"}
    assert msgspec.json.encode(wanted.contains)
