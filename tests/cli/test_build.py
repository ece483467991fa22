"""`kontract build`: what it finds, what it writes, and how it explains mistakes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from kontract.cli.build import render, scan
from kontract.cli.toolchain.problem import Problem


@pytest.fixture
def app(tmp_path: Path):
    """Write modules of an application below tmp_path/src/app."""

    def write(**modules: str) -> Path:
        folder = tmp_path / "src" / "app"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        return tmp_path / "src"

    return write


GOOD = """
    raise SystemExit("the application must be read, not run")

    @backend(name="renamed")
    async def one(ctx: Context, n: int = 1): ...

    @kontract.backend()
    async def two(ctx: Context): ...

    @table("things")
    class Thing(Struct): ...

    async def not_exposed(): ...
"""


def test_finds_functions_and_tables_without_running_the_application(app):
    """Names given in decorators win; undecorated functions stay private."""
    declared = scan(app(one=GOOD))
    assert [(d.kind, d.name, d.module, d.attribute) for d in declared] == [
        ("backend", "renamed", "app.one", "one"),
        ("backend", "two", "app.one", "two"),
        ("table", "things", "app.one", "Thing"),
    ]


def test_the_table_it_writes_is_python_and_always_the_same(app):
    """Equal sources give equal bytes, so a build that changes nothing restarts nothing."""
    source = app(one=GOOD)
    text = render(scan(source))
    assert text == render(scan(source))
    compile(text, "routes.py", "exec")
    assert '"two": Route("two", "app.one", "two", where="src/app/one.py:8", perm=7),' in text


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("@backend()\ndef f(ctx: Context): ...", 2, "async"),
        ("@backend()\nasync def f(ctx: Context, x): ...", 2, "parameter x of f has no type"),
        ("@backend()\nasync def f(*args: int): ...", 2, "* or **"),
        ("@backend\nasync def f(ctx: Context): ...", 2, "parentheses"),
        ("@backend()\nasync def f(ctx: Context, *, a: int = 1, b: int): ...", 2, "parameter b of f has no default"),
        ("@backend()\nasync def f(a: int = 1, *, ctx: Context, b: int): ...", 2, "parameter b of f has no default"),
        ("@backend(name=N)\nasync def f(ctx: Context): ...", 2, "string in quotes"),
        ("@table\nclass T: ...", 2, '@table("tasks")'),
        ("@table(NAME)\nclass T: ...", 2, "string in quotes"),
        ("def f(:\n  pass", 1, "invalid syntax"),
    ],
)
def test_mistakes_name_file_and_line(app, code, line, says):
    """Each mistake is a sentence with the place where it is."""
    with pytest.raises(Problem) as problem:
        scan(app(wrong=code))
    text = problem.value.render()
    assert f"src/app/wrong.py:{line}" in text
    assert says in text


def test_two_functions_of_one_name_are_refused_with_both_places(app):
    """A silent winner would answer calls that were meant for the other."""
    code = "@backend()\nasync def f(ctx: Context): ..."
    with pytest.raises(Problem) as problem:
        scan(app(a=code, b=code))
    assert "src/app/b.py:2" in problem.value.render()
    assert "src/app/a.py:2" in problem.value.render()


CHAINS = """
    @backend(egroup="api-v1")
    async def pay(ctx: Context): ...

    @backend(name="renamed")
    async def other(ctx: Context): ...

    @middleware(prefixurl="/rpc")
    async def first(ctx: Context, call_next): ...

    limit = middleware(egroup="api-v1")(rate_limit(100, per=60))

    @kontract.middleware(endpoints=["renamed", "pay"], egroup="api-v1")
    async def both(ctx: Context, call_next): ...

    @middleware(prefixurl="/rpc/ren")
    async def prefix(ctx: Context, call_next): ...

    @middleware(prefixurl="/call/p")
    async def named(ctx: Context, call_next): ...
