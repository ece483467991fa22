"""Every type that `kontract build` accepts comes back as it was, wherever it stands; every other one is refused.

The cells are made, not listed: each scalar in each wrapping, as argument, result, field of a row, filter, order, and in
both typed clients: their compilers let the calls through, and the Python ones are carried out. Rows go through
PostgreSQL's jsonb.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import types
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import asyncpg
import msgspec
import pytest

from cli.test_generate import mypy, tsc
from kontract import Context
from kontract.cli.build.module import read
from kontract.cli.generate import python, typescript
from kontract.client.transport import Answer
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
        bound = self.signature.read(f"[{value}]".encode()).take(None)
        body = self.result.response(bound["v"]).body.decode()
        return body.removeprefix('{"result":').removesuffix("}")

    def stored(self, value: str) -> str:
        bound = self.signature.read(f"[{value}]".encode()).take(None)
        return self.rows.encode(self.row(id="a", v=bound["v"]), "a")

    def loaded(self, data: str) -> str:
        row = self.rows.decode(Version("a", data, 1, ""))
        return self.result.response(row.v).body.decode().removeprefix('{"result":').removesuffix("}")


@pytest.fixture(scope="module")
def cells() -> dict[str, tuple[Cell, list[str]]]:
    """Every type that is accepted, by the name of its function, with values as JSON."""
    found = {}
    for number, (hint, scalar, wrapping) in enumerate(TYPES):
        if not mistakes(hint):
            found[f"f{number}"] = Cell(hint, number), values_of(hint, scalar, wrapping)
    assert 300 < len(found) < len(TYPES) - 100
    return found


@pytest.fixture(scope="module")
def described(cells) -> dict[str, Any]:
    """The OpenAPI document, from which clients are generated."""
    registry = Registry.of({name: cell.function for name, (cell, _) in cells.items()})
    return document(registry, Session("", "", "", False), rows=True)


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


async def test_every_type_comes_back_or_is_refused(postgres, cells):
    """The matrix."""
    rows: list[tuple[Cell, str, str]] = []
    for cell, values in cells.values():
        for value in values:
            assert equal(cell.argument_and_result(value), value), (cell.hint, value, cell.argument_and_result(value))
            rows.append((cell, value, cell.stored(value)))
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
    for cell, _ in cells.values():
        if not has_order(kind_of(get_type_hints(cell.row)["v"])):
            with pytest.raises(InvalidRequestError, match="cannot be ordered by 'v', whose type has no order"):
                cell.rows.order("v")


class InProcess:
    """Carries calls of the Python client to the cells, as the gateway does."""

    def __init__(self, cells: Mapping[str, tuple[Cell, list[str]]]) -> None:
        self._cells = cells

    async def send(self, function: str, headers: Mapping[str, str], body: bytes) -> Answer:
        cell, _ = self._cells[function]
        response = cell.result.response(cell.signature.read(body).take(None)["v"])
        return Answer(response.status, response.headers, response.body)


async def test_python_calls_are_typed_and_come_back(cells, described, tmp_path: Path, monkeypatch):
    """What a call returns can be given to the next one, also where some of its fields may be left out."""
    (tmp_path / "backend.py").write_text(python.render(described))
    calls = ["from backend import Api", "", "async def use(api: Api) -> None:"]
    for name, (cell, values) in cells.items():
        returns = get_type_hints(cell.function)["return"] is not type(None)
        for at, value in enumerate(values):
            call = f"await api.{name}({json.loads(value)!r})"
            got = f"{name}_{at}"
            calls += [f"    {got} = {call}", f"    await api.{name}({got})"] if returns else [f"    {call}"]
    (tmp_path / "calls.py").write_text("\n".join([*calls, ""]))
    assert mypy(tmp_path, "backend.py", "calls.py").startswith("Success")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "backend", raising=False)
    api = importlib.import_module("backend").Api("http://127.0.0.1", transport=InProcess(cells))
    monkeypatch.delitem(sys.modules, "backend")
    for name, (cell, values) in cells.items():
        for value in values:
            came = await getattr(api, name)(json.loads(value))
            assert repr(came) == repr(json.loads(value)), (cell.hint, value, came)


def test_typescript_calls_are_typed(cells, described, checkout, tmp_path: Path):
    """As those of Python."""
    for name in ("kontract.js", "kontract.d.ts"):
        shutil.copy(checkout.root / "public" / name, tmp_path)
    shutil.copytree(checkout.root / "public" / "kontract", tmp_path / "kontract")
    (tmp_path / "api.ts").write_text(typescript.render(described))
    calls = ['import { connect } from "./api.js";', "const api = connect();"]
    for name, (_, values) in cells.items():
        for at, value in enumerate(values):
            got = f"{name}_{at}"
            calls += [f"const {got} = await api.{name}({value});", f"await api.{name}({got});"]
    (tmp_path / "calls.ts").write_text("\n".join([*calls, "export {};", ""]))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    assert tsc(checkout, tmp_path, "calls.ts") == ""


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
