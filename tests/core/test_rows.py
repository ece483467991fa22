"""Between the application's rows and the stored JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Struct

from kontract.core.declare import primkey, table
from kontract.core.errors import InvalidRequestError
from kontract.core.rows import RowType, row_type
from kontract.core.types import Filter, Version


@table("tasks")
class Task(Struct):
    id: Annotated[str, primkey]
    title: Annotated[str, Meta(min_length=1)]
    done: bool = False


@table("renamed")
class Renamed(Struct, rename="camel", omit_defaults=True):
    row_key: Annotated[str, primkey]
    is_done: bool = False


TASKS, PLAIN, RENAMED = row_type(Task), RowType("plain"), row_type(Renamed)


def version(data: str) -> Version:
    return Version("t1", data, 1, "ann")


def test_a_struct_goes_in_and_comes_out():
    """The id is a column, never part of the stored JSON."""
    stored = TASKS.encode(Task("t1", "x"), "t1")
    assert json.loads(stored) == {"title": "x", "done": False}
    assert TASKS.decode(version(stored)) == Task("t1", "x")
    assert TASKS.encode({"title": "x"}, "t1") == stored


def test_a_dict_goes_in_and_comes_out():
    """Without a struct a row is what was written, and its id."""
    stored = PLAIN.encode({"id": "t1", "a": [1]}, "t1")
    assert stored == '{"a":[1]}'
    assert PLAIN.decode(version(stored)) == {"id": "t1", "a": [1]}


def test_constraints_hold_for_structs_made_by_hand():
    """msgspec checks nothing in a constructor; a row with an empty title must not be stored all the same."""
    with pytest.raises(InvalidRequestError, match="the row of table 'tasks' is not valid"):
        TASKS.encode(Task("t1", ""), "t1")
    with pytest.raises(InvalidRequestError, match="not valid"):
        TASKS.encode({"title": "x", "done": "yes"}, "t1")
    with pytest.raises(InvalidRequestError, match="must be Task"):
        TASKS.encode([1], "t1")


def test_a_row_cannot_be_written_under_another_id():
    """Its own id would be lost silently."""
    with pytest.raises(InvalidRequestError, match="written as 't2'"):
        TASKS.encode(Task("t1", "x"), "t2")
    assert TASKS.encode({"id": "", "title": "x"}, "t2") == TASKS.encode({"title": "x"}, None)


def test_changes_are_merged_and_checked():
    """Stored fields that the struct does not know are kept: an older deployment must not erase a newer one's."""
    stored = '{"title":"x","done":false,"newer":1}'
    assert json.loads(TASKS.merge(stored, {"done": True}, "t1")) == {"title": "x", "done": True, "newer": 1}
    for changes, words in [
        ({"titel": "y"}, "no field 'titel'"),
        ({"id": "t2"}, "cannot be changed"),
        ({"title": ""}, "not valid"),
    ]:
        with pytest.raises(InvalidRequestError, match=words):
            TASKS.merge(stored, changes, "t1")


def test_a_renamed_field_is_stored_under_its_name_in_json():
    """Filters, changes and orders use the attribute's name; omitted defaults can be restored."""
    assert RENAMED.encode(Renamed("r", is_done=True), "r") == '{"isDone":true}'
    assert RENAMED.filter({"is_done": True, "row_key": "r"}) == Filter({"isDone": True}, "r")
    assert RENAMED.stored_name("is_done") == "isDone"
    merged = RENAMED.merge('{"isDone":true}', {"is_done": False}, "r")
    assert RENAMED.decode(Version("r", merged, 1, "")) == Renamed("r", is_done=False)


@dataclass
class Point:
    x: int
    y: int = 7


@table("places")
class Place(Struct):
    id: Annotated[str, primkey]
    point: Point


def test_defaults_of_a_dataclass_are_stored():
    """msgspec leaves them to the class, and would not write what it did not read."""
    places = row_type(Place)
    assert places.encode({"point": {"x": 1}}, "a") == '{"point":{"x":1,"y":7}}'
    read = places.decode(Version("a", '{"point":{"x":1}}', 1, ""))
    assert places.encode(read, "a") == '{"point":{"x":1,"y":7}}'
    assert places.merge('{"point":{"x":1}}', {"point": read.point}, "a") == '{"point":{"x":1,"y":7}}'


def test_filters():
    """Fields by name and the id apart; what cannot be stored cannot be asked for."""
    assert TASKS.filter(None) == Filter()
    assert TASKS.filter({}) == Filter()
    assert TASKS.filter({"id": "t1"}) == Filter(None, "t1")
    assert PLAIN.filter({"a": {"b": [1]}}) == Filter({"a": {"b": [1]}})
    for wanted, words in [
        ({"titel": 1}, "no field"),
        ([1], "must be an object"),
        ({"title": "\x00"}, "NUL"),
        ({"id": 1}, "non-empty"),
    ]:
        with pytest.raises(InvalidRequestError, match=words):
            TASKS.filter(wanted)


def test_structs_that_are_no_rows():
    """A table without one text id is refused with a sentence."""

    class NoId(Struct):
        name: str

    class TwoIds(Struct):
        a: Annotated[str, primkey]
        b: Annotated[str, primkey]

    class NumberId(Struct):
        id: Annotated[int, primkey]

    for struct in (NoId, TwoIds, NumberId):
        with pytest.raises(TypeError, match=struct.__name__):
            RowType("t", struct)


def test_integers_beyond_64_bits_survive():
    """jsonb keeps every digit, so must the way there and back."""
    stored = PLAIN.encode({"n": 2**80}, "t1")
    assert PLAIN.decode(version(stored))["n"] == 2**80
    assert PLAIN.filter({"n": 2**80}) == Filter({"n": 2**80})
    assert msgspec.json.decode(stored) == {"n": 2**80}