"""


def test_chains_are_composed_in_the_order_of_definition(app):
    """File after file; a function has the middleware that everything it was given fits."""
    source = app(b=CHAINS, a='@middleware(endpoints=("pay",))\nasync def earlier(ctx: Context, call_next): ...')
    compiled: dict = {}
    exec(render(scan(source)), compiled)
    assert compiled["ROUTES"]["pay"].middleware == (
        "app.a:earlier",
        "app.b:first",
        "app.b:limit",
        "app.b:both",
        "app.b:named",
    )
    assert compiled["ROUTES"]["renamed"].middleware == ("app.b:first", "app.b:prefix")


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("@middleware\nasync def m(ctx, call_next): ...", 2, "needs parentheses"),
        ('@middleware(egroup="x")\ndef m(ctx, call_next): ...', 2, "async function"),
        ('@middleware(egroup="x")\nclass M: ...', 2, "async function"),
        ("@middleware()\nasync def m(ctx, call_next): ...", 2, "must say which functions it runs around"),
        ('@middleware("x")\nasync def m(ctx, call_next): ...', 2, "must say which functions it runs around"),
        ("@middleware(egroup=G)\nasync def m(ctx, call_next): ...", 2, "egroup= must be a string in quotes"),
        ("@middleware(prefixurl=P)\nasync def m(ctx, call_next): ...", 2, "prefixurl= must be a string in quotes"),
        ('@middleware(endpoints="pay")\nasync def m(ctx, call_next): ...', 2, "must be a list of strings"),
        ("@middleware(endpoints=[pay])\nasync def m(ctx, call_next): ...", 2, "must be a list of strings"),
        ('@middleware(endpoints=["x", 1])\nasync def m(ctx, call_next): ...', 2, "must be a list of strings"),
        ('\n@middleware(endpoints=["nope"])\nasync def m(ctx, call_next): ...', 3, "there is no function 'nope'"),
        ('a, b = middleware(egroup="x")(f)', 1, "middleware needs a name"),
        ("limit = middleware()(rate_limit(1))", 1, "must say which functions it runs around"),
        ('middleware(egroup="x")(rate_limit(1))', 1, "assigned to a name"),
        ('limit: Any = middleware(egroup="x")(rate_limit(1))', 1, "assigned to a name"),
        ('limits = [middleware(egroup="x")(rate_limit(1))]', 1, "assigned to a name"),
        ('if True:\n    limit = middleware(egroup="x")(rate_limit(1))', 2, "at the top of a module"),
        ('class C:\n    @middleware(egroup="x")\n    async def m(ctx, call_next): ...', 2, "at the top of a module"),
        ('guard = middleware(egroup="x")', 1, "assigned to a name"),
        ("from kontract import Context, middleware as mw", 1, "middleware is imported under another name, mw"),
        ("from kontract.core.model.declare import backend as b", 1, "backend is imported under another name, b"),
        (
            '@middleware(egroup="nobody")\nasync def m(ctx, call_next): ...',
            2,
            "this middleware fits no function",
        ),
        ('@middleware(prefixurl="/x")\nasync def m(ctx, call_next): ...', 2, "this middleware fits no function"),
        (
            '@middleware(prefixurl="/rpc/a", endpoints=["b"])\nasync def m(ctx, call_next): ...',
            2,
            "this middleware fits no function",
        ),
    ],
)
def test_mistakes_in_middleware_name_file_and_line(app, code, line, says):
    """Before anything is deployed without the guard that somebody meant to put there."""
    with pytest.raises(Problem) as problem:
        scan(app(wrong=code, right="@backend()\nasync def a(): ...\n@backend()\nasync def b(): ..."))
    text = problem.value.render()
    assert f"src/app/wrong.py:{line}:" in text
    assert says in text


PRELUDE = """
from typing import Annotated, Literal, TYPE_CHECKING
from msgspec import Meta, Struct
from kontract import Context, backend, perm, perms, primkey, table
if TYPE_CHECKING:
    from decimal import Decimal
