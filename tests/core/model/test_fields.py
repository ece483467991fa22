"""Which fields of a row callers see and set."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Annotated, Any, Generic, NamedTuple, NewType, Optional, Required, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from msgspec import UNSET, Struct, UnsetType

from kontract.core.errors import InvalidRequestError, PermissionDeniedError
from kontract.core.model.declare import perm, primkey, table
from kontract.core.model.fields import guarded, redact, refuse, without
from kontract.core.model.perms import READ, perms
from kontract.core.model.rows import row_type
from kontract.core.model.signatures import Passing, Signature
from kontract.core.types import Version


@table("members")
class Member(Struct):
    id: Annotated[str, primkey]
    name: str
    pin: Annotated[str, perm(perms._W_)] = ""
    joined: Annotated[int, perm(perms.R__)] = 0
    note: Annotated[str, perm(perms.__X)] = msgspec.field(default="", name="internal_note")


@table("open")
class Open(Struct):
    id: Annotated[str, primkey]
    text: str = ""


class Page(Struct):
    members: list[Member]
    total: int = 0
    next: Member | None = None


class Plain(Struct):
    n: int
    tags: list[str] = []


class Tree(Struct):
    branches: list[Tree] = []
    leaf: Member | None = None


class Harmless(Struct):
    branches: list[Harmless] = []


T = TypeVar("T")


class Box(Struct, Generic[T]):
    item: T


@dataclasses.dataclass
class Data:
    member: Member


class Dict(TypedDict):
    member: Member


class Tuple(NamedTuple):
    n: int
    member: Member


Renamed = NewType("Renamed", Member)


@table("signals")
class Signal(Struct, tag="signal", array_like=True):
    id: Annotated[str, primkey]
    secret: Annotated[str, perm(perms._W_)] = ""
    sent_by: Annotated[str, perm(perms.R__)] = ""


@table("drafts")
class Draft(Struct, tag="draft"):
    id: Annotated[str, primkey]
    text: str | UnsetType = UNSET
    pin: Annotated[str, perm(perms._W_)] = ""
    joined: Annotated[int, perm(perms.R__)] = 0


class Note(Struct, tag="note"):
    joined: int


class Attrs:
    """What the attrs package makes of a class, as far as it matters."""

    __attrs_attrs__ = (SimpleNamespace(name="member"),)

    def __init__(self, member: Member) -> None:
        self.member = member


class Card(Struct):
    """Of no table, as are the structs of arguments and of fields."""

    brand: str = "visa"
    number: Annotated[str, perm(perms._W_)] = ""
    checked: Annotated[bool, perm(perms.R__)] = False


Pin = Annotated[str, perm(perms._W_)]
Number = NewType("Number", Pin)


class Wallet(Struct, rename="camel"):
    cards: list[Card]
    main_card: Card | None = None
    old_pin: Pin | None = None
    number: Number = Number("")


@dataclasses.dataclass
class Purse:
    card: Card
    pin: Pin = ""
    checked: Annotated[bool, perm(perms.R__)] = False


class Point(NamedTuple):
    x: int
    secret: Annotated[str, perm(perms._W_)]
    checked: Annotated[bool, perm(perms.R__)] = False


class Kept(Box[T], Generic[T]):
    pin: Pin = ""


class MarkedDict(TypedDict, total=False):
    card: Card
    pin: Required[Pin]


@attrs.define
class Coin:
    value: int
    mint: Pin = "secret"
    checked: Annotated[bool, perm(perms.R__)] = False


class Ctx: ...


ANN = Member("a", "Ann", "1234", 7, "secret")
SEEN = {"id": "a", "name": "Ann", "joined": 7}
SHOWN_CARD = {"brand": "visa", "checked": False}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (ANN, SEEN),
        ([ANN, ANN], [SEEN, SEEN]),
        ({"x": {"y": ANN}, "n": 1}, {"x": {"y": SEEN}, "n": 1}),
        ((ANN, 1), [SEEN, 1]),
        (Page([ANN], 1, ANN), {"members": [SEEN], "total": 1, "next": SEEN}),
        (Page([]), {"members": [], "total": 0, "next": None}),
        (Data(ANN), {"member": SEEN}),
        (Attrs(ANN), {"member": SEEN}),
        ([{"x": Data(ANN)}], [{"x": {"member": SEEN}}]),
        (Tuple(1, ANN), [1, SEEN]),
        (Box(ANN), {"item": SEEN}),
        (Box(Box([ANN])), {"item": {"item": [SEEN]}}),
        (Tree([Tree([], ANN)]), {"branches": [{"branches": [], "leaf": SEEN}], "leaf": None}),
        (Draft("d", pin="1234"), {"type": "draft", "id": "d", "joined": 0}),
        (Signal("s", "1234", "ann"), ["signal", "s", None, "ann"]),
        (Card("visa", "1234"), SHOWN_CARD),
        ({"card": [Card("visa", "1234")]}, {"card": [SHOWN_CARD]}),
        (
            Wallet([Card("visa", "1234")], Card("visa", "1234"), "secret", Number("1234")),
            {"cards": [SHOWN_CARD], "mainCard": SHOWN_CARD},
        ),
        (Purse(Card("visa", "1234"), "secret"), {"card": SHOWN_CARD, "checked": False}),
        (Point(1, "secret", checked=True), [1, None, True]),
        ([Point(1, "secret")], [[1, None, False]]),
        (Kept(Card("visa", "1234"), "secret"), {"item": SHOWN_CARD}),
        (Coin(5), {"value": 5, "checked": False}),
        (Open("x", Card("visa", "1234")), {"id": "x", "text": SHOWN_CARD}),
    ],
)
def test_what_callers_may_not_read_is_left_out_however_deep_it_is(value, shown):
    """Not its value, not its name, not even that it is empty."""
    assert msgspec.to_builtins(redact(value)) == shown
    assert b"1234" not in msgspec.json.encode(redact(value))
    assert b"secret" not in msgspec.json.encode(redact(value))


def test_what_is_hidden_deep_inside_takes_no_longer_than_its_depth():
    """A look at each level that did its work twice would take four billion steps here."""
    tree = Tree([], ANN)
    for _ in range(32):
        tree = Tree([tree])
    assert b"1234" not in msgspec.json.encode(redact(tree))


@pytest.mark.parametrize(
    "value",
    [None, 5, "x", [1, 2], {"a": [1]}, Open("x"), [Open("x")], Plain(1), [Plain(1, ["x"])], Data(Open("x")), Box(1)],
)
def test_what_hides_nothing_is_passed_on_as_it_is(value):
    """The same object: nothing is copied for tables without such fields."""
    assert redact(value) is value


@pytest.mark.parametrize(
    ("hint", "sent"),
    [
        (Member, {"id": "a", "name": "x", "joined": 9}),
        (Member | None, {"joined": 0}),
        (list[Member], [{"name": "x"}, {"joined": 9}]),
        (dict[str, Member], {"k": {"joined": 9}}),
        (tuple[int, Member], [1, {"joined": 9}]),
        (Annotated[Member, "doc"], {"joined": 9}),
        (Page, {"members": [{"joined": 1}]}),
        (Page, {"members": [], "next": {"internal_note": "x"}}),
        (list[Page | None], [None, {"members": [{"joined": 1}]}]),
        (Box[Member], {"item": {"joined": 1}}),
        (Box[list[Box[Member]]], {"item": [{"item": {"joined": 1}}]}),
        (Data, {"member": {"joined": 1}}),
        (list[Dict], [{"member": {"joined": 1}}]),
        (Tuple, [1, {"joined": 1}]),
        (Renamed, {"joined": 1}),
        (tuple[Member, ...], [{"joined": 1}]),
        (frozenset[Member], [{"joined": 1}]),
        (Tree, {"branches": [{"branches": [{"leaf": {"joined": 1}}]}]}),
        (Draft | Note, {"type": "draft", "joined": 1}),
        (Draft, {"joined": 1}),
        (Card, {"brand": "visa", "checked": True}),
        (list[Card], [{}, {"checked": True}]),
        (Wallet, {"cards": [{"checked": True}]}),
        (Wallet, {"cards": [], "mainCard": {"checked": True}}),
        (Purse, {"card": {}, "checked": True}),
        (Purse, {"card": {"checked": True}}),
        (Point, [1, "x", True]),
        (Kept[Card], {"item": {"checked": True}}),
        (dict[str, Card | None], {"x": {"checked": True}}),
        (Coin, {"value": 1, "checked": True}),
    ],
)
def test_what_callers_may_not_write_is_refused_wherever_it_is_sent(hint, sent):
    """Whatever its value, also the default: only who left it out has left it alone."""
    assert guarded(hint)
    with pytest.raises(PermissionDeniedError, match=r"argument x.*(joined|internal_note|checked)"):
        refuse(hint, sent, "argument x")


@pytest.mark.parametrize(
    ("hint", "sent"),
    [
        (Member, {"id": "a", "name": "x", "pin": "1"}),
        (list[Member], [{"name": "x"}]),
        (Member, "not an object"),
        (dict[str, Any], {"joined": 1}),
        (Plain, {"joined": 1}),
        (Draft | Note, {"type": "note", "joined": 1}),
        (Signal, ["signal", "s", "1234"]),
    ],
)
def test_the_rest_is_left_to_the_conversion(hint, sent):
    """Writable fields, other types, and what is wrong in another way."""
    refuse(hint, sent, "argument x")


def test_what_is_sent_as_an_array_is_counted_from_behind_the_tag():
    """A field has the same place there as in the decoder."""
    with pytest.raises(PermissionDeniedError, match="argument x: callers cannot set the field 'sent_by'"):
        refuse(Signal, ["signal", "s", "1234", "eve"], "argument x")


@pytest.mark.parametrize("hint", [int, str, list[int], dict[str, Any], Open, Plain, Any, int | None, Harmless, Ctx])
def test_most_types_need_no_second_look(hint):
    """Their arguments are decoded as fast as before."""
    assert not guarded(hint)


def test_a_call_names_the_field():
    """Through the signature of a function, before it runs."""

    async def save(ctx: Ctx, n: int, member: Member): ...

    signature = Signature(save, "save", Ctx)
    assert signature.read(b'[1, {"id": "a", "name": "x", "pin": "2"}]').take(None)["member"].pin == "2"
    with pytest.raises(PermissionDeniedError, match="save: argument member: callers cannot set the field 'joined'"):
        signature.read(b'[1, {"id": "a", "name": "x", "joined": 1}]').take(None)
    with pytest.raises(PermissionDeniedError, match="save: argument member: callers cannot set the field 'joined'"):
        signature.read(b'{"n": 1, "member": {"id": "a", "name": "x", "joined": 1}}', Passing.BY_NAME).take(None)


class Marked(Struct):
    pins: list[Pin]


class Optionally(Struct):
    """Wherever around its type a mark of a field may stand, it counts."""

    a: Annotated[str, perm(0)] | None = None
    b: Optional[Annotated[str, perm(0)]] = None  # noqa: UP045
    c: Annotated[Annotated[str, perm(0)] | None, "doc"] = None
    d: "Annotated[str, perm(0)]" = ""  # noqa: UP037
    e: Pin = ""
    f: Number = Number("")


def test_a_mark_counts_wherever_it_stands_around_the_type_of_a_field():
    """Also where Python keeps it in another place than the field's own annotation."""
    assert without(Optionally, READ) == set("abcdef")
    assert redact(Optionally("1", "2", "3", "4", "5", Number("6"))) == {}


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        (Pin, "perm() can only be enforced on a field"),
        (list[Pin], "perm() can only be enforced on a field"),
        (dict[str, Annotated[Card, perm(0)]], "perm() can only be enforced on a field"),
        (Annotated[Card, perm(perms.R__)] | None, "perm() can only be enforced on a field"),
        (Box[Pin], "perm() can only be enforced on a field"),
        (Marked, "field pins of Marked: perm() can only be enforced on a field"),
        (list[Marked], "field pins of Marked: perm() can only be enforced on a field"),
        (MarkedDict, "perm() of MarkedDict.pin cannot be enforced"),
        (Box[list[MarkedDict]], "perm() of MarkedDict.pin cannot be enforced"),
    ],
)
def test_a_mark_that_cannot_be_kept_is_an_error(hint, says):
    """Nothing is ignored: neither for an argument, nor for a result."""

    async def take(ctx: Ctx, x): ...

    async def give(ctx: Ctx): ...

    take.__annotations__["x"] = give.__annotations__["return"] = hint
    for function, what in ((take, "parameter x"), (give, "what it returns")):
        with pytest.raises(TypeError) as error:
            Signature(function, "f", Ctx)
        assert str(error.value).startswith(f"f: {what}: ")
        assert says in str(error.value)


