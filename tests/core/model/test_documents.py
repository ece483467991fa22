"""What may be stored: what jsonb takes and gives back unchanged."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError
from kontract.core.model import documents
from kontract.core.model.values import Number, decode, is_held


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        {"a": "NUL \x00"},
        {"NUL \x00": 1},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": float("nan")},
        {"a": [float("-inf")]},
    ],
)
def test_refused(value):
    """PostgreSQL would refuse these in the middle of a commit, or JSON cannot hold them."""
    with pytest.raises(InvalidRequestError, match="the row"):
        documents.check(value, "the row")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, {"b": float("nan")}]}, "the row.a[1].b is nan"),
        ({"a": {"b": 1, "\x00": 2}}, "a key of the row.a contains a NUL"),
        ({"a?": {"x" * 100: "\x00"}}, f"the row.a?.{'x' * 40} contains a NUL"),
        ("\x00", "the row contains a NUL"),
    ],
)
def test_a_message_says_where(value, where):
    """In a large document the place is what a caller needs; its names are as long as a caller makes them."""
    with pytest.raises(InvalidRequestError) as error:
        documents.check(value, "the row")
    assert str(error.value).startswith(where)


def test_depth():
    """The bound is the bound: one level less is taken, one more refused."""
    documents.check(nested(limits.JSON_DEPTH - 1), "x")
    with pytest.raises(InvalidRequestError, match="nested deeper"):
        documents.check(nested(limits.JSON_DEPTH), "x")


@pytest.mark.parametrize(
    "row_id", ["", None, 1, b"x", "a\x00b", "\ud800", "\x01too old", "x" * (limits.ROW_ID_BYTES + 1)]
)
def test_ids_that_are_none(row_id):
    """An id is text that fits every index; the marker of an old snapshot can never be one."""
    with pytest.raises(InvalidRequestError):
        documents.check_id(row_id, "t")


@pytest.mark.parametrize("row_id", ["a", "ä" * (limits.ROW_ID_BYTES // 2), "'; DROP TABLE x; --", " ", "\n", "a/b"])
def test_ids(row_id):
    """Any other text is an id: it is only ever a parameter."""
    assert documents.check_id(row_id, "t") == row_id


def test_the_size_of_a_row():
    """A row over the write set's bound could never commit."""
    assert documents.encode({"a": 1}, "row") == '{"a":1}'
    with pytest.raises(PayloadTooLargeError):
        documents.encode({"a": "x" * limits.WRITE_SET_BYTES}, "row")


def test_one_field_of_a_row():
    """The place in an ordered query is told to the database digit for digit."""
    row = '{"a": 0.1000000000000000055511151231257827, "b": {"a": 1}, "c": null}'
    assert documents.part(row, "a") == "0.1000000000000000055511151231257827"
    assert documents.part(row, "b") == '{"a": 1}'
    assert documents.part(row, "c") == "null"
    assert documents.part(row, "d") is None


def test_the_digits_of_a_number():
    """Few bytes with an exponent must not become many; whoever needs so many digits stores text."""
    for text in (f"1e{limits.NUMBER_DIGITS - 1}", f"-1e-{limits.NUMBER_DIGITS}", "9" * limits.NUMBER_DIGITS):
        assert "e" not in documents.normal({"a": Decimal(text)}, "x")["a"].lower()
    for text in (f"1e{limits.NUMBER_DIGITS}", f"1e-{limits.NUMBER_DIGITS + 1}", "1e999999999", "-1E-999999999"):
        with pytest.raises(InvalidRequestError, match=r"x\.a has more than 400 digits"):
            documents.normal({"a": Decimal(text)}, "x")
        with pytest.raises(InvalidRequestError, match=r"x\.a has more than 400 digits"):
            documents.normal({"a": Number(text)}, "x")


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("0.1", True), ("0.10000000000000001", True), ("0.1000000000000000055511151231257827", True),
        ("90071992547409.93", False), ("90071992547409.94", True), ("3.14159265358979323846", False),
        ("1e22", True), ("1e23", True), ("100000000000000000000000.0", True), ("1e400", False), ("1e-400", False),
        ("0e999", True), ("-0.0", True), ("5e-324", True), ("4.9406564584124654e-324", True), ("1e-324", False),
        ("9007199254740993.0", False), ("9007199254740992.0", True), ("1.7976931348623157e308", True),
    ],
)  # fmt: skip
def test_what_a_float_holds(text, held):
    """Every way in which programs write a double, and nothing that would be rounded."""
    assert is_held(float(text), text) is held
    value = decode(text)
    assert type(value) is (float if held else Number)
    assert held or str(value) == text
