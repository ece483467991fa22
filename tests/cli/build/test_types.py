"""Every type that `kontract build` accepts comes back as it was, wherever it stands; every other one is refused.

The cells are made, not listed: each scalar in each wrapping, as argument, result, field of a row, filter, order, and in
both typed clients. Rows go through PostgreSQL's jsonb.
"""

from __future__ import annotations

import json
import sys
import types
from decimal import Decimal
from typing import Any, get_type_hints

import asyncpg
import msgspec
import pytest

from kontract import Context
from kontract.cli.build.module import read
from kontract.cli.generate import python, typescript
from kontract.core.errors import InvalidRequestError
from kontract.core.model.kinds import kind_of
from kontract.core.model.rows import RowType
from kontract.core.model.signatures import Signature
from kontract.core.model.typed import has_order
from kontract.core.model.values import decode
from kontract.core.types import Version
from kontract.gateway.context import Session
from kontract.gateway.openapi import document
from kontract.gateway.results import Result
from kontract.gateway.routes import Registry

HEAD = """
import dataclasses, datetime, decimal, enum, typing, uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, Union
import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from kontract import Context, HttpResp, backend, perms, primkey, table

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 10

class Money(Struct, frozen=True):
    amount: Decimal
    currency: str = "EUR"

class Pair(Struct, array_like=True):
    left: int
    right: Decimal = Decimal("1.5")

class Cat(Struct, tag="cat"):
    lives: int = 9

class Dog(Struct, tag="dog"):
    name: str

@dataclass
class Point:
    x: int
    y: float = 7.5
    names: list[str] = dataclasses.field(default_factory=list)

class Address(TypedDict):
    street: str
    number: NotRequired[int]

class Place(NamedTuple):
    x: int
    y: Decimal = Decimal(0)

class Node(Struct):
    value: int
    next: "Node | None" = None
"""

SCALARS: dict[str, list[str]] = {  # each type with values as JSON, in the spelling that comes back
    "str": ['""', '"a"', '"\\u00e4"'],
    "int": ["0", "-1", "9007199254740993", "18446744073709551616", "1180591620717411303424"],
    "float": ["0.0", "-1.5", "1e300", "5e-324", "0.1", "1e16", "1.7976931348623157e308"],
    "bool": ["true", "false"],
    "Decimal": ['"0"', '"-1.5"', '"90071992547409.93"', '"100000000000000000000000000000.000000000000000000001"'],
    "datetime.datetime": ['"2026-01-31T12:00:00Z"', '"0001-01-01T00:00:00.000001Z"'],
    "date": ['"2026-01-31"', '"0099-12-31"'],
    "time": ['"09:30:00"', '"23:59:59.999999"'],
    "timedelta": ['"P1D"', '"P1DT3661S"', '"-PT0.000001S"'],
    "uuid.UUID": ['"550e8400-e29b-41d4-a716-446655440000"'],
    "bytes": ['""', '"AAEC"'],
    "Colour": ['"red"'],
    "Size": ["1", "10"],
    'Literal["a", "b"]': ['"a"'],
    "Literal[1, 2]": ["1"],
    "None": ["null"],
    "Annotated[int, Meta(ge=0)]": ["0", "5"],
    "Annotated[float, Meta(gt=0)]": ["0.5"],
    "Annotated[str, Meta(max_length=3)]": ['"abc"'],
    "Money": ['{"amount":"1.5","currency":"EUR"}'],
    "Pair": ['[1,"2.5"]'],
    "Cat | Dog": ['{"type":"cat","lives":1}', '{"type":"dog","name":"x"}'],
    "Point": ['{"x":1,"y":2.5,"names":["a"]}', '{"x":1,"y":7.5,"names":[]}'],
    "Address": ['{"street":"a"}', '{"street":"a","number":1}'],
    "Place": ['[1,"2.5"]'],
    "Node": ['{"value":1,"next":{"value":2,"next":null}}'],
    "Any": ["null", "1", "1.0", "1e20", "0.1", '{"a":[1,2.5]}', "1.00000000000000000000000001", "18446744073709551616"],
    "int | str": ["1", '"1"'],
    "int | float": ["1", "1.5", "9007199254740993"],
    "Decimal | int": ["1", '"1.5"'],
    # What cannot be: msgspec does not take it, or it does not come back.
    "Annotated[Decimal, Meta(ge=0)]": [],
    "Annotated[timedelta, Meta(gt=0)]": [],
    "Decimal | str": [],
    "date | datetime.datetime": [],
    "complex": [],
    "range": [],
    "Cat | Money": [],
}
WRAPPINGS = [
    "{}", "{} | None", "Optional[{}]", "list[{}]", "tuple[{}, ...]", "tuple[{}, int]", "set[{}]", "frozenset[{}]",
    "Sequence[{}]", "dict[str, {}]", "Mapping[str, {}]", "dict[{}, int]", "list[list[{}]]",
    "dict[str, list[{}] | None]", 'Annotated[{}, Meta(description="x")]',
]  # fmt: skip
TYPES = [(wrapping.format(scalar), scalar, wrapping) for scalar in SCALARS for wrapping in WRAPPINGS]


