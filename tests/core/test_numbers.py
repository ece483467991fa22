"""Many numbers do not keep a process from answering others: compiled code looks at them, Python at what is unusual.

Counted in steps of Python, for as many numbers as JSON from outside may have.
"""

from __future__ import annotations

import json
import random
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from core.steps import steps
from kontract import primkey
from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.core.model import typed, values
from kontract.core.model.kinds import kind_of
from kontract.core.model.rows import RowType
from kontract.core.model.signatures import Signature
from kontract.core.model.values import Number, hook
from kontract.core.protocol.predicates import may_contain
from kontract.core.types import Version
from kontract.gateway.results import Result

FEW, MANY = 300, 6_000
MORE = 400
"""Steps that may come on top for 20 times as many numbers: a few for each, none of them for every one of them."""


class Ctx:
    pass


def function(hint):
    async def made(a, b=None): ...

    made.__annotations__ = {"a": hint, "b": Any, "return": hint}
    return made


def row_type(hint):
    return RowType("t", msgspec.defstruct("Row", [("id", Annotated[str, primkey]), ("v", hint)]))


def texts(kind, count):
    """As many different numbers of a kind, as they stand in JSON."""
    dice = random.Random(7)
    digits = "123456789"
    made = {
        "small": lambda: str(dice.randrange(-(10**6), 10**6)),
        "float": lambda: repr(dice.random() * 10 ** dice.randrange(-9, 9)),
        "half": lambda: f"{dice.randrange(10**6)}.5",
        "17 digits": lambda: f"{dice.random():.17f}",
        "19 digits": lambda: str(dice.randrange(10**18, 10**19)),
        "55 digits": lambda: "1." + "".join(dice.choices(digits, k=54)),
    }[kind]
    if kind == "17 digits":  # which a float holds, but not as Python writes it
        numbers = (made() for _ in range(20 * count))
        return list(islice((text for text in numbers if values.is_held(float(text), text)), count))
    return [made() for _ in range(count)]


CASES = [
    (Any, "small"), (Any, "float"), (Any, "17 digits"), (Any, "19 digits"),
    (list[int], "small"), (list[int], "19 digits"), (list[float], "small"), (list[float], "float"),
    (list[float], "half"), (list[float], "17 digits"), (list[int | float], "19 digits"), (list[Decimal], "small"),
    (list[Decimal], "float"), (list[Decimal], "55 digits"), (dict[str, float], "17 digits"), (dict[str, Any], "float"),
]  # fmt: skip


def texts_of(hint, kind, count):
    numbers = texts(kind, count)
    if "dict" in str(hint):
        return "{" + ",".join(f'"k{at}":{number}' for at, number in enumerate(numbers)) + "}"
    return "[" + ",".join(numbers) + "]"


@pytest.mark.parametrize(("hint", "kind"), CASES, ids=repr)
def test_arguments_and_results(hint, kind):
    """Every number that may come in and go out again, with all its digits."""
    signature, result = Signature(function(hint), "f", Ctx), Result(function(hint), "f")
    counted = []
    for count in (FEW, MANY):
        text = texts_of(hint, kind, count)
        body = f"[{text}]".encode()
        bound = signature.read(body).take(None)["a"]
        sent = json.loads(result.response(bound).body, parse_float=Decimal)["result"]
        exact = json.loads(text, parse_float=float if "float" in str(hint) or hint is Any else Decimal)
        assert (sent if "Decimal" not in str(hint) else list(map(Decimal, sent))) == _floats(exact, sent)
        counted.append((steps(signature.read, body), steps(result.response, bound)))
    (few_in, few_out), (many_in, many_out) = counted
    assert (many_in < few_in + MORE, many_out < few_out + MORE) == (True, True)


def _floats(exact, sent):
    """What was sent, as floats where it came back as one."""
    if isinstance(exact, dict):
        return {key: Decimal(repr(one)) if isinstance(one, float) else one for key, one in exact.items()}
    return [Decimal(repr(one)) if isinstance(one, float) else one for one in exact]


# Decimals are spelled one by one: a few steps for each, as before.
STORED = [(hint, kind) for hint, kind in CASES if "Decimal" not in str(hint)]