"""


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("@backend()\nasync def f(ctx: Context, x: Lits): ...", 9, "Lits is not defined."),
        ("@backend()\nasync def f(ctx: Context) -> list[Tsak]: ...", 9, "what f returns: Tsak is not defined"),
        (
            "@backend()\nasync def f(x: 'lits[str]'): ...",
            9,
            "parameter x of f: lits is not defined. Did you mean list?",
        ),
        ("@backend()\nasync def f(x: 'list['): ...", 9, "is not valid Python"),
        ("@backend()\nasync def f(x: Annotated[int, Mta(ge=1)]): ...", 9, "Mta is not defined"),
        ("@backend()\nasync def f(x: Decimal): ...", 9, "only imported under `if TYPE_CHECKING:`"),
        ("@backend(perm=8)\nasync def f(ctx: Context): ...", 9, "perm= 8 is not a permission. Use perms.R__"),
        ("@backend(perm=perms.RW)\nasync def f(ctx: Context): ...", 9, "perm= perms.RW is not a permission"),
        ("@backend(perm=RIGHTS)\nasync def f(ctx: Context): ...", 9, "read, not run"),
        ("@backend(perms=perms.RW_)\nasync def f(ctx: Context): ...", 9, "@backend does not take perms=. It takes"),
        ('@backend("f")\nasync def f(ctx: Context): ...', 9, "by name"),
        ("@backend(**options)\nasync def f(ctx: Context): ...", 9, "** arguments"),
        ("@backend(ugroup=ADMIN)\nasync def f(ctx: Context): ...", 9, "ugroup= must be a string in quotes"),
        ("@backend(public=1)\nasync def f(ctx: Context): ...", 9, "public= must be True or False"),
        ('@backend(isolation="weak")\nasync def f(ctx: Context): ...', 9, "isolation= cannot be 'weak'. Use one of"),
        ("@backend(max_attempts=0)\nasync def f(ctx: Context): ...", 9, "max_attempts= must be a whole number above 0"),
        (
            "@backend(perm=perms.R__)\nasync def f(ctx: Context):\n    await ctx.storage.tasks.push({})",
            10,
            "f has perm=perms.R__ but writes: ctx.storage.tasks.push. Give it perm=perms.RW_",
        ),
        (
            '@backend(perm=perms.R__)\nasync def f(ctx: Context):\n    await ctx.storage["tasks"].delete("1")',
            10,
            "but writes",
        ),
        ('@backend(name="a b")\nasync def f(ctx: Context): ...', 9, "cannot be the name of a function"),
        ('@backend(name="\\ud800")\nasync def f(ctx: Context): ...', 9, "cannot be the name of a function"),
        ('@table("t")\nclass T(Struct):\n    id: str', 9, "table T marks no field as its id"),
        (
            '@table("t")\nclass T(Struct):\n    id: Annotated[str, primkey]\n    b: Annotated[str, primkey]',
            9,
            "marks 2 fields as its id",
        ),
        ('@table("t")\nclass T(Struct):\n    id: Annotated[str, primkey]\n    b: Dcimal', 11, "field b of T: Dcimal"),
        (
            '@table("t")\nclass T(Struct):\n    id: Annotated[str, primkey]\n    b: Annotated[str, perm(perms.NO)]',
            11,
            "perms.NO is not a permission",
        ),
        ('@table("t", rows="mine")\nclass T(Struct):\n    id: Annotated[str, primkey]', 9, "rows= cannot be 'mine'"),
        ('@table("t", streamed=False)\nclass T(Struct): ...', 9, "@table does not take streamed="),
    ],
)
def test_mistakes_in_types_and_permissions_name_file_and_line(app, code, line, says):
    """Before the first call meets them."""
    with pytest.raises(Problem) as problem:
        scan(app(wrong=f"{PRELUDE.lstrip()}\n\n{code}"))
    text = problem.value.render().replace("\nWhat to do: ", " ")
    assert f"src/app/wrong.py:{line}:" in text
    assert says in text


MANY = """
@backend(perms=1, perm=8, isolation="weak", max_attempts=0, public=1, name="a b", ugroup=G, egroup=G)
def many(a, b, c: Lits | Tsak, *args: int) -> datetime.datetme: ...

@backend
async def bare(a, b: Nothing): ...

@backend(perm=perms.R__)
async def writes(ctx: Context):
    await ctx.storage.tasks.push({})
    await ctx.storage.tasks.delete("1")

@table("t", rows="mine", stream=1, extra=2)
class T(Struct):
    a: Annotated[str, perm()]
    b: Nope = perm(perms.R__)