def module_of(hint: str, name: str = "f") -> str:
    return f"""{HEAD}
@table("rows")
class Row(Struct):
    id: Annotated[str, primkey]
    v: {hint}

@backend(perm=perms.RW_)
async def {name}(ctx: Context, v: {hint}) -> {hint}:
    return v
"""


def mistakes(hint: str) -> list[str]:
    return [str(one) for one in read(module_of(hint), "app.x", "src/app/x.py").mistakes]


def values_of(hint: str, scalar: str, wrapping: str) -> list[str]:
    values = SCALARS[scalar]
    match wrapping:
        case "{}" | 'Annotated[{}, Meta(description="x")]':
            return values
        case "{} | None" | "Optional[{}]":
            return [*values, "null"]
        case "list[{}]" | "tuple[{}, ...]" | "Sequence[{}]":
            return ["[]", f"[{','.join(values)}]"]
        case "set[{}]" | "frozenset[{}]":
            return ["[]", f"[{values[0]}]"] if values else []
        case "tuple[{}, int]":
            return [f"[{value},1]" for value in values]
        case "dict[str, {}]" | "Mapping[str, {}]":
            return [f'{{"a":{value}}}' for value in values]
        case "dict[{}, int]":
            return [f"{{{value if value[0] == chr(34) else json.dumps(value)}:1}}" for value in values]
        case "list[list[{}]]":
            return [f"[[{value}]]" for value in values]
        case _:
            return [f'{{"a":[{value}],"b":null}}' for value in values]


def equal(left: str, right: str) -> bool:
    """The same JSON, digit for digit, floats apart from integers."""

    def parsed(text: str) -> Any:
        return json.loads(
            text, parse_float=lambda token: ("float", Decimal(token)), parse_int=lambda token: ("int", token)
        )

    return parsed(left) == parsed(right)


class Cell:
    """One type that was accepted, as it is when the application runs."""

    def __init__(self, hint: str, number: int) -> None:
        self.hint = hint
        self.space = types.ModuleType(f"cell_{number}")
        sys.modules[self.space.__name__] = self.space
        exec(module_of(hint, f"f{number}"), self.space.__dict__)
        self.function = getattr(self.space, f"f{number}")
        self.row = self.space.Row
        self.rows = RowType("rows", self.row)
        self.signature = Signature(self.function, "f", Context)
        self.result = Result(self.function, "f")

    def argument_and_result(self, value: str) -> str:
        bound = self.signature.bind(f"[{value}]".encode(), None)
        body = self.result.response(bound["v"]).body.decode()
        return body.removeprefix('{"result":').removesuffix("}")

    def stored(self, value: str) -> str:
        bound = self.signature.bind(f"[{value}]".encode(), None)
        return self.rows.encode(self.row(id="a", v=bound["v"]), "a")

    def loaded(self, data: str) -> str:
        row = self.rows.decode(Version("a", data, 1, ""))
        return self.result.response(row.v).body.decode().removeprefix('{"result":').removesuffix("}")


def test_what_is_refused_is_refused_with_a_sentence():
    """File, line, the type and why; never for a type whose values come back."""
    for hint in ["Annotated[Decimal, Meta(ge=0)]", "Decimal | str", "complex", "dict[bool, int]",
                 "dict[int | str, int]", "set[Address]", "dict[Decimal, int]", "list[range]"]:  # fmt: skip
        found = mistakes(hint)
        assert found, hint
        assert all(one.startswith("src/app/x.py:") and hint in one for one in found), found


