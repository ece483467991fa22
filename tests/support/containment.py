r"""Generated pairs of a document and a filter, for the question ``document @> filter``. Most are close calls.

Of each document a part is taken that it contains, and written otherwise: keys and elements left out, elements repeated
and shuffled, numbers and strings spelled in another way (``1``, ``1.0``, ``10e-1``; ``ä``, ``\u00e4``). Half of these
parts are then changed in one place into something that looks alike: ``true`` for ``1``, ``{}`` for ``[]``, two elements
merged into one, a scalar for the array around it. Values come from a few at a time, so that they meet again.
"""

from __future__ import annotations

import json
import random
import unicodedata
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

KEYS = ["a", "b", "A", "", "ä", "a\u0308", "0", "null", "a b", '"', "\\", "😀"]
STRINGS = [
    "", "x", "X", "x ", "1", "1.0", "0", "-0", "true", "false", "null", "[]", "{}", "ä", "a\u0308", "Ä", "ß", "ss",
    "😀", "\ufffd", "\u2028", "\x7f", "\x01", '"', "\\", "\\u0061", "/", "a", "\n", "ﬁ", "fi",
]  # fmt: skip

# Each line: spellings of one number. Neighbouring lines are easily taken for each other.
NUMBERS = [
    ["0", "0.0", "-0", "-0.0", "0e5", "0E-3", "0.000"],
    ["1e-400", "10e-401"],
    ["5e-324", "0.5e-323"],
    ["4.9e-324", "49e-325"],
    ["1", "1.0", "1e0", "10e-1", "1.000", "0.1e1", "1E+0"],
    ["1.0000000000000000001", "1.00000000000000000010"],
    ["1.0000000000000002", "1.00000000000000020e0"],
    ["-1", "-1.0", "-1e0", "-10E-1"],
    ["2", "20e-1", "2.00"],
    ["10", "1e1", "10.0"],
    ["100", "1e2", "1E+2", "100.00"],
    ["0.1", "1e-1", "0.10"],
    ["0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827e0"],
    ["0.30000000000000004", "3.0000000000000004e-1"],
    ["0.3", "3e-1", "0.30"],
    ["9007199254740992", "9007199254740992.0", "9.007199254740992e15"],
    ["9007199254740993", "9007199254740993.0", "9.007199254740993e15"],
    ["9223372036854775807", "9223372036854775807.0"],
    ["9223372036854775808", "9.223372036854775808e18"],
    ["-9223372036854775808", "-9223372036854775808.00"],
    ["-9223372036854775809", "-9.223372036854775809E18"],
    ["18446744073709551615", "1.8446744073709551615e19"],
    ["18446744073709551616", "18446744073709551616.0"],
    ["1208925819614629174706176", "1208925819614629174706176.0"],
    ["1208925819614629174706177", "1.208925819614629174706177e24"],
    ["123456789012345678901234567890", "1.2345678901234567890123456789e29"],
    ["1e300", "1" + "0" * 300, "10E299"],
    ["1" + "0" * 299 + "1"],
    ["1.7976931348623157e308", "17976931348623157" + "0" * 292],
]


class Kind(Enum):
    """How a filter was made."""

    PART = "a part of the document, written otherwise"
    NEAR = "such a part, changed in one place"
    FAR = "made without looking at the document"


class Pair(NamedTuple):
    """Two texts of JSON."""

    kind: Kind
    document: str
    wanted: str


class Number(str):
    """A number as it is spelled: Python's json would rewrite it."""

    __slots__ = ()


_KINDS = list(Kind)
_LINE_OF = {spelling: line for line, spellings in enumerate(NUMBERS) for spelling in spellings}


def pairs(seed: int, count: int) -> list[Pair]:
    """Return ``count`` different pairs, the same for the same seed."""
    dice = random.Random(seed)
    found: dict[tuple[str, str], Pair] = {}
    while len(found) < count:
        pair = _pair(dice)
        found.setdefault((pair.document, pair.wanted), pair)
    return list(found.values())


def _pair(dice: random.Random) -> Pair:
    few = [_scalar(dice), _scalar(dice)]
    few += [_lookalike(dice, few[0]), _scalar(dice)]
    kind = dice.choices(_KINDS, cum_weights=[0.4, 0.9, 1.0])[0]
    # Rows and filters are objects. What @> says of arrays and scalars at the top is asked as well, now and then.
    top = _object if dice.random() < 0.9 else _value
    document = top(dice, few, dice.choice([1, 2, 2, 3]))
    if kind is Kind.FAR:
        wanted = top(dice, few, 2)
    else:
        wanted = _part(dice, document)
        if isinstance(wanted, list) and wanted and not isinstance(wanted[0], (list, dict)) and dice.random() < 0.5:
            wanted = wanted[0]  # at the top, and there only, an array contains its scalars
        if kind is Kind.NEAR:
            wanted = _changed(dice, wanted)
    return Pair(kind, _text(dice, document), _text(dice, wanted))


def _scalar(dice: random.Random) -> Any:
    kind = dice.random()
    if kind < 0.4:
        return Number(dice.choice(dice.choice(NUMBERS)))
    return dice.choice([True, False, None]) if kind < 0.6 else dice.choice(STRINGS)


def _value(dice: random.Random, few: list[Any], depth: int) -> Any:
    kind = dice.random()
    if depth == 0 or kind < 0.35:
        return dice.choice(few)
    if kind < 0.7:
        return [_value(dice, few, depth - 1) for _ in range(dice.choice([0, 1, 1, 2, 2, 3]))]
    return _object(dice, few, depth - 1)