@middleware(egroup=G, prefixurl=P, endpoints=E, other=1)
def m(ctx, call_next): ...
"""


def test_all_mistakes_of_one_declaration_are_told(app):
    """Each once, and in one go: correcting one does not bring up the next."""
    with pytest.raises(Problem) as problem:
        scan(app(wrong=f"{PRELUDE.lstrip()}import datetime\n{MANY}"))
    told = problem.value.detail.splitlines()
    expected = [
        (9, "must be async"), (9, "does not take perms="), (9, "parameter a of many has no type"),
        (9, "parameter b of many has no type"), (9, "* or **"), (9, "perm= 8"), (9, "isolation= cannot be 'weak'"),
        (9, "max_attempts="), (9, "Lits is not"), (9, "Tsak is not"), (9, "datetime has no attribute datetme"),
        (9, "'a b' cannot"), (9, "egroup= must be"), (9, "ugroup= must be"), (9, "public= must be"),
        (12, "needs parentheses"), (12, "parameter a of bare has no type"), (12, "Nothing is not"),
        (16, "writes: ctx.storage.tasks.push"), (17, "writes: ctx.storage.tasks.delete"),
        (20, "does not take extra="), (21, "perm() takes one permission"), (22, "Nope is not"),
        (22, "has perm as its default"), (20, "marks no field"), (20, "rows= cannot be"), (20, "stream= must be"),
        (25, "async function"), (25, "does not take other="), (25, "prefixurl= must be"), (25, "egroup= must be"),
        (25, "endpoints= must be"),
    ]  # fmt: skip
    for line, says in expected:
        assert [one for one in told if f"wrong.py:{line}: " in one and says in one], (line, says)
    assert len(told) == len(expected), problem.value.detail


@pytest.mark.parametrize(
    ("imports", "used", "says"),
    [
        ("import datetime", "datetime.datetme", "datetime has no attribute datetme. Did you mean datetime?"),
        ("import datetime as d", "list[d.dat]", "datetime has no attribute dat. Did you mean date?"),
        ("import datetime", "'datetime.datetme | None'", "datetime has no attribute datetme"),
        ("import collections.abc", "collections.abc.Sequnce[int]", "collections.abc has no attribute Sequnce"),
        ("from collections import abc", "abc.Sequnce[int]", "collections.abc has no attribute Sequnce"),
        ("from datetime import datetme", "datetme", "datetime has no attribute datetme"),
        ("from datetime import datetime", "datetime.now_", "datetime.datetime has no attribute now_"),
        ("import msgspec", "Annotated[int, msgspec.Mta(ge=1)]", "msgspec has no attribute Mta. Did you mean Meta?"),
        ("from kontract import Contxt", "Contxt", "kontract has no attribute Contxt. Did you mean Context?"),
    ],
)
def test_what_a_known_module_does_not_have_is_said(app, imports, used, says):
    """With file and line, before the module is imported by a first call."""
    code = f"{PRELUDE.lstrip()}{imports}\n\n@backend()\nasync def f(x: {used}): ..."
    with pytest.raises(Problem) as problem:
        scan(app(wrong=code))
    assert "src/app/wrong.py:9: " in problem.value.what
    assert says in problem.value.what


KNOWN = """
import this_is_not_installed, antigravity, xml.etree.ElementTree as ET
import collections.abc
import datetime as d
import decimal
from app import other
from typing import Annotated
try:
    from typing import NobodyHasThis
except ImportError:
    NobodyHasThis = int
from kontract import backend

decimal = other

