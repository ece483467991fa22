"""What callers see of stored JSON, and what they may ask of it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Struct

from kontract.core.errors import InvalidRequestError, PermissionDeniedError
from kontract.core.model.declare import perm, primkey, table
from kontract.core.model.fields import redact
from kontract.core.model.perms import perms
from kontract.core.model.rows import RowType, row_type
from kontract.core.types import Order, Version
from support.older_rows import Card, Person

PEOPLE = row_type(Person)
VISA = {"brand": "visa", "number": "4111", "limit": 9, "gone": "secret"}
SEEN = {"brand": "visa", "limit": 9}


def stored(**fields: Any) -> Version:
    return Version("a", json.dumps(fields), 1, "ann")


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [
        ("card", VISA, SEEN),
        ("card", "an old text", None),
        ("card", [VISA], None),
        ("card", None, "null"),
        ("cards", [VISA, VISA, 5], [SEEN, SEEN]),
        ("cards", {"number": "4111"}, None),
        ("by_name", {"x": VISA, "y": "4111"}, {"x": SEEN}),
        ("street", {"name": "High", "code": "1"}, {"name": "High"}),
        ("box", {"item": VISA, "note": "secret"}, {"item": SEEN}),
        ("paid", {"type": "cash", "amount": 1, "drawer": "secret"}, {"type": "cash", "amount": 1}),
        ("paid", {"type": "wire", "iban": "x", "drawer": "y"}, {"type": "wire", "iban": "x", "drawer": "y"}),
        ("paid", {"type": "gone", "number": "4111"}, None),
        ("place", [1, "secret", 2, "gone"], [1, None, 2]),
        ("pair", ["l", "secret"], ["l", None]),
        ("meter", {"unit": "m", "serial": "secret"}, {"unit": "m"}),
        ("both", [1, VISA, "gone"], [1, SEEN]),
        ("name", {"pin": "1234"}, None),
        ("name", 5, 5),
        ("age", "five", "five"),
        ("tags", ["x", {"pin": "1234"}, 1], ["x", 1]),
        ("extra", {"x": [{"number": 1}]}, {"x": [{"number": 1}]}),
        ("anything", {"pin": [1]}, {"pin": [1]}),
        ("pin", "1234", None),
        ("gone", "4111", None),
    ],
)
def test_only_what_the_struct_knows_is_shown(field, value, seen):
    """Fields that it has and callers may read, at every depth, and of these what their type has room for."""
    expected = {} if seen is None else {field: None if seen == "null" else seen}
    assert PEOPLE.shown(stored(**{field: value})) == {"id": "a", **expected}


def test_what_is_shown_of_a_row_is_what_is_shown_of_its_value():
    """For rows that are not older than the struct the two ways are one."""
    data = {"name": "Ann", "card": VISA, "cards": [VISA], "paid": {"type": "cash", "amount": 1, "drawer": "d"}}
    version = stored(**data)
    decoded = msgspec.to_builtins(redact(PEOPLE.decode(version)))
    assert PEOPLE.shown(version).items() <= decoded.items()


@pytest.mark.parametrize(
    "wanted",
    [
        {"card": {"brand": "visa"}},
        {"card": {"brand": "visa", "limit": 9}},
        {"card": {}},
        {"card": None},
        {"cards": [{"brand": "visa"}]},
        {"cards": []},
        {"by_name": {"x": {"brand": "visa"}}},
        {"box": {"item": {"brand": "visa"}}},
        {"paid": {"type": "wire", "iban": "x"}},
        {"both": [1]},
        {"both": [{"brand": "visa"}]},
        {"tags": ["x"]},
        {"extra": {"number": "4111"}},
        {"anything": [{"pin": 1}]},
        {"name": 5},
        {"meter": {"unit": "m"}},
    ],
)
def test_what_callers_see_may_be_asked_for(wanted):
    """By the names that the filter has in the stored row."""
    assert PEOPLE.filter(wanted).contains == wanted


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ({"card": {"number": "4111"}}, "card.number"),
        ({"card": {"number": {}}}, "card.number"),
        ({"card": {"brand": "visa", "number": "4111"}}, "card.number"),
        ({"card": {"gone": "secret"}}, "card.gone"),
        ({"card": "4111"}, "card"),
        ({"cards": [{"number": "4111"}]}, "cards.number"),
        ({"cards": [{"brand": "visa"}, {"number": "4111"}]}, "cards.number"),
        ({"cards": {"number": "4111"}}, "cards"),
        ({"by_name": {"x": {"number": "4111"}}}, "by_name.x.number"),
        ({"street": {"code": "1"}}, "street.code"),
        ({"box": {"note": "secret"}}, "box.note"),
        ({"box": {"item": {"number": "4111"}}}, "box.item.number"),
        ({"paid": {"drawer": "secret"}}, "paid.drawer"),
        ({"paid": {"type": "wire", "drawer": "x"}}, "paid.drawer"),
        ({"place": ["secret"]}, "place"),
        ({"pair": ["secret"]}, "pair"),
        ({"meter": {"serial": "secret"}}, "meter.serial"),
        ({"both": [{"number": "4111"}]}, "both.number"),
        ({"name": {"pin": "1234"}}, "name"),
        ({"tags": [{"pin": "1234"}]}, "tags"),
    ],
)
def test_what_callers_do_not_see_is_unknown_to_filters(wanted, path):
    """Whoever may ask whether it is there can find it out, a character at a time."""
    with pytest.raises(InvalidRequestError, match=f"'{path}'") as error:
        PEOPLE.filter(wanted)
    told = error.value.message.partition("there are")[2]
    assert not {"number", "code", "note", "drawer", "serial"} & set(told.replace(",", "").split())


@pytest.mark.parametrize("hidden", ["number", "nothing"])
def test_hidden_and_missing_fields_inside_sound_the_same(hidden):
    """Word for word, but for the name that was asked for."""
    with pytest.raises(InvalidRequestError) as error:
        PEOPLE.filter({"card": {hidden: "x"}})
    text = error.value.message.replace(f"card.{hidden}", "?")
    assert text == "table 'people' has no field '?' to query; known fields: brand, limit"


@pytest.mark.parametrize(
    "field", ["card", "cards", "by_name", "street", "box", "paid", "place", "pair", "meter", "both"]
)
def test_no_order_tells_what_is_hidden_inside(field):
    """jsonb orders objects by their values: the place of a row would tell them."""
    with pytest.raises(InvalidRequestError, match=f"cannot be ordered by '{field}'") as error:
        PEOPLE.order(field)
    assert "ordered by age, anything, id, name" in error.value.message


def test_other_fields_order():
    """Also by their names in Python."""
    assert PEOPLE.order("age") == ("age", Order.NUMBER)
    with pytest.raises(InvalidRequestError, match="no field 'pin' to query"):
        PEOPLE.order("pin")


@table("users")
class User(Struct):
    id: Annotated[str, primkey]
    pin: Annotated[str, msgspec.Meta(min_length=4), perm(perms._W_)]
    colour: Annotated[Literal["red", "blue"] | None, perm(0)] = None
    card: Card | None = None
    name: str = ""


@pytest.mark.parametrize(
    ("row", "hidden"),
    [
        ({"pin": "12"}, True),
        ({"pin": 5}, True),
        ({}, True),
        ({"pin": "1234", "colour": "green"}, True),
        ({"pin": "1234", "card": {"brand": "x", "number": 5}}, True),
        ({"pin": "12\x0034"}, True),
        ({"pin": "1234", "card": {"brand": 5}}, False),
        ({"pin": "1234", "name": 5}, False),
        ({"pin": "1234", "name": "\x00"}, False),
    ],
)
def test_errors_name_no_hidden_field(row, hidden):
    """A function's own values, or those that were there, may be wrong: whose pin is too short is nobody's business."""
    rows = row_type(User)
    for write in (
        lambda: rows.encode(row, "a"),
        lambda: rows.merge(json.dumps(row), {"name": row.get("name", "")}, "a"),
    ):
        with pytest.raises(InvalidRequestError) as error:
            write()
        words = error.value.message
        assert not any(name in words for name in ("pin", "colour", "number", "4"))
        assert ("a field that callers may not read" in words) is hidden


def test_a_row_with_a_field_that_is_not_there_lists_what_callers_know():
    """Of the rows of a function as well."""
    with pytest.raises(InvalidRequestError, match=r"it has card, id, name$"):
        row_type(User).encode({"pin": "1234", "nothing": 1}, "a")


def test_update_refuses_what_callers_may_not_write_inside_of_what_they_send():
    """A dict comes from a caller as likely as the name does; a struct was made, or checked as an argument."""
    current = '{"name":"Ann"}'
    with pytest.raises(PermissionDeniedError, match="card: callers cannot set the field 'limit'"):
        PEOPLE.merge(current, {"card": {"brand": "visa", "limit": 1000}}, "a")
    with pytest.raises(PermissionDeniedError, match=r"cards\[1\]: callers cannot set the field 'limit'"):
        PEOPLE.merge(current, {"cards": [{"brand": "x"}, {"brand": "y", "limit": 1}]}, "a")
    assert "1000" in PEOPLE.merge(current, {"card": Card("visa", "4111", 1000)}, "a")


def test_an_id_cannot_be_hidden():
    """It is in every event and in every question."""

    class Wrong(Struct):
        id: Annotated[str, primkey, perm(perms._W_)]

    with pytest.raises(TypeError, match=r"Wrong\.id is the id of its rows"):
        RowType("wrong", Wrong)


def test_rows_of_no_struct_are_shown_as_they_are():
    """Nothing is declared, so nothing is hidden."""
    assert RowType("free").shown(stored(pin="1", x=[1])) == {"id": "a", "pin": "1", "x": [1]}
    assert RowType("free").filter({"x": {"y": 1}}).contains == {"x": {"y": 1}}
    assert RowType("free").order("x") == ("x", None)
