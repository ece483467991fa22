"""Results are what their annotations say, because typed clients believe them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from kontract import Context, HttpResp, backend, perm, perms, primkey, table
from kontract.gateway.openapi import document
from kontract.gateway.results import Result, ResultError
from kontract.gateway.routes import Registry
from support.api import apis


@table("cards")
class Card(Struct):
    id: Annotated[str, primkey]
    pin: Annotated[str, perm(perms._W_)]
    holder: Annotated[str, Meta(min_length=1)] = "nobody"


@dataclass
class Point:
    x: int
    y: int = 7
    name: str = "p"
    tags: list[str] = field(default_factory=list)


class Box(Struct):
    point: Point
    price: Decimal = Decimal("1.50")


def result_of(hint: Any) -> Result:
    async def function(ctx: Context): ...

    function.__annotations__["return"] = hint
    return Result(function, "function")


def sent(hint: Any, value: Any) -> Any:
    return json.loads(result_of(hint).response(value).body)["result"]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, "five"), (int, True), (int, 1.5), (int, None), (str, 5), (bool, 1), (None, "x"), (float, "1"),
        (list[int], [1, "2"]), (dict[str, int], {"a": None}), (Card, Card("a", "1", "")), (Card, {"id": "a"}),
        (Card, Card(5, "1")), (Box, Box(Point("1"))), (Box, Box({"x": "1"})), (Card | None, []), (tuple[int, str], [1]),
        (Annotated[int, Meta(ge=0)], -1), (list[Card], [Card("a", "1"), Card("b", 1)]), (datetime, "yesterday"),
        (float, float("nan")), (float | None, float("inf")), (Any, [1, {"a": float("-inf")}]),
        (dict, {"a": float("inf")}),
        (HttpResp[int], HttpResp.created("five")), (HttpResp[int] | str, HttpResp.ok(None)), (int, HttpResp.ok("five")),
        (Any, object()), (Any, 1j), (list[float], [1.0, float("nan")]),
        (Decimal, Decimal("NaN")), (Box, Box(Point(1), Decimal("-Infinity"))),
        (list[Decimal], [Decimal("1E+999999999")]),
    ],
)  # fmt: skip
def test_what_is_not_declared_is_refused(hint, value):
    """At every depth, for structs that were made by hand too; the message names the function and its line."""
    with pytest.raises(ResultError, match=r"test_results\.py:\d+: function returned a "):
        result_of(hint).response(value)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, 5, 5), (str, "x", "x"), (None, None, None), (float, 5, 5), (Decimal, Decimal("1.10"), "1.10"),
        (Decimal, 5, "5"), (Any, {"a": None}, {"a": None}), (object, [1], [1]), (dict, {1: 2}, {"1": 2}),
        (dict[int, Decimal], {1: Decimal(2)}, {"1": "2"}), (set[int], {1}, [1]),
        (Card, Card("a", "1"), {"id": "a", "holder": "nobody"}),
        (Card, {"id": "a", "pin": "1"}, {"id": "a", "holder": "nobody"}),
        (list[Card], [Card("a", "1")], [{"id": "a", "holder": "nobody"}]),
        (list, [Card("a", "1")], [{"id": "a", "holder": "nobody"}]),
        (Any, {"x": Card("a", "1")}, {"x": {"id": "a", "holder": "nobody"}}),
        (Point, Point(1), {"x": 1, "y": 7, "name": "p", "tags": []}),
        (Point, {"x": 1}, {"x": 1, "y": 7, "name": "p", "tags": []}),
        (Point, msgspec.convert({"x": 1, "name": "q"}, Point), {"x": 1, "y": 7, "name": "q", "tags": []}),
        (Box, {"point": {"x": 1}}, {"point": {"x": 1, "y": 7, "name": "p", "tags": []}, "price": "1.50"}),
        (HttpResp[Point], HttpResp.created({"x": 1}), {"x": 1, "y": 7, "name": "p", "tags": []}),
        (HttpResp[int] | str, "x", "x"), (HttpResp, HttpResp.ok("five"), "five"), (int, HttpResp(409, "five"), "five"),
        (datetime, datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"), (complex, None, None),
        (float | None, None, None), (list[float | None], [1.5, None], [1.5, None]),
    ],
)  # fmt: skip
def test_what_is_declared_is_sent(hint, value, expected):
    """Whole, whatever stood for it: dicts become what they stand for, and nothing hidden is shown."""
    assert sent(hint, value) == expected


def test_answers_without_a_body_have_no_result_to_check():
    """204 and redirects."""
    result = result_of(HttpResp[int])
    assert result.response(HttpResp.no_content()).body == b""
    assert result.response(HttpResp.redirect("/x")).status == 303


def test_the_type_of_a_response_reaches_the_document_and_the_clients():
    """``-> HttpResp[Point]`` is told as a Point, under every status of success."""

    @backend(perm=perms.R__, public=True)
    async def make(ctx: Context) -> HttpResp[Point] | Point: ...

    described = document(Registry.of({"make": make}), None)
    schemas = [
        operation["responses"]["2XX"]["content"]["application/json"]["schema"]["properties"]["result"]
        for path, methods in described["paths"].items()
        if path.endswith("/make")
        for operation in methods.values()
    ]
    assert schemas
    assert all(schema == {"$ref": "#/components/schemas/Point"} for schema in schemas)


async def test_nothing_of_it_reaches_the_caller(make_api):
    """A 500 with the usual sentence; the place is in the log, and nothing was committed."""
    api = make_api()
    response = await api.rpc("five")
    assert response.status == 500
    assert b"five" not in response.body.replace(b"/rpc/five", b"")
    assert b"int" not in response.body
    assert "test_results.py" in str(api.log[-1])
    assert "Expected `int`, got `str`" in str(api.log[-1])
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_accounts_9b27e4") == 0
    assert await api.result("three") == 3


@backend(perm=perms.RW_)
async def five(ctx: Context) -> int:
    await ctx.storage.accounts.set("a", {"balance": 1})
    return "five"  # type: ignore[return-value]


async def change(ctx: Context, call_next: Any) -> Any:
    """Middleware answers for itself."""
    value = await call_next()
    return {"wrapped": value} if value != 3 else value


@backend(perm=perms.R__)
async def three(ctx: Context) -> int:
    return 3


@backend(perm=perms.R__)
async def four(ctx: Context) -> int:
    return 4


async def test_middleware_answers_for_itself(make_api):
    """What it makes of a result has a type that nobody declared."""
    assert await make_api().result("four") == {"wrapped": 4}


@pytest.fixture
async def make_api(postgres):
    async with apis(postgres, [five, three, four], three=(change,), four=(change,)) as make:
        yield make
