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
