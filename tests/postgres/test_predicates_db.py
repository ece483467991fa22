"""The coordinator's reading of ``@>`` against PostgreSQL's own, over generated pairs."""

from __future__ import annotations

import json
import random

import asyncpg
import msgspec

from kontract.core.predicates import may_contain

PAIRS = 40_000
KEYS = ["a", "b", "c", "", "ä", "A"]
STRINGS = ["", "1", "true", "null", "x", "X", "ä", "a\u0308", "😀", '"', "\\"]
# Different texts of equal and of nearly equal numbers.
NUMBERS = [
    ["0", "0.0", "-0", "-0.0", "0e5", "0E-3"],
    ["1", "1.0", "1e0", "10e-1", "1.000", "0.1e1"],
    ["-1", "-1.0", "-1e0"],
    ["2", "20e-1"],
    ["100", "1e2", "1E+2", "100.00"],
    ["0.1", "1e-1", "0.10"],
    ["0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827e0"],
    ["9007199254740992", "9007199254740992.0", "9.007199254740992e15"],
    ["9007199254740993", "9007199254740993.0"],
    ["9223372036854775807"],
    ["9223372036854775808", "9.223372036854775808e18"],
    ["18446744073709551616", "18446744073709551616.0"],
    ["1208925819614629174706176"],
    ["1208925819614629174706177"],
    ["1e300", "1" + "0" * 300],
    ["5e-324", "4.9e-324"],
]


class Raw(str):
    """A number as text: Python's json would rewrite it."""

    __slots__ = ()


def text(value) -> str:
    match value:
        case Raw():
            return str(value)
        case dict():
            return "{" + ",".join(f"{json.dumps(k)}:{text(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ",".join(map(text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def scalar(dice: random.Random):
    kind = dice.random()
    if kind < 0.5:
        return Raw(dice.choice(dice.choice(NUMBERS)))
    return dice.choice([True, False, None]) if kind < 0.75 else dice.choice(STRINGS)


def value(dice: random.Random, depth: int):
    kind = dice.random()
    if depth == 0 or kind < 0.4:
        return scalar(dice)
    if kind < 0.7:
        return [value(dice, depth - 1) for _ in range(dice.choice([0, 1, 2, 3]))]
    return document(dice, depth - 1)


def document(dice: random.Random, depth: int) -> dict:
    return {key: value(dice, depth) for key in dice.sample(KEYS, dice.choice([0, 1, 2, 3]))}


def part(dice: random.Random, whole):
    """Something that ``whole`` contains, written otherwise; or, now and then, something close to it."""
    if dice.random() < 0.03:
        return value(dice, 1)
    match whole:
        case dict():
            return {key: part(dice, item) for key, item in whole.items() if dice.random() < 0.7}
        case list():
            chosen = [part(dice, item) for item in whole if dice.random() < 0.8]
            chosen += dice.choices(chosen, k=dice.choice([0, 0, 1])) if chosen else []
            dice.shuffle(chosen)
            if len(chosen) == 1 and dice.random() < 0.2:
                return chosen[0]  # the scalar in place of its array: contained at the top level only
            return chosen
        case Raw():
            return Raw(dice.choice(next(same for same in NUMBERS if whole in same)))
        case bool():
            return dice.choice([whole] * 9 + [Raw("1" if whole else "0")])
    return dice.choice([whole] * 9 + [[whole]])


def pairs(seed: int) -> list[tuple[str, str]]:
    dice = random.Random(seed)
    found = []
    for _ in range(PAIRS):
        row = document(dice, 3)
        wanted = part(dice, row) if dice.random() < 0.85 else document(dice, 2)
        shape = text(row)
        if row and dice.random() < 0.05:  # a repeated key: the last one counts
            first = next(iter(row))
            shape = "{" + f"{json.dumps(first)}:{text(scalar(dice))}," + shape[1:]
        found.append((shape, text(wanted if isinstance(wanted, dict) else {})))
    return found


async def test_wherever_postgresql_says_yes_the_coordinator_does(postgres):
    """A no where the database says yes is a phantom that validation misses: serializability would be gone."""
    generated = pairs(20_260)
    connection = await asyncpg.connect(postgres.url)
    try:
        rows = await connection.fetch(
            "SELECT d::jsonb @> w::jsonb FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(d, w, n) ORDER BY n",
            [d for d, _ in generated],
            [w for _, w in generated],
        )
    finally:
        await connection.close()
    contained = [row[0] for row in rows]
    claimed = [may_contain(msgspec.json.decode(d), msgspec.json.decode(w)) for d, w in generated]
    missed = [pair for pair, yes, said in zip(generated, contained, claimed, strict=True) if yes and not said]
    assert missed == []

    # The test is worth something only if both answers are common, and the matcher only if it says no, too.
    yes = sum(contained)
    nontrivial = sum(is_in and w != "{}" for (_, w), is_in in zip(generated, contained, strict=True))
    assert nontrivial > PAIRS * 0.2
    assert PAIRS - yes > PAIRS * 0.2
    too_often = sum(said and not is_in for said, is_in in zip(claimed, contained, strict=True))
    assert 0 < too_often < PAIRS * 0.05
