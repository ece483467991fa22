"""The coordinator's reading of comparisons and orders against PostgreSQL's own, over generated values of each order."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import pytest

from kontract.core.protocol import ranges
from kontract.core.protocol.write_log import _decode_exactly
from kontract.core.transaction import sql
from kontract.core.types import Bound, Order, RowPosition, Span
from support.containment import NUMBERS, STRINGS

PAIRS = 10_000
MANY = 100_000
ENOUGH = 20
OPERATORS = ("=", "<", "<=", ">", ">=", "in")

_INSTANTS = [
    "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:00.000001Z", "2026-01-31T11:59:59.999999Z",
    "2026-02-01T00:00:00.000000Z", "1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999Z",
]  # fmt: skip
_TIMES = ["00:00:00.000000", "12:00:00.000000", "12:00:00.000001", "11:59:59.999999", "23:59:59.999999"]

VALUES: dict[Order, list[str]] = {
    Order.TEXT: [*STRINGS, "aa", "ab", "b", "\ud7ff", "\ue000", "\U0010ffff"],
    Order.NUMBER: [spelling for line in NUMBERS for spelling in line if len(spelling) < 60],
    Order.BOOLEAN: ["true", "false"],
    Order.INSTANT: _INSTANTS,
    Order.TIME: _TIMES,
}
"""Texts that are compared with, in normal form as far as it matters."""

_SPELLED: dict[Order, list[str]] = {
    Order.TEXT: [],
    Order.NUMBER: ['"10.5"', '"1e1"', '"-0.0"', '" 2 "'],
    Order.BOOLEAN: ['"true"', '"f"'],
    Order.INSTANT: [
        '"2026-01-31T13:00:00+01:00"', '"2026-01-31T12:00:00"', '"2026-01-31 12:00:00Z"',
        '"2026-01-31T12:00:00.0000004Z"', '"2026-01-31T12:00:00.0000006Z"', '"2026-01-31T24:00:00Z"', '"2026-01-31"',
    ],
    Order.TIME: ['"12:00"', '"12:00:00.0000004"', '"12:00:00.0000006"', '"24:00:00"'],
}  # fmt: skip
"""Values that others may have stored, as JSON: PostgreSQL takes them."""


def stored(order: Order) -> list[str]:
    """JSON texts of what rows hold."""
    plain = VALUES[order] if order in (Order.NUMBER, Order.BOOLEAN) else [json.dumps(one) for one in VALUES[order]]
    quoted = [json.dumps(one) for one in VALUES[order]] if order is Order.NUMBER else []
    return [*plain, *quoted, *_SPELLED[order], "null"]


class Judged(NamedTuple):
    """A stored value (None: there is none), what it is compared with, and PostgreSQL's answers by operator."""

    order: Order
    document: str
    value: str
    answers: tuple[bool, ...]


async def _judge(url: str, order: Order, count: int) -> list[Judged]:
    dice = random.Random(f"{order}/{count}")
    held, values = stored(order), VALUES[order]
    asked = []
    for _ in range(count):
        there = dice.choice(held)
        document = "{}" if there == "null" and dice.random() < 0.5 else f'{{"f":{there}}}'
        asked.append((document, dice.choice(values)))
    field, value = sql.compared(order, "(d::jsonb->>'f')"), sql.compared(order, "v")
    columns = [f"coalesce({field} {op if op != 'in' else '='} {value}, false)" for op in OPERATORS]
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            f"SELECT {', '.join(columns)} FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(d, v, n) ORDER BY n",
            [one[0] for one in asked],
            [one[1] for one in asked],
        )
    finally:
        await connection.close()
    return [Judged(order, *one, tuple(row)) for one, row in zip(asked, rows, strict=True)]