def test_classes_that_python_itself_refuses():
    """A required field after optional ones ends the import of the module, at the first call."""
    for text, words in [
        ("class A(Struct):\n    a: int = 0\n    b: int\n", "Required field 'b' cannot follow optional fields"),
        ("@dataclass\nclass A:\n    a: int = 0\n    b: int\n", "non-default argument 'b' follows default argument"),
        ("class A:\n    a: int\n", "A is not a type that JSON can hold"),
        ("class A(Struct):\n    a: complex\n", "complex is not a type that JSON can hold"),
        ("class A(enum.Enum):\n    X = 1\n    Y = 'y'\n", "Enums must contain either all str or all int"),
    ]:
        body = f"{HEAD}\n{text}\n@backend()\nasync def f(ctx: Context, v: list[A]) -> None: ...\n"
        found = [str(one) for one in read(body, "app.x", "src/app/x.py").mistakes]
        assert len(found) == 1, found
        assert words in found[0]
    good = "class A(Struct, kw_only=True):\n    a: int = 0\n    b: int\n"
    body = f"{HEAD}\n{good}\n@backend()\nasync def f(ctx: Context, v: list[A]) -> HttpResp[A] | None: ...\n"
    assert read(body, "app.x", "src/app/x.py").mistakes == []


def test_types_of_other_modules_are_followed():
    """As far as the application's own modules go; what comes from elsewhere is not judged."""
    texts = {
        "app.models": "from decimal import Decimal\nfrom typing import Annotated\nfrom msgspec import Meta\n"
        "Price = Annotated[Decimal, Meta(ge=0)]\n",
        "app": "",
    }
    for line, count in [
        ("from app.models import Price", 1),
        ("from .models import Price", 1),
        ("from far import Price", 0),
    ]:
        text = f"{HEAD}\n{line}\n@backend()\nasync def f(ctx: Context, v: Price) -> None: ...\n"
        found = read(text, "app.x", "src/app/x.py", texts.get).mistakes
        assert len([one for one in found if "Can only set `ge` on a numeric type" in str(one)]) == count, found


async def test_every_type_comes_back_or_is_refused(postgres):
    """The matrix."""
    accepted: list[Cell] = []
    refused: list[str] = []
    rows: list[tuple[Cell, str, str]] = []
    for number, (hint, scalar, wrapping) in enumerate(TYPES):
        if mistakes(hint):
            refused.append(hint)
            continue
        cell = Cell(hint, number)
        accepted.append(cell)
        for value in values_of(hint, scalar, wrapping):
            assert equal(cell.argument_and_result(value), value), (hint, value, cell.argument_and_result(value))
            rows.append((cell, value, cell.stored(value)))
    assert len(accepted) > 300
    assert len(refused) > 100
    connection = await asyncpg.connect(postgres.create_database())
    try:
        texts = await connection.fetchval("SELECT array_agg(x::jsonb::text ORDER BY n) FROM unnest($1::text[]) WITH "
                                          "ORDINALITY AS t(x, n)", [data for _, _, data in rows])  # fmt: skip
        for (cell, value, data), text in zip(rows, texts, strict=True):
            assert equal(cell.loaded(text), value), (cell.hint, value, data, text, cell.loaded(text))
            assert equal(cell.rows.encode(cell.rows.decode(Version("a", text, 1, "")), "a"), data), "one spelling"
            given = decode(value)
            wanted = cell.rows.filter({"v": given}).contains
            found = await connection.fetchval(
                "SELECT $1::jsonb @> $2::jsonb", text, msgspec.json.encode(wanted or {}).decode()
            )
            assert found, (cell.hint, value, text, wanted)
    finally:
        await connection.close()
    for cell in accepted:
        if not has_order(kind_of(get_type_hints(cell.row)["v"])):
            with pytest.raises(InvalidRequestError, match="cannot be ordered by 'v', whose type has no order"):
                cell.rows.order("v")
    described = document(
        Registry.of({cell.function.__name__: cell.function for cell in accepted}), Session("", "", "", False), rows=True
    )
    for render in (typescript.render, python.render):
        text = render(described)
        for cell in accepted:
            assert cell.function.__name__ in text


@pytest.mark.parametrize(("within", "right"), [("int", True), ("Row", True), ("complex", False)])
def test_a_generic_struct_is_read_with_what_it_is_used_for(within, right):
    """Its type variables are the application's; what stands for them counts."""
    code = f"""
from typing import Generic, TypeVar
from msgspec import Struct
from kontract import Context, backend

T = TypeVar("T")

class Row(Struct):
    n: int

class Page(Struct, Generic[T]):
    items: list[T]
    next: str | None = None

@backend()
async def f(ctx: Context, page: Page[{within}]) -> Page[{within}]: ...
"""
    mistakes = read(code, "app.m", "src/app/m.py", lambda _: None).mistakes
    assert (mistakes == []) is right, mistakes