@backend()
async def f(
    a: this_is_not_installed.Any, b: antigravity.Fly, c: ET.Element, d: collections.abc.Sequence[int], e: d.date,
    f: decimal.Dcimal, g: other.Thing, h: NobodyHasThis, i: Annotated[int, (lambda d: d.nothing)],
): ...
"""


def test_what_may_be_there_is_not_refused(app, monkeypatch):
    """Packages that are not looked at, names of two meanings, submodules; nothing with an effect is imported."""
    import webbrowser

    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("import antigravity opens a browser"))
    assert len(scan(app(right=KNOWN))) == 1


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        (
            "class T(Struct):\n    id: Annotated[str, primkey]\n    b: Annotated[str, perm()]",
            9,
            "field b of T: perm()",
        ),
        ("class T(Struct):\n    id: Annotated[str, primkey]\n    b: Annotated[str, perm]", 9, "field b of T: perm()"),
        ("class T(Struct):\n    id: Annotated[str, primkey]\n    b: 'Annotated[str, perm()]'", 9, "takes one"),
        (
            "class T(Struct):\n    id: Annotated[str, primkey]\n    b: Annotated[str, perm(perms.R__, 1)]",
            9,
            "takes one permission",
        ),
        (
            "class T(Struct):\n    id: Annotated[str, primkey]\n    b: str = perm(perms.R__)",
            9,
            "Write it into the type: b: Annotated[str, perm(perms.R__)].",
        ),
        ("class T(Struct):\n    id: str = primkey", 8, "has primkey as its default"),
        ("class T(Base):\n    b: str", 7, "table T marks no field as its id"),
        ("class T(Middle):\n    b: str", 7, "table T marks no field as its id"),
        ("class T(WithId):\n    other: Annotated[str, primkey]", 7, "table T marks 2 fields as its id"),
        ("class T(WithId):\n    id: str", 7, "table T marks no field as its id"),
        ("class T(BadPerm, WithId):\n    b: str", 19, "field p of BadPerm: perm() takes one permission"),
    ],
)
def test_mistakes_in_fields_and_bases_are_said(app, code, line, says):
    """They were passed once, and the table then failed at its first use."""
    with pytest.raises(Problem) as problem:
        scan(app(wrong=f'{PRELUDE.lstrip()}@table("t")\n{code}\n' + "\n" * (14 - code.count("\n") - 8) + BASES))
    text = problem.value.render().replace("\nWhat to do: ", " ")
    assert f"src/app/wrong.py:{line}: " in text
    assert says in text


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        (
            "class C(Struct):\n    pins: list[Annotated[str, perm(perms._W_)]]",
            7,
            "field pins of C: perm() inside the type",
        ),
        ("class C(Struct):\n    pins: dict[str, Pin]", 7, "field pins of C: perm() inside the type"),
        ("class C(Struct):\n    pin: Box[Number] | None = None", 7, "field pin of C: perm() inside the type"),
        ("class C(Struct):\n    pin: 'list[Pin]'", 7, "field pin of C: perm() inside the type"),
        ("class C(Struct):\n    pin: Annotated[str, perm]", 7, "field pin of C: perm() takes one permission"),
        ("class C(Struct):\n    pin: str = perm(perms.R__)", 7, "has perm as its default"),
        ("@dataclass\nclass C:\n    pin: tuple[Pin, int]", 8, "field pin of C: perm() inside the type"),
        ("class C(TypedDict):\n    pin: Pin", 7, "field pin of C: perm() cannot be enforced"),
        (
            "class C(TypedDict):\n    pin: Required[Annotated[str, perm(perms.R__)]]",
            7,
            "cannot be enforced, because values",
        ),
        ("class D(TypedDict):\n    a: int\nclass C(D):\n    pin: Pin", 9, "field pin of C: perm() cannot be enforced"),
        ("C = TypedDict('C', {'pin': Pin})", 6, "'C': perm() cannot be enforced"),
        ("@backend()\nasync def f(ctx: Context, pin: Pin): ...", 7, "parameter pin of f: perm() can only mark a field"),
        ("@backend()\nasync def f(ctx: Context) -> list[Pin]: ...", 7, "what f returns: perm() can only mark a field"),
        ("@table('t')\nclass C(Struct):\n    id: Annotated[str, primkey, perm(perms._W_)]", 8, "is the row id"),
    ],
)
def test_a_permission_that_would_be_ignored_is_refused(app, code, line, says):
    """With file and line: nobody must believe that a field is hidden which is not."""
    aliases = "Pin = Annotated[str, perm(perms._W_)]\nNumber = NewType('Number', Pin)\n\n"
    head = f"from x import *\nfrom kontract import table\n{aliases}"
    with pytest.raises(Problem) as problem:
        scan(app(wrong=f"{head}{code}\n"))
    text = problem.value.render()
    assert f"src/app/wrong.py:{line}: " in text
    assert says in text


MARKED = """
from x import *

Pin = Annotated[str, perm(perms._W_)]
Number = NewType("Number", Pin)

class Card(Struct):
    pin: Pin
    number: Number | None = None
    old: Optional[Annotated[str, perm(perms.R__)]] = None
    tags: Annotated[list[str], perm(perms.R__)] = []
    word: Literal["perm"] = "perm"

@dataclass
class Purse:
    card: Card
    pin: "Pin" = ""

class Point(NamedTuple):
    x: Annotated[int, perm(0)]

class Plain(TypedDict):
    card: Card

@table("t")
class T(Struct):
    id: Annotated[str, primkey, perm(perms.R__)]

