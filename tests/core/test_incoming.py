"""JSON from outside: what is too much, and what means two things, before it is decoded."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from core.steps import steps
from kontract.core import incoming, limits
from kontract.core.errors import InvalidRequestError

decode = msgspec.json.Decoder().decode


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        (b"[]" * 33 + b'"' + b'\\"' * 500_000, False),  # a string that does not end: hours, if each quote begins one
        (b"[]" * 33 + b'"' + b"\\" * 999_999, False),
        (b'["' + b"[" * 100 + b'"]', False),
        (b'["\\"' + b"[" * 100 + b'"]', False),
        (b'["\\\\"' + b"[" * 100 + b"]", True),
        (b"[" * 33, True),
        (b'{"a":' * 33, True),
        (b"[{}]" * 100, False),
    ],
)
def test_depth_of_text(text, deep):
    """Counted outside of strings, before anything is decoded, in time that grows with the text and not its square."""
    if deep:
        with pytest.raises(InvalidRequestError, match="nested deeper than 32 levels"):
            incoming.check_depth(text, "the body")
    else:
        incoming.check_depth(text, "the body")


def fill(unit: bytes, values: int) -> bytes:
    """An array of an array of so many values; `unit` has some of them and a comma."""
    per_unit = unit.count(b",") + unit.count(b"[") + unit.count(b"{")
    return b"[[" + unit * ((values - 3) // per_unit) + b"0]]"


UNITS = [b"0,", b'"",', b"[],", b"{},", b'{"a":0},', b'{"a":[]},', b"[" * 28 + b"1" + b"]" * 28 + b",", b'"\\n\\"",']


@pytest.mark.parametrize("unit", UNITS)
def test_the_number_of_values(unit):
    """Those in arrays and objects count, and these themselves; what is written in strings does not."""
    few, many = (fill(unit, count) for count in (limits.JSON_VALUES, limits.JSON_VALUES + 40))
    assert incoming.decode(few, decode) == json.loads(few)
    with pytest.raises(InvalidRequestError, match=f"the body has more than {limits.JSON_VALUES} values"):
        incoming.check(many, "the body")
    incoming.check(json.dumps(many.decode()).encode())


def test_text_of_a_mebibyte_is_one_value():
    """Prose with commas, a table as CSV, text full of quotes, brackets or line ends: they are strings, however long."""
    for text in (", and", "1,2,3\n", '"', "[{", "\\", "\\n", "ä,"):
        body = json.dumps([text * (1_000_000 // len(json.dumps(text)))]).encode()
        assert incoming.decode(body, decode) == json.loads(body)


@pytest.mark.parametrize("unit", [*UNITS, b'"x",', b"0.1,", b'{"a":0,"b":[{}]},', b'{"a":0,"a":1},'])
def test_nothing_is_done_in_python_for_each_value(unit):
    """Compiled code alone looks at each: a thousand times as many values take no more steps of Python."""
    few, most, many = (fill(unit, count) for count in (300, limits.JSON_VALUES, 1_000_000))
    assert [count for body in (few, most, many) if (count := steps(incoming.decode, body, decode)) > 150] == []


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'[{"x":{"a":1,"b":2,"a":1}}]',
        b'{"a":1,"\\u0061":2}',
        b'{"\\"":1,"\\u0022":1}',
        b'[{"a":0},{"":0,"":0}]',
        '{"ä":1,"\\u00e4":1}'.encode(),
    ],
)
def test_a_name_twice_in_an_object(text):
    """Parsers differ in which one they take; however it is spelt."""
    with pytest.raises(InvalidRequestError, match=r"the request body has an object with the duplicate name"):
        incoming.decode(text, decode)


@pytest.mark.parametrize(
    "text",
    [b'[{"a":1},{"a":2}]', b'{"a":{"a":{"a":1}}}', b'{"a":1,"A":2}', b'["a:b:c", "a:b:c"]', b'{"a\\\\":1,"a":2}'],
)
def test_names_that_are_different_or_of_different_objects(text):
    """Are no repetition."""
    assert incoming.decode(text, decode) == json.loads(text)


@pytest.mark.parametrize("text", [b'"\\u0000"', b'["a\\\\\\u0000b"]', b'{"\\u0000":1}'])
def test_a_nul_is_refused(text):
    """PostgreSQL cannot store it, and would say so in the middle of a commit."""
    with pytest.raises(InvalidRequestError, match="NUL"):
        incoming.check_text(text)


@pytest.mark.parametrize("text", [b'"\\\\u0000"', b'"u0000"', b'"\\\\\\\\u0000"'])
def test_a_backslash_before_letters_is_no_nul(text):
    """It stands for itself when it is escaped."""
    incoming.check_text(text)
    assert "\x00" not in json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[",
        b"\xff",
        b'"\xff"',
        b"\xef\xbb\xbf[]",
        "[]".encode("utf-16"),
        b'"\\ud800"',
        b"NaN",
        b"1 2",
        b'{"a":1,}',
    ],
)
def test_what_is_no_json(text):
    """Is told so, whatever it is."""
    with pytest.raises(InvalidRequestError, match="the request body is not valid JSON"):
        incoming.decode(text, decode)


def test_depth_and_values_are_counted_as_a_decoder_does():
    """Whatever stands in strings, for generated documents of every kind of escape."""
    dice = random.Random(5)
    words = ["", "[", "{{", ",", '"', "\\", '\\"', '"]', "\n", "\\u0041", "ä", "\U0001f600", ":", "\\\\"]

    def made(depth):
        kind = dice.random()
        if depth == 0 or kind < 0.3:
            return dice.choice([0, 1.5, None, True, "".join(dice.choices(words, k=dice.randrange(4)))])
        if kind < 0.6:
            return [made(depth - 1) for _ in range(dice.randrange(4))]
        return {"".join(dice.choices(words, k=2)) + str(n): made(depth - 1) for n in range(dice.randrange(4))}

    def depth_of(value):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0) if isinstance(value, (list, dict)) else 0

    for _ in range(500):
        value = made(6)
        for ascii_only in (True, False):
            text = json.dumps(value, ensure_ascii=ascii_only).encode()
            assert incoming.decode(text, decode) == value
            levels = depth_of(value)
            incoming.check_depth(text, "it", levels)
            if levels:
                with pytest.raises(InvalidRequestError, match=f"deeper than {levels - 1} levels"):
                    incoming.check_depth(text, "it", levels - 1)


LONG_NUMBERS = [b"7" * 400, b"-0." + b"7" * 399, b"1e" + b"7" * 400, b"7" * 9 + b"." + b"7" * 391]


@pytest.mark.parametrize("number", LONG_NUMBERS)
def test_the_digits_of_a_number(number):
    """The time that an integer takes grows with the square of its digits: 250 of 4,000 took as long as a million."""
    incoming.check(b"[" + number + b"," + number + b"]")
    incoming.check(json.dumps("7" * 500).encode())
    for longer in (number + b"7" * 2, number.replace(b"7", b"777", 1)):
        with pytest.raises(InvalidRequestError, match=f"a number of more than {limits.NUMBER_DIGITS} digits"):
            incoming.check(b"[0," + longer + b"]")


@pytest.mark.parametrize("number", [b"1.5e300", b"-1E-100", b"5e+123"])
def test_numbers_that_are_nearly_out_of_range(number):
    """Each keeps a decoder busy for microseconds. Below 1e100, and in strings, there may be as many as values."""
    most = b"[" + b",".join([number] * limits.JSON_UNUSUAL_NUMBERS)
    incoming.check(most + b"]")
    incoming.check(b"[" + b",".join([b"1e99", b'"1e300"'] * 5_000) + b"]")
    with pytest.raises(InvalidRequestError, match="more than 1000 numbers with an exponent of three digits"):
        incoming.check(most + b"," + number + b"]")


def test_what_is_decoded_was_checked():
    """Depth, and what would be split into a million parts before anybody counts them."""
    with pytest.raises(InvalidRequestError, match="nested deeper than 32 levels"):
        incoming.decode(b"[" * 33 + b"]" * 33, decode)
    with pytest.raises(InvalidRequestError, match="more than"):
        incoming.decode(b'"' * 1_000_000, decode)
