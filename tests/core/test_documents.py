"""What may be stored: what jsonb takes and gives back unchanged."""

from __future__ import annotations

import pytest

from kontract.core import documents, limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError


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