@pytest.fixture(scope="module", params=[pytest.param(PAIRS), pytest.param(MANY, marks=pytest.mark.long)])
def judged(postgres, request) -> list[Judged]:
    """Pairs of every order with PostgreSQL's answers."""

    async def all_of_them():
        return [pair for order in Order for pair in await _judge(postgres.url, order, request.param)]

    return asyncio.run(all_of_them())


def claims(module, pair: Judged) -> tuple[bool, ...]:
    """What the coordinator says of each operator."""
    document = _decode_exactly(pair.document)
    return tuple(module.may_pass("id", document, [Bound("f", pair.order, op, (pair.value,))]) for op in OPERATORS)


def missed(module, judged):
    """Pairs of which it denies what PostgreSQL says."""
    for pair in judged:
        said = claims(module, pair)
        if any(true and not claimed for true, claimed in zip(pair.answers, said, strict=True)):
            yield pair, said


def test_wherever_a_comparison_holds_the_coordinator_says_so(judged):
    """A no where the database says yes is a phantom that validation misses."""
    assert list(islice(missed(ranges, judged), 5)) == []


def test_it_says_yes_too_often_only_of_what_is_spelled_in_other_ways(judged):
    """What is stored in the form of its type is compared exactly."""
    often = {True: [0, 0], False: [0, 0]}
    for pair in judged:
        odd = any(f":{one}}}" in pair.document for one in _SPELLED[pair.order])
        for true, claimed in zip(pair.answers, claims(ranges, pair), strict=True):
            often[odd][0] += not true
            often[odd][1] += claimed and not true
    for odd, (denied, claimed) in often.items():
        print(f"odd spellings: {odd}: claimed and not so: {claimed:,} of {denied:,} ({claimed / denied:.2%})")
    assert often[False][1] == 0
    assert often[True][1] > 0, "they are among the pairs"


class Pair(NamedTuple):
    """Two rows with values, and whether PostgreSQL has the first before the second, in each direction."""

    order: Order
    first: tuple[str, str]
    second: tuple[str, str]
    ahead: dict[bool, bool]


async def _ordered(url: str, order: Order, count: int) -> list[Pair]:
    dice = random.Random(f"{order}/order/{count}")
    held = [*stored(order), "null", "null"]
    rows = [(f"r{dice.randrange(4)}", f'{{"f":{dice.choice(held)}}}') for _ in range(2 * count)]
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    a, b = (sql.compared(order, f"({name}::jsonb->>'f')") for name in "ac")
    by_id = 'i COLLATE "C" {0} j COLLATE "C"'
    ahead = f"CASE WHEN {a} IS NULL OR {b} IS NULL THEN {{null}} WHEN {a} = {b} THEN {by_id} ELSE {a} {{0}} {b} END"
    up = ahead.format("<", null=f"CASE WHEN {a} IS NULL AND {b} IS NULL THEN {by_id.format('<')} ELSE {a} IS NULL END")
    down = ahead.format(
        ">", null=f"CASE WHEN {a} IS NULL AND {b} IS NULL THEN {by_id.format('>')} ELSE {b} IS NULL END"
    )
    connection = await asyncpg.connect(url)
    try:
        answers = await connection.fetch(
            f"SELECT {up}, {down} FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) "
            "WITH ORDINALITY AS t(i, a, j, c, n) ORDER BY n",
            *([pair[n][m] for pair in pairs] for n, m in ((0, 0), (0, 1), (1, 0), (1, 1))),
        )
    finally:
        await connection.close()
    return [Pair(order, *pair, {False: row[0], True: row[1]}) for pair, row in zip(pairs, answers, strict=True)]


@pytest.fixture(scope="module")
def ordered(postgres) -> list[Pair]:
    """Pairs of rows in every order."""

    async def all_of_them():
        return [pair for order in Order for pair in await _ordered(postgres.url, order, PAIRS)]

    return asyncio.run(all_of_them())


def _text_of(document: str) -> str | None:
    value = msgspec.json.decode(document, type=dict[str, msgspec.Raw])["f"]
    text = bytes(value).decode()
    return None if text == "null" else json.loads(text) if text.startswith('"') else text


