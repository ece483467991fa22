"""Ranges, prefixes, pages and their cursors, on typed tables in a real database: what a booking service asks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from msgspec import Struct

from kontract import Context, Page, backend, perms, primkey, table
from kontract.core import limits
from kontract.where import between, ge, gt, le, lt, one_of, prefix
from support.api import apis

START = datetime(2026, 1, 1, tzinfo=UTC)

DDL = {
    "versioned": """CREATE TABLE {ptr} (
      id TEXT COLLATE "C" NOT NULL, data JSONB NOT NULL, _txid BIGINT NOT NULL, _deleted_txid BIGINT,
      _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid))""",
    "plain": """CREATE TABLE {ptr} (
      id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
      _owner TEXT NOT NULL, _order SERIAL)""",
}


@table("courses")
class Course(Struct):
    id: Annotated[str, primkey]
    title: str
    starts_at: datetime
    price: Decimal
    seats: int = 10
    state: Literal["open", "closed"] = "open"
    tags: list[str] = []
    until: date | None = None


@backend(perm=perms.RW_)
async def add(ctx: Context, count: int) -> None:
    """Courses an hour apart, at prices whose order as text is another one."""
    for n in range(count):
        course = Course("", f"{'Yoga' if n % 2 else 'Boxing'} {n}", START + timedelta(hours=n), Decimal(n) / 4)
        await ctx.storage.courses.set(f"c{n:03}", course)


@backend(perm=perms.RW_)
async def remove(ctx: Context, id: str) -> bool:  # noqa: A002
    return await ctx.storage.courses.delete(id)


CONDITIONS: dict[str, Any] = {
    "two dates": {"starts_at": ge(START + timedelta(hours=2)) & lt(START + timedelta(hours=5))},
    "dates as text": {"starts_at": between("2026-01-01T02:00:00Z", "2026-01-01T05:00:00+01:00")},
    "prices": {"price": gt(Decimal("1.5")) & le(3)},
    "prefix": {"title": prefix("Boxing 1")},
    "prefix of everything": {"title": prefix("")},
    "one of": {"title": one_of("Yoga 1", "Boxing 2", "Golf")},
    "one of none": {"title": one_of()},
    "numbers of one": {"seats": one_of(10, 11), "price": ge("4.75")},
    "ids": {"id": between("c003", "c005")},
    "with a value": {"state": "open", "id": lt("c002")},
    "of null": {"until": ge(date(1, 1, 1))},
    "two fields": {"starts_at": ge(START + timedelta(hours=10)), "title": prefix("Yoga")},
}

EXPECTED: dict[str, list[int]] = {
    "two dates": [2, 3, 4],
    "dates as text": [2, 3, 4],
    "prices": [7, 8, 9, 10, 11, 12],
    "prefix": [10, 12, 14, 16, 18],
    "prefix of everything": list(range(20)),
    "one of": [1, 2],
    "one of none": [],
    "numbers of one": [19],
    "ids": [3, 4, 5],
    "with a value": [0, 1],
    "of null": [],
    "two fields": [11, 13, 15, 17, 19],
}


@backend(perm=perms.R__)
async def ask(ctx: Context, name: str) -> dict[str, Any]:
    rows, wanted = ctx.storage.courses, CONDITIONS[name]
    first = await rows.first(wanted, order_by="price", descending=True)
    return {
        "ids": [course.id async for course in rows.query(wanted)],
        "count": await rows.count(wanted),
        "exists": await rows.exists(wanted),
        "first": None if first is None else first.id,
    }


@backend(perm=perms.R__)
async def pages(ctx: Context, order_by: str | None = None, descending: int = 0, size: int = 7) -> list[list[str]]:
    found: list[list[str]] = []
    cursor = None
    while not found or cursor is not None:
        rows = ctx.storage.courses
        page = await rows.page(order_by=order_by, descending=bool(descending), size=size, cursor=cursor)
        found.append([course.id for course in page.rows])
        cursor = page.cursor
    return found


@backend(perm=perms.R__)
async def courses(ctx: Context, cursor: str | None = None, size: int = 5, order_by: str = "price") -> Page[Course]:
    return await ctx.storage.courses.page({"state": "open"}, order_by=order_by, size=size, cursor=cursor)


@backend(perm=perms.R__)
async def many(ctx: Context, ids: list[str]) -> list[Course | None]:
    return await ctx.storage.courses.get_many(ids)


WRONG: dict[str, tuple[Any, str]] = {
    "type": ({"seats": ge("many")}, "seats is int, not 'many' (str)"),
    "date": ({"starts_at": lt("soon")}, "starts_at is datetime, not 'soon' (str)"),
    "naive": ({"starts_at": lt(datetime(2026, 1, 1))}, "without an offset"),  # noqa: DTZ001
    "null": ({"until": ge(None)}, "until is date, not None (NoneType)"),
    "list": ({"tags": ge("a")}, "compares 'tags', whose type has no order; it can compare id, price"),
    "unknown": ({"places": ge(1)}, "has no field 'places' to query"),
    "prefix of a number": ({"seats": prefix("1")}, "prefix() is for text"),
    "too many": ({"title": one_of(*map(str, range(limits.FILTER_VALUES + 1)))}, "more than 100 values"),
}


@backend(perm=perms.R__)
async def wrong(ctx: Context, name: str) -> int:
    return await ctx.storage.courses.count(WRONG[name][0])


@backend(perm=perms.R__)
async def untyped(ctx: Context) -> list[str]:
    rows = ctx.storage.loose
    assert await rows.exists({"id": ge("a")}) is False
    return [row["id"] async for row in rows.query({"n": ge(1)})]


@backend(perm=perms.R__)
async def sizes(ctx: Context) -> list[int]:
    rows = ctx.storage.courses
    return [len((await rows.page()).rows), len((await rows.page(size=limits.QUERY_ROWS)).rows)]


FUNCTIONS = [add, remove, ask, pages, courses, many, wrong, untyped, sizes]


@pytest.fixture(params=["versioned", "plain"])
async def api(postgres, request):
    async with apis(postgres, FUNCTIONS, [Course]) as make:
        api = make()
        for name in ("courses", "loose"):
            await api.sql.execute(DDL[request.param].format(ptr=f"tbl_{name}"))
            await api.sql.execute(
                "INSERT INTO storage (id, ptr, owner) VALUES ($1, $2, 'tenant-1')", name, f"tbl_{name}"
            )
        yield api


async def refusal(api, function: str, *args: Any) -> str:
    return (await api.error(400, "INVALID_REQUEST", function, *args))["message"]


async def test_conditions(api):
    """In query, count, exists and first alike; null passes none."""
    await api.result("add", 20)
    for name, numbers in EXPECTED.items():
        ids = [f"c{n:03}" for n in numbers]
        answer = {"ids": ids, "count": len(ids), "exists": bool(ids), "first": ids[-1] if ids else None}
        assert await api.result("ask", name) == answer, name


@pytest.mark.parametrize("order_by", [None, "price", "title", "until"])
async def test_pages_cover_everything_once(api, order_by):
    """Also where all values are equal, or there are none; the last page says that there are no more."""
    await api.result("add", 20)
    for descending in (0, 1):
        found = await api.result("pages", order_by, descending)
        assert [len(page) for page in found] == [7, 7, 6]
        ids = [row for page in found for row in page]
        if order_by == "title":
            expected = sorted(range(20), key=lambda n: (f"{'Yoga' if n % 2 else 'Boxing'} {n}", n))
        else:
            expected = list(range(20))
        assert ids == [f"c{n:03}" for n in (expected[::-1] if descending else expected)]


async def test_a_cursor_outlives_its_row_and_belongs_to_its_query(api):
    await api.result("add", 12)
    first = await api.result("courses")
    assert [row["id"] for row in first["rows"]] == [f"c{n:03}" for n in range(5)]
    assert await api.result("remove", "c004")
    second = await api.result("courses", first["cursor"])
    assert [row["id"] for row in second["rows"]] == [f"c{n:03}" for n in range(5, 10)]
    third = await api.result("courses", second["cursor"])
    assert (len(third["rows"]), third["cursor"]) == (2, None)
    for cursor, order_by, says in (
        (first["cursor"], "title", "belongs to another query"),
        (first["cursor"][:-4], "price", "not a cursor"),
        ("x" * (limits.CURSOR_BYTES + 1), "price", "not a cursor"),
        ("é", "price", "not a cursor"),
    ):
        assert says in await refusal(api, "courses", cursor, 5, order_by)
    for size in (0, limits.QUERY_ROWS + 1):
        assert "size must be a whole number" in await refusal(api, "courses", None, size)


async def test_the_size_of_a_page(api):
    await api.result("add", limits.PAGE_ROWS + 1)
    assert await api.result("sizes") == [limits.PAGE_ROWS, limits.PAGE_ROWS + 1]


async def test_rows_by_their_ids(api):
    await api.result("add", 5)
    found = await api.result("many", ["c003", "c001", "gone", "c003"])
    assert [row and row["id"] for row in found] == ["c003", "c001", None, "c003"]
    assert await api.result("many", []) == []
    assert "at most 1000 ids" in await refusal(api, "many", ["x"] * (limits.QUERY_ROWS + 1))


@pytest.mark.parametrize("name", WRONG)
async def test_what_cannot_be_compared_is_named(api, name):
    """Field, type and value."""
    assert WRONG[name][1] in await refusal(api, "wrong", name)


async def test_a_table_without_declared_fields_has_no_ranges_but_of_ids(api):
    assert "declares no fields" in await refusal(api, "untyped")
