"""Rows of a struct with hidden fields at every depth, and stored JSON that is older than it, one way or another."""

from __future__ import annotations

import dataclasses
import random
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

from kontract.core.model.declare import perm, primkey, table
from kontract.core.model.perms import perms

Hidden = Annotated[str, perm(perms._W_)]
T = TypeVar("T")


class Card(Struct):
    brand: str
    number: Hidden = ""
    limit: Annotated[int, perm(perms.R__)] = 0


class Street(Struct):
    name: str
    code: Annotated[str | None, perm(0)] = None


class Box(Struct, Generic[T]):
    item: T
    note: Hidden = ""


class Cash(Struct, tag="cash"):
    amount: int
    drawer: Hidden = ""


class Wire(Struct, tag="wire"):
    iban: str
    drawer: str = ""


class Place(Struct, array_like=True):
    x: int
    pin: Hidden = ""
    y: int = 0


class Node(Struct):
    name: str
    secret: Hidden = ""
    inner: list[Node] = []


class Pair(NamedTuple):
    left: str
    right: Annotated[str, perm(perms._W_)]


@dataclasses.dataclass
class Meter:
    unit: str
    serial: Annotated[str, perm(perms._W_)] = ""


@table("people")
class Person(Struct):
    id: Annotated[str, primkey]
    name: str = ""
    age: int | None = None
    pin: Hidden = ""
    card: Card | None = None
    cards: list[Card] = []
    by_name: dict[str, Card] = {}
    street: Street | None = None
    box: Box[Card] | None = None
    paid: Cash | Wire | None = None
    place: Place | None = None
    pair: Pair | None = None
    meter: Meter | None = None
    both: tuple[int, Card] | None = None
    tags: list[str] = []
    extra: dict[str, Any] = {}
    anything: Any = None


NAMES = ("name", "age", "pin", "card", "cards", "by_name", "street", "box", "paid", "place", "pair", "meter", "both",
         "tags", "extra", "anything", "gone", "id", "type")  # fmt: skip
INNER = ("brand", "number", "limit", "name", "code", "item", "note", "type", "amount", "drawer", "iban", "unit",
         "serial", "gone", "card")  # fmt: skip


def document(rng: random.Random) -> dict[str, Any]:
    """Any JSON object whose names are those of the structs, and whose values often fit, and often do not."""
    return {name: _value(rng, 0) for name in rng.sample(NAMES, rng.randrange(1, 12))}


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(10 if depth < 4 else 5)
    if kind < 5:
        return rng.choice(["cash", "wire", "x", "", 7, -1.5, True, None])
    if kind < 8:
        return {name: _value(rng, depth + 1) for name in rng.sample(INNER, rng.randrange(6))}
    return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