@backend()
async def f(ctx: Context, perm: Purse, cards: list[Card]) -> dict[str, Plain]: ...
"""


def test_permissions_are_taken_wherever_they_can_be_kept(app):
    """In every class with fields, through names of the module, and around a type that may be null."""
    assert len(scan(app(right=MARKED))) == 2


BASES = """
class Base(Struct):
    x: int = 0

class BadPerm(Struct):
    p: Annotated[str, perm()] = ""

class Middle(Base): ...

class WithId(Struct):
    id: Annotated[str, primkey]
"""

RIGHT_BASES = """
from elsewhere import Unknown
Id = Annotated[str, primkey]

class Base(Struct):
    id: Id

class Middle(Base): ...

@table("a")
class A(Middle):
    b: Annotated[str, perm(bits=perms.R__)] = ""

@table("b")
class B(Unknown):
    c: int

@table("c")
class C(Struct):
    id: "Annotated[str, primkey]"
"""


def test_an_id_may_come_from_a_base_or_by_another_name(app):
    """Of this module, where it can be seen; of what is imported nothing is claimed."""
    assert len(scan(app(right=PRELUDE + RIGHT_BASES))) == 3


GOOD_TYPES = """
from typing import Literal as L
match 1:
    case _:
        class Inner: ...
Map = dict[str, Inner]

@table("t", rows="own", stream=False)
class T(Struct):
    id: Annotated[str, primkey]
    seen: Annotated[str, perm(perms.R__ | perms.__X), Meta(pattern="|".join(x for x in "ab"))] = ""
    inner: Inner | None = None

@backend(perm=perms.R__, max_attempts=LIMIT, isolation="snapshot")
async def f(ctx: "Context", a: "T | None", b: L["No body"] = "No body", *, c: Map = {}) -> list[T]:
    seen = set()
    seen.pop()
    await ctx.storage.t.query().delete_me
    return ctx.cache.insert(1)