def _object(dice: random.Random, few: list[Any], depth: int) -> dict[str, Any]:
    keys = KEYS[:3] if dice.random() < 0.7 else KEYS
    return {key: _value(dice, few, depth) for key in dice.sample(keys, dice.choice([0, 1, 1, 2, 2, 2, 3]))}


def _part(dice: random.Random, whole: Any) -> Any:
    """Return something that ``whole`` contains."""
    match whole:
        case dict():
            return {key: _part(dice, item) for key, item in whole.items() if dice.random() < 0.8}
        case list():
            chosen = [_part(dice, item) for item in whole if dice.random() < 0.8]
            # Repeated, also with another part of the same element: [{"a": 1}, {"b": 2}] is in [{"a": 1, "b": 2}].
            chosen += [_part(dice, dice.choice(whole)) for _ in range(dice.choice([0, 0, 1, 2]))] if whole else []
            dice.shuffle(chosen)
            return chosen
        case Number():
            return Number(dice.choice(NUMBERS[_LINE_OF[whole]]))
    return whole


def _changed(dice: random.Random, whole: Any) -> Any:
    """Return ``whole`` with one of its parts, at any depth, replaced by a lookalike."""
    holder: list[Any] = [whole]
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for inside, key in places:  # grows while it is walked
        match inside[key]:
            case dict() as found:
                places += [(found, name) for name in found]
            case list() as found:
                places += [(found, position) for position in range(len(found))]
    inside, key = dice.choice(places)
    inside[key] = _lookalike(dice, inside[key])
    return holder[0]


def _lookalike(dice: random.Random, value: Any) -> Any:
    kind = dice.random()
    if kind < 0.1:
        return [value]
    if kind < 0.15:
        return {dice.choice(KEYS): value}
    if kind < 0.2:
        return dice.choice([None, [], {}, False, Number("0"), ""])
    match value:
        case dict():
            return _like_object(dice, value)
        case list():
            return _like_array(dice, value)
        case Number():
            line = _LINE_OF[value]
            near = [NUMBERS[(line + step) % len(NUMBERS)][0] for step in (-1, 1)]
            return dice.choice([Number(near[0]), Number(near[1]), str(value), value not in NUMBERS[0], [value, value]])
        case bool():
            return dice.choice([Number("1" if value else "0"), not value, json.dumps(value), None])
        case None:
            return dice.choice([False, Number("0"), "", "null", {}, []])
    return _like_string(dice, value)


def _like_object(dice: random.Random, value: dict[str, Any]) -> Any:
    if not value:
        return dice.choice([[], None, {"": None}, [{}]])
    key = dice.choice(list(value))
    match dice.randrange(5):
        case 0:
            return list(value.values())
        case 1:
            return {(dice.choice(KEYS) if name == key else name): item for name, item in value.items()}
        case 2:
            return {**value, dice.choice(KEYS): value[key]}
        case 3:
            return {**value, dice.choice(KEYS): None}
    return value[key]


def _like_array(dice: random.Random, value: list[Any]) -> Any:
    if not value:
        return dice.choice([{}, None, [None], [[]], [{}]])
    match dice.randrange(5):
        case 0:
            return dice.choice(value)
        case 1:
            return [*value, _lookalike(dice, dice.choice(value))]
        case 2:
            return {str(position): item for position, item in enumerate(value)}
        case 3:
            return [item for found in value for item in (found if isinstance(found, list) else [found])]
    # Two elements in one: what is in both of [{"a": 1}, {"b": 2}] is not in [{"a": 1, "b": 2}], nor the other way.
    objects = [item for item in value if isinstance(item, dict)]
    arrays = [item for item in value if isinstance(item, list)]
    if len(objects) > 1:
        return [{key: item for found in objects for key, item in found.items()}]
    return [[item for found in arrays for item in found]] if len(arrays) > 1 else [value]


def _like_string(dice: random.Random, value: str) -> Any:
    other = dice.choice([
        value.swapcase(), unicodedata.normalize("NFC", value), unicodedata.normalize("NFD", value),
        unicodedata.normalize("NFKC", value), value + " ", value[:-1], json.dumps(value)[1:-1],
    ])  # fmt: skip
    read = {"true": True, "false": False, "null": None, "[]": [], "{}": {}}
    if value in read:
        return dice.choice([other, read[value]])
    return dice.choice([other, Number(value)]) if value in _LINE_OF else other


def _text(dice: random.Random, value: Any) -> str:
    match value:
        case Number():
            return str(value)
        case str():
            return _spelled(dice, value)
        case dict():
            members = [f"{_spelled(dice, key)}:{_text(dice, item)}" for key, item in value.items()]
            if members and dice.random() < 0.03:  # a repeated key: the last one counts
                members.insert(0, f"{_spelled(dice, next(iter(value)))}:{dice.choice(['1', 'null', '{}', '[]'])}")
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join([_text(dice, item) for item in value]) + "]"
    return json.dumps(value)


def _spelled(dice: random.Random, text: str) -> str:
    kind = dice.random()
    if kind < 0.7:
        return _plain(text)
    return json.dumps(text) if kind < 0.9 else _escaped(text)


@cache
def _plain(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@cache
def _escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[n]:02x}{units[n + 1]:02X}" for n in range(0, len(units), 2)) + '"'