@pytest.mark.parametrize(("hint", "kind"), STORED, ids=repr)
def test_rows(hint, kind):
    """Written, changed, read, and shown in an event."""
    rows = row_type(hint)
    counted = []
    for count in (FEW, MANY):
        value = values.decode(texts_of(hint, kind, count))
        stored = Version("a", rows.encode({"v": value}, "a"), 1, "o")
        assert rows.decode(stored).v == value
        before = '{"v":{}}' if "dict" in str(hint) else '{"v":[]}'
        work = [
            (rows.encode, {"v": value}, "a"), (rows.merge, before, {"v": value}, "a"),
            (rows.decode, stored), (rows.shown, stored),
        ]  # fmt: skip
        counted.append([steps(*one) for one in work])
    assert [many < few + MORE for few, many in zip(*counted, strict=True)] == [True] * 4


@pytest.mark.parametrize("kind", ["small", "float", "17 digits", "19 digits"])
def test_rows_without_a_struct(kind):
    """The same for what nobody declared."""
    rows, counted = RowType("t"), []
    for count in (FEW, MANY):
        value = {"v": values.decode(texts_of(Any, kind, count))}
        stored = Version("a", rows.encode(dict(value), "a"), 1, "o")
        assert rows.decode(stored) == {"id": "a", **value}
        work = [(rows.encode, dict(value), "a"), (rows.merge, "{}", value, "a"), (rows.decode, stored)]
        counted.append([steps(*one) for one in work])
    assert [many < few + MORE for few, many in zip(*counted, strict=True)] == [True] * 3


