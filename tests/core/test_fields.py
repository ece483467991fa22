"""Which fields of a row callers see and set."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import pytest
from msgspec import UNSET, Struct, UnsetType

from kontract.core.declare import perm, primkey, table
from kontract.core.errors import InvalidRequestError, PermissionDeniedError
from kontract.core.fields import guarded, redact, refuse
from kontract.core.perms import perms
from kontract.core.rows import row_type
from kontract.core.signatures import Passing, Signature
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


class Ctx: ...


ANN = Member("a", "Ann", "1234", 7, "secret")
SEEN = {"id": "a", "name": "Ann", "joined": 7}


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
    ],
)
def test_what_callers_may_not_read_is_left_out_however_deep_it_is(value, shown):
    """Not its value, not its name, not even that it is empty."""
    assert msgspec.to_builtins(redact(value)) == shown
    assert b"1234" not in msgspec.json.encode(redact(value))
    assert b"secret" not in msgspec.json.encode(redact(value))


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
    ],
)
def test_what_callers_may_not_write_is_refused_wherever_it_is_sent(hint, sent):
    """Whatever its value, also the default: only who left it out has left it alone."""
    assert guarded(hint)
    with pytest.raises(PermissionDeniedError, match=r"argument x.*(joined|internal_note)"):
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
    with pytest.raises(PermissionDeniedError, match="argument x: the field 'sent_by' cannot be set"):
        refuse(Signal, ["signal", "s", "1234", "eve"], "argument x")


@pytest.mark.parametrize("hint", [int, str, list[int], dict[str, Any], Open, Plain, Any, int | None, Harmless, Ctx])
def test_most_types_need_no_second_look(hint):
    """Their arguments are decoded as fast as before."""
    assert not guarded(hint)


def test_a_call_names_the_field():
    """Through the signature of a function, before it runs."""

    async def save(ctx: Ctx, n: int, member: Member): ...

    signature = Signature(save, "save", Ctx)
    assert signature.bind(b'[1, {"id": "a", "name": "x", "pin": "2"}]', None)["member"].pin == "2"
    with pytest.raises(PermissionDeniedError, match="save: argument member: the field 'joined' cannot be set"):
        signature.bind(b'[1, {"id": "a", "name": "x", "joined": 1}]', None)
    with pytest.raises(PermissionDeniedError, match="save: argument member: the field 'joined' cannot be set"):
        signature.bind(b'{"n": 1, "member": {"id": "a", "name": "x", "joined": 1}}', None, Passing.BY_NAME)


def test_update_does_not_change_what_callers_may_not_write():
    """Its names often come from callers; set is for functions that mean it."""
    rows = row_type(Member)
    stored = '{"name":"Ann","pin":"1","joined":7,"internal_note":"s"}'
    assert msgspec.json.decode(rows.merge(stored, {"name": "Bo", "pin": "2"}, "a")) == {
        "name": "Bo", "pin": "2", "joined": 7, "internal_note": "s",
    }  # fmt: skip
    for name in ("joined", "note"):
        with pytest.raises(PermissionDeniedError, match=f"field '{name}' of table 'members' cannot be changed"):
            rows.merge(stored, {name: 1}, "a")
    assert rows.decode(Version("a", stored, 3, "ann")).note == "s", "functions themselves read every field"


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