def test_a_table_that_could_not_keep_a_mark_is_an_error():
    """It would show what it was told to hide."""

    @table("marked")
    class Row(Struct):
        id: Annotated[str, primkey]
        pins: list[Pin] = []

    with pytest.raises(TypeError, match=r"table 'marked': field pins of Row: perm\(\) can only be enforced on a field"):
        row_type(Row)


def test_a_class_that_names_types_for_checkers_alone_keeps_its_marks():
    """Results need not be readable: what is written beside the unknown name counts."""

    @dataclasses.dataclass
    class Odd:
        value: OnlyForCheckers  # noqa: F821
        pin: Annotated[str, perm(perms._W_)] = "secret"

    assert redact(Odd(1)) == {"value": 1}


def test_update_does_not_change_what_callers_may_not_write():
    """Its names often come from callers; set is for functions that mean it."""
    rows = row_type(Member)
    stored = '{"name":"Ann","pin":"1","joined":7,"internal_note":"s"}'
    assert msgspec.json.decode(rows.merge(stored, {"name": "Bo", "pin": "2"}, "a")) == {
        "name": "Bo", "pin": "2", "joined": 7, "internal_note": "s",
    }  # fmt: skip
    with pytest.raises(PermissionDeniedError, match="field 'joined' of table 'members' cannot be changed"):
        rows.merge(stored, {"joined": 1}, "a")
    assert rows.decode(Version("a", stored, 3, "ann")).note == "s", "functions themselves read every field"


@pytest.mark.parametrize("name", ["note", "nothing"])
def test_update_tells_no_names_of_hidden_fields(name):
    """A field that callers neither see nor set is one that does not exist."""
    with pytest.raises(InvalidRequestError) as error:
        row_type(Member).merge("{}", {name: 1}, "a")
    assert error.value.message == f"table 'members' has no field '{name}'; update may change name"


@pytest.mark.parametrize("name", ["pin", "note"])
def test_nobody_asks_for_what_callers_may_not_read(name):
    """A filter or an order would tell its value bit by bit; it is unknown, like a field that does not exist."""
    rows = row_type(Member)
    messages = []
    for field in (name, "nothing"):
        with pytest.raises(InvalidRequestError) as error:
            rows.filter({field: "1234"})
        messages.append(str(error.value).replace(field, "?"))
        with pytest.raises(InvalidRequestError):
            rows.stored_name(field)
    assert messages[0] == messages[1]
    assert "pin" not in messages[0].replace("?", "")
