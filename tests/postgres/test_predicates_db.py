"""The coordinator's reading of ``@>`` against PostgreSQL's own, over generated pairs."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import pytest

from kontract.core.protocol import predicates
from support.containment import Kind, Pair, pairs

PAIRS = 100_000
BATCH = 10_000
SEED = 20_260
ENOUGH = 20


class Judged(NamedTuple):
    """A pair, decoded as the coordinator decodes it, with PostgreSQL's answer."""

    pair: Pair
    document: object
    wanted: object
    contained: bool


async def _ask(url, generated):
    connection = await asyncpg.connect(url)
    try:
        answers = []
        for start in range(0, len(generated), BATCH):
            batch = generated[start : start + BATCH]
            rows = await connection.fetch(
                "SELECT d::jsonb @> w::jsonb FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(d, w, n) "
                "ORDER BY n",
                [pair.document for pair in batch],
                [pair.wanted for pair in batch],
            )
            answers += [row[0] for row in rows]
        return answers
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def judged(postgres) -> list[Judged]:
    """All pairs with PostgreSQL's answers."""
    generated = pairs(SEED, PAIRS)
    answers = asyncio.run(_ask(postgres.url, generated))
    decode = msgspec.json.Decoder().decode
    return [
        Judged(pair, decode(pair.document), decode(pair.wanted), contained)
        for pair, contained in zip(generated, answers, strict=True)
    ]


def missed(may_contain, judged):
    """The pairs that the matcher denies and PostgreSQL contains."""
    return (row.pair for row in judged if row.contained and not may_contain(row.document, row.wanted))


def too_often(may_contain, judged):
    """The pairs that the matcher claims and PostgreSQL does not contain."""
    return (row.pair for row in judged if not row.contained and may_contain(row.document, row.wanted))


def test_wherever_postgresql_says_yes_the_coordinator_does(judged):
    """A no where the database says yes is a phantom that validation misses: serializability would be gone."""
    assert list(islice(missed(predicates.may_contain, judged), 5)) == []


def test_it_seldom_says_yes_where_postgresql_says_no(judged):
    """A matcher that says yes to everything would be safe, and make everybody conflict with everybody."""
    claimed = sum(1 for _ in too_often(predicates.may_contain, judged))
    denied = sum(not row.contained for row in judged)
    print(f"claimed and not contained: {claimed:,} of {denied:,} ({claimed / denied:.2%})")
    assert claimed < 0.05 * denied
    # None would mean that the pairs which are hard to tell apart are not among them.
    assert claimed


def test_the_pairs_are_close_calls(judged):
    """Most pairs at random have nothing in common, and would tell a good matcher from a bad one by luck."""
    contained = sum(row.contained and row.pair.wanted not in ("{}", "[]") for row in judged)
    near_misses = sum(row.pair.kind is Kind.NEAR and not row.contained for row in judged)
    print(f"{contained:,} contained, {near_misses:,} near misses, of {len(judged):,}")
    assert contained > 0.3 * PAIRS
    assert near_misses > 0.3 * PAIRS
    assert len({row.pair[1:] for row in judged}) == PAIRS
    # A part of a document is in it: otherwise the generator does not know what @> means.
    assert [row.pair for row in judged if row.pair.kind is Kind.PART and not row.contained][:5] == []


# Ways to say no too often: what is replaced in the module, and by what.
NARROWER = {
    "each repetition needs an element of its own": (
        "isinstance(document, list) and _may_contain_items(",
        "isinstance(document, list) and len(wanted) <= len(document) and _may_contain_items(",
    ),
    "elements of arrays have to be equal": (
        "any(may_contain(element, value) for element in containers)",
        "any(element == value and type(element) is type(value) for element in containers)",
    ),
    "elements of arrays keep their order": (
        "and _may_contain_items(document, wanted)",
        "and all(may_contain(element, value) for element, value in zip(document, wanted))",
    ),
    "an array does not contain its scalars": (
        "return _scalar(wanted) in map(_scalar, document)",
        "return False",
    ),
    "an empty object is in empty ones only": (
        "return isinstance(document, dict) and all(",
        "return isinstance(document, dict) and bool(wanted or not document) and all(",
    ),
    "1 is not 1.0": (
        'return "number", _as_float(value)',
        "return type(value).__name__, _as_float(value)",
    ),
    "big numbers are compared exactly after they were rounded": (
        'return "number", _as_float(value)',
        'return "number", value',
    ),
    "null equals nothing": (
        "return type(value).__name__, value",
        "return type(value).__name__, object() if value is None else value",
    ),
}
WIDER = {
    "true is 1": (" and not isinstance(value, bool)", ""),
    "every array contains every other": (
        " and _may_contain_items(document, wanted)",
        "",
    ),
    "values of keys do not matter": ("may_contain(document[key], value)", "True"),
    "a missing key is null": (
        "key in document and may_contain(document[key], value)",
        "may_contain(document.get(key), value)",
    ),
}


def variant(old, new):
    """The matcher with one thing replaced in its text."""
    text = Path(predicates.__file__).read_text()
    assert text.count(old) == 1
    module = {"__name__": "variant"}
    exec(compile(text.replace(old, new), "variant", "exec"), module)
    return module["may_contain"]


@pytest.mark.parametrize("name", NARROWER)
def test_a_matcher_that_says_no_too_often_is_caught(judged, name):
    """These pairs show it many times over, not by a lucky one."""
    assert len(list(islice(missed(variant(*NARROWER[name]), judged), ENOUGH))) == ENOUGH


@pytest.mark.parametrize("name", WIDER)
def test_a_matcher_that_says_yes_more_often_is_seen(judged, name):
    """It raises the rate above, because the pairs that it gets wrong are among these."""
    new = (row for row in judged if not predicates.may_contain(row.document, row.wanted))
    assert len(list(islice(too_often(variant(*WIDER[name]), new), ENOUGH))) == ENOUGH
