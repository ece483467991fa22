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
    assert 'Route("two", "app.one", "two")' in text


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
"""


def test_chains_are_composed_in_the_order_of_definition(app):
    """File after file; a function has the middleware that everything it was given fits."""
    source = app(b=CHAINS, a='@middleware(endpoints=("pay",))\nasync def earlier(ctx: Context, call_next): ...')
    compiled: dict = {}
    exec(render(scan(source)), compiled)
    assert compiled["ROUTES"]["pay"].middleware == ("app.a:earlier", "app.b:first", "app.b:limit", "app.b:both")
    assert compiled["ROUTES"]["renamed"].middleware == ("app.b:first", "app.b:prefix")


@pytest.mark.parametrize(
    ("code", "line", "says"),
    [
        ("@middleware\nasync def m(ctx, call_next): ...", 2, "with parentheses"),
        ('@middleware(egroup="x")\ndef m(ctx, call_next): ...', 2, "async function"),
        ('@middleware(egroup="x")\nclass M: ...', 2, "async function"),
        ("@middleware()\nasync def m(ctx, call_next): ...", 2, "must say what it is for"),
        ('@middleware("x")\nasync def m(ctx, call_next): ...', 2, "must say what it is for"),
        ("@middleware(egroup=G)\nasync def m(ctx, call_next): ...", 2, "egroup= must be a string in quotes"),
        ("@middleware(prefixurl=P)\nasync def m(ctx, call_next): ...", 2, "prefixurl= must be a string in quotes"),
        ('@middleware(endpoints="pay")\nasync def m(ctx, call_next): ...', 2, "must be a list of strings"),
        ("@middleware(endpoints=[pay])\nasync def m(ctx, call_next): ...", 2, "must be a list of strings"),
        ('@middleware(endpoints=["x", 1])\nasync def m(ctx, call_next): ...', 2, "must be a list of strings"),
        ('\n@middleware(endpoints=["nope"])\nasync def m(ctx, call_next): ...', 3, "there is no function 'nope'"),
        ('a, b = middleware(egroup="x")(f)', 1, "middleware needs a name"),
        ("limit = middleware()(rate_limit(1))", 1, "must say what it is for"),
        ('middleware(egroup="x")(rate_limit(1))', 1, "with a name"),
        ('limit: Any = middleware(egroup="x")(rate_limit(1))', 1, "with a name"),
        ('limits = [middleware(egroup="x")(rate_limit(1))]', 1, "with a name"),
        ('if True:\n    limit = middleware(egroup="x")(rate_limit(1))', 2, "at the top of a module"),
        ('class C:\n    @middleware(egroup="x")\n    async def m(ctx, call_next): ...', 2, "at the top of a module"),
        ('guard = middleware(egroup="x")', 1, "with a name"),
        ("from kontract import Context, middleware as mw", 1, "middleware is imported as mw"),
        ("from kontract.core.declare import backend as b", 1, "backend is imported as b"),
        (
            '@middleware(egroup="nobody")\nasync def m(ctx, call_next): ...',
            2,
            "no function that this middleware is for",
        ),
        ('@middleware(prefixurl="/x")\nasync def m(ctx, call_next): ...', 2, "no function that this middleware is for"),
        (
            '@middleware(prefixurl="/rpc/a", endpoints=["b"])\nasync def m(ctx, call_next): ...',
            2,
            "no function that this middleware is for",
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