"""


def test_types_and_permissions_that_are_right_pass(app):
    """Sets have a pop, strings in a Literal are no types, quoted types are read."""
    (function, struct) = scan(app(right=PRELUDE + GOOD_TYPES))
    assert [(a.name, a.type, a.required) for a in function.arguments] == [
        ("a", "'T | None'", True),
        ("b", "L['No body']", False),
        ("c", "Map", False),
    ]
    assert (struct.rows, struct.stream) == ("own", False)


def test_all_mistakes_are_told_at_once(app):
    """Whoever has renamed something does not want to find its uses one by one."""
    one = "@backend()\ndef f(ctx: Context): ...\n@backend()\nasync def g(x): ..."
    with pytest.raises(Problem) as problem:
        scan(app(a=one, b=one.replace("def g", "def h"), c="def f(:"))
    text = problem.value.render()
    assert "5 mistakes" in text
    places = ("a.py:2:", "a.py:4:", "b.py:2:", "b.py:4:", "c.py:1:")
    assert all(f"src/app/{place}" in text for place in places)


def test_only_what_changed_is_read_again(app, tmp_path, monkeypatch):
    """By its text, not by its time; what was found in the others is what it was."""
    from kontract.cli import build

    kept = tmp_path / "state" / "build.json"
    read = []
    really = build.read
    monkeypatch.setattr(build, "read", lambda *given: read.append(given[2]) or really(*given))
    source = app(**{f"m{n}": f"@backend()\nasync def f{n}(x: int): ..." for n in range(9)}, wrong="def f(:")
    with pytest.raises(Problem) as first:
        scan(source, kept)
    assert len(read) == 10
    (source / "app" / "m3.py").touch()
    with pytest.raises(Problem) as again:
        scan(source, kept)
    assert (len(read), again.value.render()) == (10, first.value.render()), "a mistake is remembered, too"
    app(wrong="", m3="@backend()\nasync def other(x: int): ...")
    declared = scan(source, kept)
    assert read[10:] == ["src/app/m3.py", "src/app/wrong.py"]
    assert declared == scan(source)
    kept.write_text("{")
    assert scan(source, kept) == declared, "a cache that cannot be read is none"


def test_a_table_that_is_out_of_date_fails_the_check(app, tmp_path, monkeypatch, capsys):
    """`kontract build --check` writes nothing, and says what to do."""
    from kontract.cli.main import main

    (app(one=GOOD).parent / "wrangler.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--check"]) == 1
    assert "Run: kontract build" in capsys.readouterr().err
    assert not (tmp_path / "src" / "routes.py").exists()
    assert main(["build"]) == 0
    assert main(["build", "--check"]) == 0
    app(one=GOOD.replace('"renamed"', '"again"'))
    assert main(["build", "--check"]) == 1


def test_under_dev_a_mistake_becomes_the_answer(app, tmp_path, monkeypatch, capsys):
    """The table then has no functions, and says why; without `kontract dev` the build fails and writes nothing."""
    from kontract.cli.build import ANSWER
    from kontract.cli.main import main

    (app(one="@backend()\ndef f(x: int): ...").parent / "wrangler.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["build"]) == 1
    assert not (tmp_path / "src" / "routes.py").exists()
    monkeypatch.setenv(ANSWER, "1")
    assert main(["build"]) == 0
    assert "src/app/one.py:2" in capsys.readouterr().err
    compiled: dict = {}
    exec((tmp_path / "src" / "routes.py").read_text(), compiled)
    assert (compiled["ROUTES"], compiled["TABLES"]) == ({}, {})
    assert compiled["BROKEN"].startswith("src/app/one.py:2: a backend function must be async.")


@pytest.mark.parametrize("text", ["x = " + "-" * 5000 + "1", "x = 1" + " + 1" * 5000, "\0"])
def test_what_cannot_be_read_is_said(app, text):
    """However odd a file is, the build ends with a sentence that names it."""
    with pytest.raises(Problem) as problem:
        scan(app(odd=text))
    assert "src/app/odd.py:1: " in problem.value.render()


def test_what_is_no_file_is_passed_over(app, tmp_path):
    """A folder that is called like a module, and a link to nowhere (editors leave such locks)."""
    source = app(one=GOOD)
    (source / "app" / "folder.py").mkdir()
    (source / "app" / ".#one.py").symlink_to(tmp_path / "nowhere")
    assert len(scan(source)) == 3


def test_a_server_does_not_start_with_a_table_of_another_day(app, tmp_path, monkeypatch, capsys):
    """A guard that was added since would be missing, and nobody would notice."""
    from kontract.cli.main import main

    source = app(one=GOOD)
    (source / "routes.py").write_text(render(scan(source)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KONTRACT_SECRET", "c7d41f0a92be6835d1407ea9f3286bc50d9e71f8a4b36c2de580179fc46a3b92")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    app(one=GOOD + '\n    @middleware(egroup=None, prefixurl="/rpc")\n    async def guard(ctx, call_next): ...\n')
    assert main(["serve"]) == 1
    assert "src/routes.py does not match src/app" in capsys.readouterr().err


ORDERS = """
    from decimal import Decimal
    from typing import Annotated, Any
    from msgspec import Struct
    from kontract import Context, backend, primkey, table
    from app.models import Money

    @table("things")
    class Thing(Struct):
        id: Annotated[str, primkey]
        price: Decimal | None = None
        tags: list[str] = []
        cost: Money | None = None
        free: Any = None
        size: "Width | None" = None

    Width = int
"""

QUERIES = """
    from kontract import Context, backend

    @backend()
    async def f(ctx: Context, field: str) -> None:
        things = ctx.storage.things
        async for _ in ctx.storage.things.query({}, order_by="price"): ...
        async for _ in ctx.storage.things.query(order_by="tags"): ...
        async for _ in ctx.storage["things"].query(order_by="cost", limit=5): ...
        async for _ in ctx.storage.things.query(order_by="free"): ...
        async for _ in ctx.storage.things.query(order_by="size"): ...
        async for _ in ctx.storage.others.query(order_by="tags"): ...
        async for _ in ctx.storage.things.query(order_by=field): ...
"""


def test_an_order_that_cannot_be_right_is_refused_where_it_is_written(app):
    """By the type of the field, which another module may define; what is no literal is left to the call."""
    money = "from msgspec import Struct\nclass Money(Struct):\n    amount: int\n"
    with pytest.raises(Problem) as problem:
        scan(app(aa=QUERIES, models=money, tables=ORDERS))
    told = problem.value.render()
    assert "src/app/aa.py:8: rows of table 'things' cannot be ordered by 'tags', whose type has no order." in told
    assert "src/app/aa.py:9: rows of table 'things' cannot be ordered by 'cost'" in told
    assert told.count("cannot be ordered") == 2
