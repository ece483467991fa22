"""Between the application's rows and the stored JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta, Struct

from kontract.core.errors import InvalidRequestError
from kontract.core.model import documents, values
from kontract.core.model.declare import perm, primkey, table
from kontract.core.model.perms import perms
from kontract.core.model.rows import RowType, row_type
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


@table("measures")
class Measure(Struct):
    id: Annotated[str, primkey]
    price: Decimal | None = None
    prices: dict[str, tuple[Decimal, ...]] = {}
    weight: float | None = None
    weights: list[float] = []
    key: UUID | None = None
    takes: timedelta | None = None


MEASURES = row_type(Measure)


@pytest.mark.parametrize("number", ["90071992547409.93", "9007199254740993"])
def test_numbers_of_no_declared_type_keep_their_digits_in_a_row(number):
    """A dict of a function's `dict[str, Any]`: Decimals take all digits, floats refuse what they would round."""
    value = values.decode(number)
    for change in (lambda row: MEASURES.encode(row, "m"), lambda row: MEASURES.merge("{}", row, "m")):
        stored = json.loads(change({"price": value, "prices": {"a": [value]}}))
        assert (stored["price"], stored["prices"]) == (number, {"a": [number]})
        for row in ({"weight": value}, {"weights": [0.5, value]}, {"weights": (value,)}):
            with pytest.raises(InvalidRequestError, match=r"weights?(\[\d\])?: a float cannot hold all digits"):
                change(row)
        assert json.loads(change({"weight": values.decode("0.10000000000000001")}))["weight"] == 0.1


@pytest.mark.parametrize("number", ["90071992547409.93", "9007199254740993"])
def test_a_filter_rounds_no_number(number):
    """It asks for the number that was sent, not for the float beside it."""
    asked = MEASURES.filter({"price": values.decode(number)})
    assert asked.contains == {"price": number}
    asked = MEASURES.filter({"weight": values.decode(number)})
    assert asked.contains is not None
    assert documents.encode_json(asked.contains["weight"]) == number


def test_whatever_has_several_spellings_is_respelled():
    """UUIDs, durations and bytes that others wrote, too: a filter finds the spelling of the type alone."""
    stored = '{"key": "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "takes": "PT90M"}'
    fresh = MEASURES.respelled(stored, "m")
    assert fresh is not None
    assert json.loads(fresh) == {"key": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "takes": "PT5400S"}
    assert MEASURES.respelled(fresh, "m") is None


class Card(Struct):
    brand: str
    number: Annotated[str, perm(perms._W_)] = ""


class Wallet(Struct):
    cards: list[Card] = []
    notes: dict[str, Any] = {}


@table("wallets")
class Holder(Struct):
    id: Annotated[str, primkey]
    card: Card | None = None
    wallet: Wallet | None = None
    anything: Any = None


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"anything": Card("v", "4111")}, "row.anything"),
        ({"anything": {"deep": [1, (Card("v", "4111"),)]}}, "row.anything"),
        (Holder("h", anything=[Card("v", "4111")]), "row.anything"),
        ({"wallet": Wallet(notes={"a": Card("v", "4111")})}, r"row\.wallet\.notes\.a"),
        ({"wallet": {"notes": {"a": Card("v", "4111")}}}, r"row\.wallet\.notes\.a"),
    ],
)
def test_an_object_with_hidden_fields_needs_a_type_that_remembers_them(row, place):
    """Where anything may stand nobody would know what to hide, and the next reader of the row would be shown it."""
    holders = row_type(Holder)
    with pytest.raises(InvalidRequestError, match=f"^{place} of table 'wallets' holds an object with fields") as error:
        holders.encode(row, "h")
    assert "number" not in str(error.value)
    if isinstance(row, dict):
        with pytest.raises(InvalidRequestError, match=place):
            holders.merge("{}", row, "h")
        with pytest.raises(InvalidRequestError, match="of table 'plain' holds an object"):
            PLAIN.encode(row, "h")


def test_typed_objects_with_hidden_fields_are_stored():
    holders = row_type(Holder)
    row = {
        "card": Card("v", "4111"),
        "wallet": Wallet([Card("m", "5555")], {"a": [1]}),
        "anything": {"card": {"number": 1}},
    }
    for stored in (holders.encode(row, "h"), holders.merge("{}", row, "h"), holders.encode(Holder("h", **row), "h")):
        assert json.loads(stored) == {
            "card": {"brand": "v", "number": "4111"},
            "wallet": {"cards": [{"brand": "m", "number": "5555"}], "notes": {"a": [1]}},
            "anything": {"card": {"number": 1}},
        }


def test_a_value_that_contains_itself_is_refused_with_a_sentence():
    endless: dict[str, Any] = {}
    endless["again"] = endless
    for rows, row in ((row_type(Holder), {"anything": endless}), (PLAIN, endless)):
        with pytest.raises(InvalidRequestError, match="cannot be stored"):
            rows.encode(row, "h")
        with pytest.raises(InvalidRequestError, match="cannot be stored"):
            rows.merge("{}", row, "h")
