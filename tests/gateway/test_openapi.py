"""GET /openapi.json: a valid document, that tells each caller what it may call and no field that it may not see."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from jsonschema import Draft202012Validator
from msgspec import Meta, Struct, defstruct
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from kontract import Context, HttpError, HttpResp, backend, perm, perms, primkey, table
from kontract.core.model.signatures import Passing
from kontract.gateway import openapi, raystream, stream
from kontract.gateway.context import Session
from kontract.gateway.openapi import Documents, document
from kontract.gateway.routes import Registry
from routes import ROUTES, TABLES
from support.api import apis


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Cat(Struct, tag=True):
    lives: int


class Dog(Struct, tag=True):
    name: str


class Tree(Struct):
    value: int
    children: list[Tree] = []


@table("people")
class Person(Struct):
    """Somebody."""

    id: Annotated[str, primkey]
    name: str
    seen: Annotated[str, perm(perms.R__)] = ""
    password: Annotated[str, perm(perms._W_)] = ""


class Team(Struct):
    people: list[Person]


@backend(perm=perms.RW_)
async def save(ctx: Context, person: Person, *, colour: Colour = Colour.RED, at: datetime | None = None) -> Person:
    """Save somebody.

    Whoever is there already is replaced.
    """
    raise NotImplementedError


@backend(public=True, perm=perms.R__)
async def odd(
    ctx: Context,
    pet: Cat | Dog,
    pair: tuple[int, str],
    tree: Tree,
    choice: Literal["a", "b"],
    by_name: dict[str, list[float]],
    team: Team,
    anything: Any = None,
    count: Annotated[int, Meta(ge=1, le=9)] = 3,
) -> dict[str, Tree | None]:
    raise NotImplementedError


@backend(ugroup="admin", perm=perms.RW_)
async def make(ctx: Context) -> HttpResp:
    """Make something."""
    raise NotImplementedError


@backend(perm=perms.R__)
async def nothing(ctx: Context):
    raise NotImplementedError


NASTY = Registry.of({each.__name__: each for each in (save, odd, make, nothing)}, [Person])
DEMO = Registry(ROUTES, TABLES)
ADMIN = Session("s", "tenant-1", "ann", is_anonymous=False, ugroups=frozenset({"admin"}))
ANN = Session("s", "tenant-1", "ann", is_anonymous=False)
READER = Session("s", "tenant-1", "ann", is_anonymous=False, perm=perms.R__)


class Error(Struct):
    words: str


def test_a_struct_may_be_called_like_the_schema_of_errors():
    """Both are told, and what a call fails with is still the gateway's."""

    @backend(public=True)
    async def fail(ctx, error):
        raise NotImplementedError

    fail.__annotations__ = {"ctx": Context, "error": Error, "return": Error}
    made = document(Registry.of({"fail": fail}), None)
    validate(json.loads(json.dumps(made)), cls=OpenAPIV31SpecValidator)
    responses = made["paths"]["/rpc/fail"]["post"]["responses"]

    def properties(response, *path):
        schema = responses[response]["content"]["application/json"]["schema"]
        for part in path:
            schema = schema[part]
        return made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"].keys()

    assert properties("200", "properties", "result") == {"words"}
    assert properties("500") == {"error", "message", "request_id", "details"}


def functions(session, registry=NASTY):
    return [path.removeprefix("/rpc/") for path in document(registry, session)["paths"] if path.startswith("/rpc/")]