def out_of_place(module, ordered):
    """Pairs of which the first is before the second, or is the same, and the coordinator denies it."""
    for pair in ordered:
        position = RowPosition(_text_of(pair.second[1]), pair.second[0])
        document = _decode_exactly(pair.first[1])
        for descending, ahead in pair.ahead.items():
            until = Span("f", pair.order, descending, until=position)
            after = Span("f", pair.order, descending, after=position)
            same = pair.first == pair.second
            if (ahead or same) and not module.may_lie_in(pair.first[0], document, until):
                yield pair, "until", descending
            if not ahead and pair.first[0] != pair.second[0] and not module.may_lie_in(pair.first[0], document, after):
                yield pair, "after", descending


def test_wherever_a_row_stands_in_a_page_the_coordinator_says_so(ordered):
    """With ties, null and absent values, in both directions."""
    assert list(islice(out_of_place(ranges, ordered), 5)) == []


# Ways to say no too often: what is replaced in the module, and by what.
NARROWER = {
    "a range that leaves out its end": ('"<=": le', '"<=": lt'),
    "a range that leaves out its beginning": ('">=": ge', '">=": gt'),
    "numbers as floats of their digits": ("found = Decimal(text)", "found = Decimal(text).to_integral_value()"),
    "naive instants are in another zone": ("replace(tzinfo=UTC)", "replace(tzinfo=timezone(timedelta(hours=1)))"),
    "fractions are cut off": (r're.compile(r"\.[0-9]{7}")', 're.compile("never")'),
    "what is of another type never passes": (
        "return True\n    if value is _NULL",
        "return False\n    if value is _NULL",
    ),
    "texts without case": ("Order.TEXT: str,", "Order.TEXT: str.lower,"),
}
MISPLACED = {
    "null comes last": ("ahead = first[0] is _NULL", "ahead = second[0] is _NULL"),
    "a page forgets its last row": (
        "not _precedes(_position(span.until, span.order), here, span)",
        "_precedes(here, _position(span.until, span.order), span)",
    ),
    "ties are not in order of their ids": ("ahead = first[1] < second[1]", "ahead = first[1] > second[1]"),
}  # fmt: skip


def variant(old, new):
    """The module with one thing replaced in its text."""
    text = (
        Path(ranges.__file__).read_text().replace("import UTC, datetime", "import UTC, timezone, timedelta, datetime")
    )
    assert text.count(old) == 1, old
    module = type(ranges)("variant")
    exec(compile(text.replace(old, new), "variant", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", NARROWER)
def test_a_comparison_that_says_no_too_often_is_caught(judged, name):
    assert len(list(islice(missed(variant(*NARROWER[name]), judged), ENOUGH))) == ENOUGH


@pytest.mark.parametrize("name", MISPLACED)
def test_an_order_that_is_wrong_is_caught(ordered, name):
    assert len(list(islice(out_of_place(variant(*MISPLACED[name]), ordered), ENOUGH))) == ENOUGH


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("text", ["", "x", "NaN", "-Infinity", "1e999999999", "2026-01-31T12:00:00.1234567Z", "24:00"])
def test_it_never_raises(order, text):
    """Nodes replay each other's questions: one that raised would stop them all. What cannot be read may be anything."""
    position = RowPosition(text, "b")
    for document in ({"f": text}, {"f": 1}, {"f": []}, {}):
        for op in OPERATORS:
            ranges.may_pass("a", document, [Bound("f", order, op, (text,))])
        for descending in (False, True):
            ranges.may_lie_in("a", document, Span("f", order, descending, after=position, until=position))
    if not ranges.is_value(order, text):
        assert ranges.may_pass("a", {"f": text}, [Bound("f", order, "<", (text,))])
        assert ranges.may_lie_in("a", {"f": text}, Span("f", order, until=position))