def test_spelled_numbers_cost_little():
    """A Decimal has one spelling, which Python code writes: a dozen lines for each at the most."""
    rows = row_type(list[Decimal])
    few, many = (steps(rows.encode, {"v": list(map(Decimal, texts("55 digits", count)))}, "a") for count in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < 25


def test_one_unusual_number_costs_no_step_for_the_others():
    """Whatever its neighbours are: they are told apart in compiled code."""
    signature = Signature(function(list[float]), "f", Ctx)
    odd = "1.2345678901234567890123"
    counted = []
    for count in (FEW, MANY):
        body = f"[[{','.join(texts('17 digits', count))}],[{odd}]]".encode()
        assert msgspec.json.encode(signature.read(body).take(None)["b"], enc_hook=hook) == f"[{odd}]".encode()
        counted.append(steps(signature.read, body))
    assert counted[1] < counted[0] + MORE


def test_a_number_that_a_float_does_not_hold_is_found_among_many():
    """At every place, with the place in the message; what other types take beside it does not hide it."""

    async def f(a: list[Decimal], b: dict[str, list[float]]): ...

    signature = Signature(f, "f", Ctx)
    long = texts("55 digits", MANY // 2)
    for at in (0, 1, FEW, FEW * 2 - 1):
        numbers = texts("17 digits", FEW * 2)
        for odd in ("9007199254740993", "90071992547409.93", "1e-400", "-0.10000000000000000000001"):
            numbers[at] = odd
            body = f'[[{",".join(long)}],{{"x":[],"y":[{",".join(numbers)}]}}]'.encode()
            with pytest.raises(InvalidRequestError, match=rf"argument b\.y\[{at}\]: a float cannot hold all digits"):
                signature.read(body).take(None)


def test_numbers_of_no_type_that_a_float_does_not_hold_have_a_bound():
    """Each is a value of its own kind, which Python code looks at: in an argument and wherever it is stored."""
    signature = Signature(function(Any), "f", Ctx)
    most = texts("55 digits", limits.JSON_UNUSUAL_NUMBERS)
    bound = signature.read(f"[[{','.join(most)}]]".encode()).take(None)["a"]
    assert [one.text for one in bound if type(one) is Number] == most
    with pytest.raises(InvalidRequestError, match="f: more than 1000 numbers have more digits than a float holds"):
        signature.read(f"[[{','.join([*most, most[0]])}]]".encode()).take(None)
    of_decimals = Signature(function(list[Decimal]), "f", Ctx)
    assert len(of_decimals.read(f"[[{','.join(most * 4)}]]".encode()).take(None)["a"]) == 4 * len(most)


def test_unheld_says_what_is_held_says():
    """The one looks at all numbers of a text, the other at one."""
    dice = random.Random(11)
    words = ["0", "-0.0", "1e400", "1e-400", "0e999", "5e-324", "1E22", "1e23", "9007199254740993", "0.1", "1.50"]
    words += ["100000000000000000000000.0", "9007199254740993.0", "123456789012345678901234567890"]
    words += ["0.1000000000000000055511151231257827", "4.9406564584124654e-324", "1.7976931348623157e308"]
    made = [(dice.random() * 10.0 ** dice.randrange(-320, 300), dice.randrange(30)) for _ in range(2_000)]
    words += [f"{value:.{places}{form}}" for value, places in made for form in "eg"]
    for size in (1, 7, 5_000):
        some = dice.choices(words, k=size)
        joints = f"{{:[{','.join(some)}],:true}}".encode()
        assert set(values.unheld(joints, integers=True)) == {one for one in some if not values.is_held(float(one), one)}
        assert set(values.unheld(joints)) == {
            one for one in some if not values.is_held(float(one), one) and not one.lstrip("-").isdigit()
        }


def test_a_long_text_of_digits_takes_no_longer_than_it_is_long():
    """A pattern that begins again at each digit of an integer takes 40 times as long for this."""
    for text in (b"[" + b",".join([b"7" * 400] * 2_500) + b",1.5]", b"7" * 1_000_000 + b".5"):
        found = []
        for pattern in (values._FLOAT, values._LONG_NUMBER):
            scanner = pattern.scanner(text)
            while (one := scanner.search()) is not None:
                found.append(one.end() - one.start())
        assert len(found) <= 2_502


class InPlace(NamedTuple):
    a: int
    b: float
    c: float = 0


class Tagged(msgspec.Struct, array_like=True, tag=True):
    a: int
    b: float


@pytest.mark.parametrize(
    ("hint", "value", "place"),
    [
        (list[float], [0.5] * 20 + [2**53 + 1], "v[20]"),
        (list[float | None], [None, -(2**53) - 1], "v[1]"),
        (dict[str, float], {"a": 1, "b": 2**63 + 1}, "v.b"),
        (list[list[float]], [[0.5]] * 9 + [[1, Number("0.10000000000000000000001")]], "v[9][1]"),
        (list[tuple[int, float]], [[2**60 + 1, 2**60 + 1]], "v[0][1]"),
        (list[tuple[int, float]], [[2**60 + 1, 2**60]], None),
        (InPlace, [2**60 + 1, 0.5, 2**60 + 1], "v[2]"),
        (Tagged, ["Tagged", 2**60 + 1, 2**60 + 1], "v[2]"),
        (list[int | float], [2**60, Number("0.10000000000000000000001")], "v[1]"),
        (list[int | float], [2**60] * 20, None),
        (list[float], [2**53, -(2**53), 0.5, True, None, "x"], None),
        (list[Decimal], [2**60, Number("0.10000000000000000000001")], None),
        (float, 2**60 + 1, "v"),
    ],
)  # fmt: skip
def test_where_a_number_would_be_rounded(hint, value, place):
    """What is passed over in compiled code is what a float holds."""
    assert typed.rounded(kind_of(hint), value, "v") == place


def test_a_filter_has_a_bound():
    """PostgreSQL and the coordinator compare each of its values with what rows hold."""
    rows = row_type(list[int])
    assert rows.filter({"v": list(range(limits.FILTER_VALUES - 2))}).contains is not None
    for table, wanted in ((rows, {"v": [0] * 101}), (RowType("t"), {f"k{at}": {"a": [1]} for at in range(34)})):
        with pytest.raises(InvalidRequestError, match="the filter of table 't' has more than 100 values"):
            table.filter(wanted)


def test_matching_a_filter_is_not_done_for_each_pair():
    """As many values as may be asked for, of a row with as many as may come: a coordinator is one process for many."""
    row = {"v": list(range(MANY))}
    wanted = {"v": list(range(MANY - limits.FILTER_VALUES, MANY))}
    assert may_contain(row, wanted)
    assert not may_contain(row, {"v": [*wanted["v"], MANY]})
    assert steps(may_contain, row, wanted) < 12 * MANY