@pytest.mark.parametrize("registry", [NASTY, DEMO], ids=["nasty", "demo"])
@pytest.mark.parametrize("session", [None, ADMIN, READER], ids=["nobody", "admin", "reader"])
def test_it_is_openapi(registry, session):
    """By the standard's own schema, with no reference to what is not there."""
    made = json.loads(json.dumps(document(registry, session)))
    validate(made, cls=OpenAPIV31SpecValidator)
    for schema in made["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    references = set(references_in(made))
    assert references <= {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    assert document(registry, session) == document(registry, session)


def references_in(value):
    if isinstance(value, dict):
        yield from (value[key] for key in value if key == "$ref")
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from references_in(item)


def test_each_caller_is_told_what_it_may_call():
    """Without a token: public functions alone; with one: those whose group and permission it has."""
    assert functions(None) == ["odd"]
    assert functions(ADMIN) == ["make", "nothing", "odd", "save"]
    assert functions(ANN) == ["nothing", "odd", "save"]
    assert functions(READER) == ["nothing", "odd"]
    assert functions(None, DEMO) == []
    assert len(functions(ANN, DEMO)) == len(ROUTES)


def test_fields_are_told_to_those_who_may_see_or_set_them():
    """`password` is sent and never shown, `seen` shown and never sent; also within other structs."""
    schemas = document(NASTY, ADMIN)["components"]["schemas"]
    assert schemas["Person"]["properties"].keys() == {"id", "name", "seen"}
    assert schemas["PersonInput"]["properties"].keys() == {"id", "name", "password"}
    assert schemas["TeamInput"]["properties"]["people"]["items"] == {"$ref": "#/components/schemas/PersonInput"}
    public = document(NASTY, None)["components"]["schemas"]
    assert public["PersonInput"]["properties"].keys() == {"id", "name", "password"}


@table("secrets")
class Secret(Struct):
    id: Annotated[str, primkey]
    password: Annotated[str, perm(perms._W_)] = ""


class Card(Struct):
    """Of no table."""

    brand: str
    number: Annotated[str, perm(perms._W_)] = ""


@dataclasses.dataclass
class Purse:
    coins: int
    pin: Annotated[str, perm(perms._W_)] = ""


class Place(Struct, array_like=True, tag="place"):
    x: int
    pin: Annotated[str, perm(perms._W_)] = ""


T = TypeVar("T")


@table("boxes")
class Box(Struct, Generic[T]):
    id: Annotated[str, primkey]
    content: T
    hidden: Annotated[str, perm(perms._W_)] = ""


def item(module, **fields):
    """A struct called Item, of a module of its own."""
    return table(module)(defstruct("Item", [("id", Annotated[str, primkey]), *fields.items()], module=module))


@pytest.mark.parametrize(
    ("sent", "shown", "fields_sent", "fields_shown"),
    [
        (Secret, Secret, {"id", "password"}, {"id"}),
        (Card, Card, {"brand", "number"}, {"brand"}),
        (Purse, Purse, {"coins", "pin"}, {"coins"}),
        (Box[int], Box[int], {"id", "content", "hidden"}, {"id", "content"}),
        (
            item("one", a=int, x=Annotated[str, perm(perms._W_)]),
            item("two", b=int, y=Annotated[str, perm(perms._W_)]),
            {"id", "a", "x"},
            {"id", "b"},
        ),
    ],
    ids=["only sent", "of no table", "dataclass", "generic", "two of one name"],
)
def test_what_is_sent_and_what_is_shown_are_told_apart(sent, shown, fields_sent, fields_shown):
    """Whatever the structs are called."""

    @backend(public=True)
    async def put(ctx, value):
        raise NotImplementedError

    put.__annotations__ = {"ctx": Context, "value": sent, "return": list[shown]}
    made = document(Registry.of({"put": put}), None)
    post = made["paths"]["/call/put"]["post"]
    [argument] = post["requestBody"]["content"]["application/json"]["schema"]["properties"].values()
    result = post["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["result"]
    schemas = made["components"]["schemas"]
    names = argument["allOf"][0]["$ref"].rpartition("/")[2], result["items"]["$ref"].rpartition("/")[2]
    assert schemas[names[0]]["properties"].keys() == fields_sent
    assert schemas[names[1]]["properties"].keys() == fields_shown


def test_what_is_hidden_in_an_array_is_null():
    """As it is answered: the other fields keep their places."""

    @backend(public=True)
    async def where(ctx: Context) -> Place: ...

    made = document(Registry.of({"where": where}), None)["components"]["schemas"]["Place"]
    assert [item.get("type", item.get("enum")) for item in made["prefixItems"]] == [["place"], "integer", "null"]


def test_title_and_version_come_from_one_place(monkeypatch):
    """The constants, and nothing written beside them."""
    monkeypatch.setattr(openapi, "TITLE", "Mine")
    monkeypatch.setattr(openapi, "VERSION", "7")
    info = document(NASTY, None)["info"]
    assert (info["title"], info["version"]) == ("Mine", "7")


def test_arguments_are_an_array_in_their_order():
    """Names, types, limits and defaults; as many as are required, at most as many as there are."""
    post = document(NASTY, ADMIN)["paths"]["/rpc/odd"]["post"]
    body = post["requestBody"]["content"]["application/json"]["schema"]
    assert body["description"] == "In this order: pet, pair, tree, choice, by_name, team, anything, count."
    assert (body["minItems"], body["maxItems"], "items" in body) == (6, 8, False)
    assert body["prefixItems"][7] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 3}
    assert body["prefixItems"][3]["enum"] == ["a", "b"]
    post = document(NASTY, ANN)["paths"]["/rpc/save"]["post"]
    array, single = post["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert array["prefixItems"][1]["default"] == "red"
    assert single["allOf"] == [{"$ref": "#/components/schemas/PersonInput"}]


def test_the_body_that_it_describes_is_what_calls_take():
    """What the schema accepts and refuses is what the signature accepts and refuses."""
    made = document(NASTY, ADMIN)
    schema = made["paths"]["/rpc/odd"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": made["components"]})
    good = [{"type": "Cat", "lives": 9}, [1, "x"], {"value": 1, "children": [{"value": 2}]}, "a", {"n": [1.5]},
            {"people": [{"id": "1", "name": "Ann", "password": "x"}]}]  # fmt: skip
    bound = NASTY.endpoint("odd").signature
    cases = [
        (good, True),
        ([*good, None, 9], True),
        ([*good, None, 10], False),
        ([*good, None, 9, 1], False),
        (good[:5], False),
        ([{"type": "Cow"}, *good[1:]], False),
        ([good[0], [1], *good[2:]], False),
        ([*good[:3], "c", *good[4:]], False),
    ]
    for arguments, right in cases:
        assert validator.is_valid(arguments) is right, arguments
        try:
            bound.read(json.dumps(arguments).encode()).take(None)
        except Exception:  # noqa: BLE001 - whatever a call is refused with
            assert not right, arguments
        else:
            assert right, arguments


def test_the_object_that_it_describes_is_what_calls_take():
    """By name: as by position, and an unknown or missing name is refused by both."""
    made = document(NASTY, ADMIN)
    schema = made["paths"]["/call/odd"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == NASTY.endpoint("odd").signature.parameters
    validator = Draft202012Validator({**schema, "components": made["components"]})
    good = {"pet": {"type": "Cat", "lives": 9}, "pair": [1, "x"], "tree": {"value": 1.0}, "choice": "a",
            "by_name": {"n": [1.5]}, "team": {"people": [{"id": "1", "name": "Ann", "password": "x"}]}}  # fmt: skip
    cases = [
        (good, True),
        (good | {"count": 9, "anything": [{}]}, True),
        (good | {"count": 10}, False),
        (good | {"other": 1}, False),
        ({name: value for name, value in good.items() if name != "tree"}, False),
        (good | {"pair": [1, "x", 2]}, False),
        ([good["pet"]], False),
    ]
    for arguments, right in cases:
        assert validator.is_valid(arguments) is right, arguments
        assert takes(NASTY, "odd", arguments, Passing.BY_NAME) is right, arguments


def takes(registry, function, arguments, passing) -> bool:
    try:
        registry.endpoint(function).signature.read(json.dumps(arguments).encode(), passing).take(None)
    except HttpError:
        return False
    return True


class Row(Struct, array_like=True):
    x: int


class Many(Struct):
    rows: list[Row]


@pytest.mark.parametrize(
    ("hint", "default"),
    [
        (int, None), (str | None, None), (list[int], None), (list[int] | int, None), (list[int] | None, 0),
        (tuple[int, str], None), (Row, None), (Row | None, None), (Many, None), (Any, None), (Any, 0),
        (dict[str, int], 0), (Literal["a", 1] | None, None), (set[int] | bool, 0), (Colour, 0),
    ],
)  # fmt: skip
def test_a_single_value_is_described_where_it_is_taken(hint, default):
    """In place of the array of one argument: whatever is no array, and nothing else."""

    async def put(value): ...

    put.__annotations__ = {"value": hint}
    put.__defaults__ = (default,) if default is not None else None
    registry = Registry.of({"put": backend(public=True)(put)})
    made = document(registry, None)
    schema = made["paths"]["/rpc/put"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": made["components"]})
    values = [0, 1, "a", "b", "red", True, None, {}, {"a": 1}, {"a": "x"}, {"rows": []}, {"rows": [[1]]},
              [], [0], ["a"], [[]], [[1]], [[1, "x"]],
              [None], [{"a": 1}], [{"rows": [[1]]}], [0, 0], [True]]  # fmt: skip
    for value in values:
        assert validator.is_valid(value) is takes(registry, "put", value, Passing.BY_POSITION), value


def test_nothing_in_it_stops_a_generator():
    """No `items: false`, no array without items, no enum of two types, no title that two classes would be called by."""

    @backend(public=True)
    async def put(a, b, c):
        raise NotImplementedError

    put.__annotations__ = {"a": tuple[int, str], "b": tuple[()], "c": Literal["x", 1] | None, "return": Person}
    made = document(Registry.of({"put": put, "save": save}, [Person]), ADMIN)

    def parts(value):
        if isinstance(value, dict):
            yield value
            value = list(value.values())
        for one in value if isinstance(value, list) else ():
            yield from parts(one)

    for part in parts(made):
        assert part.get("items") is not False
        if part.get("type") == "array":
            assert "items" in part or "prefixItems" in part
        if isinstance(part.get("enum"), list):
            assert len({type(value) for value in part["enum"] if value is not None}) == 1
    titles = [schema["title"] for schema in made["components"]["schemas"].values()]
    assert len(set(titles)) == len(titles)


def test_calls_by_name_come_first():
    """Readers and generators take the first for the way that is meant."""
    paths = list(document(NASTY, ADMIN)["paths"])
    names = sorted(("save", "odd", "make", "nothing"))
    assert paths[: 2 * len(names)] == [f"/call/{name}" for name in names] + [f"/rpc/{name}" for name in names]
    operations = [item["post"] for path, item in document(NASTY, ADMIN)["paths"].items() if path.startswith("/call/")]
    assert [operation["operationId"] for operation in operations] == names


def test_permissions_errors_and_words_are_told():
    """Descriptions come from docstrings, statuses from the codes that a call can end with."""
    paths = document(NASTY, ADMIN)["paths"]
    saving, reading, making = (paths[f"/rpc/{name}"]["post"] for name in ("save", "odd", "make"))
    assert (saving["summary"], saving["description"]) == ("Save somebody.", "Whoever is there already is replaced.")
    assert (saving["x-kontract-perm"], making["x-kontract-ugroup"]) == ("RW_", "admin")
    assert {"400", "401", "403", "404", "409", "413", "429", "500", "503", "504"} <= saving["responses"].keys()
    assert "409" not in reading["responses"]
    assert reading["security"] == [{}, {"token": []}]
    assert [parameter["name"] for parameter in saving["parameters"]] == ["Idempotency-Key"]
    assert reading["parameters"] == []
    assert "X-Kontract-Txid" in saving["responses"]["200"]["headers"]
    assert "2XX" in making["responses"]


def test_it_is_sent_once():
    """The caller's copy is asked about with its ETag; that of another caller is another one."""
    documents = Documents(DEMO)
    first = documents.respond(ANN, None)
    assert (first.status, first.headers["Cache-Control"]) == (200, "private, no-cache")
    tag = first.headers["ETag"]
    assert (documents.respond(ANN, f'"other", {tag}').status, documents.respond(ANN, tag).body) == (304, b"")
    assert documents.respond(None, tag).status == 200


@backend(public=True, perm=perms.RW_)
async def leave(ctx: Context, words: str) -> None:
    """Anybody may leave a word."""


async def test_the_idempotency_key_that_it_describes_is_what_calls_take(postgres):
    """Without a token it has to be long; the schema and the gateway agree on each length."""
    paths = document(Registry.of({"leave": leave, "save": save}), ADMIN)["paths"]
    public, other = (
        Draft202012Validator(paths[f"/rpc/{name}"]["post"]["parameters"][0]["schema"]) for name in ("leave", "save")
    )
    keys = ["", "a", "a" * 31, "a" * 32, "a" * 255, "a" * 256, "a b" * 20, "ä" * 40]
    async with apis(postgres, [leave]) as made:
        api = made()
        for key in keys:
            nobody = await api.send("POST", "/rpc/leave", b'["x"]', authorization=None, idempotency_key=key)
            somebody = await api.send("POST", "/rpc/leave", b'["x"]', idempotency_key=key)
            assert (nobody.status < 300) is public.is_valid(key), key
            assert (somebody.status < 300) is other.is_valid(key), key


async def test_every_path_of_the_gateway_is_told(postgres):
    """And none that it does not have: each answers to the method that stands there, and to no other."""
    own = {path: set(methods) for path, methods in document(NASTY, None)["paths"].items() if path[:5] != "/rpc/"}
    assert own.keys() >= {*raystream.PATHS, stream.PATH, stream.TICKET, "/openapi.json", "/health", "/ready"}
    async with apis(postgres, [odd]) as made:
        api = made()
        told = json.loads((await api.send("POST", "/auth/nothing", b"")).body)["message"].rpartition(" has ")[2]
        assert {path for path in own if path.startswith("/auth/")} == {f"/auth/{name}" for name in told.split(", ")}
        for path, methods in own.items():
            for method in ("GET", "POST"):
                answer = await api.send(method, path, b"" if method == "POST" else None)
                assert answer.status != 404, path
                assert (answer.status == 405) is (method.lower() not in methods), (path, method)


async def test_the_gateway_answers_with_it(postgres):
    """With a token and without, and to GET alone."""
    async with apis(postgres, [save, odd, make, nothing], [Person]) as made:
        api = made()
        nobody = await api.send("GET", "/openapi.json", authorization=None)
        known = await api.send("GET", "/openapi.json")
        for answer, names in ((nobody, {"odd"}), (known, {"odd", "nothing", "save"})):
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
            paths = json.loads(answer.body)["paths"]
            assert {path.removeprefix("/rpc/") for path in paths if path.startswith("/rpc/")} >= names
        again = await api.send("GET", "/openapi.json", if_none_match=known.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        assert (await api.send("GET", "/openapi.json", authorization="Bearer x")).status == 401
        assert (await api.send("POST", "/openapi.json", b"")).status == 405
