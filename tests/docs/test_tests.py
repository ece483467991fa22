"""The tests themselves: each can fail, and no part of them is run by nobody."""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest
import yaml

from kontract.cli.toolchain.checkout import Checkout
from support import parts

ROOT = Checkout.find().root
TESTS = ROOT / "tests"

OTHERWISE = {
    "cli/toolchain/test_ports.py::test_a_free_port_passes": "check_free raises",
    "contract/test_shared_state.py::test_shared_state": "each case asserts",
}
"""Tests without an assertion of their own, and how they fail."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Defined = Mapping[str, list[Function]]


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def can_fail(function: Function, defined: Defined, seen: frozenset[str] = frozenset()) -> bool:
    """Whether it asserts or raises, or calls by its name a function of the tests that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("raises", "fail", "warns", "check_output") or name.startswith("assert_"):
                return True
            if any(word.arg == "check" and ast.unparse(word.value) == "True" for word in node.keywords):
                return True
            if name not in seen and any(can_fail(one, defined, seen | {name}) for one in defined.get(name, ())):
                return True
    return False


def named(trees: Iterable[ast.AST]) -> Defined:
    found = defaultdict(list)
    for tree in trees:
        for one in functions(tree):
            found[one.name].append(one)
    return found


def test_each_test_can_fail():
    """One that ends with print() is a program, not a test."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob("*.py")}
    defined = named(trees.values())
    harmless = {
        f"{path.relative_to(TESTS).as_posix()}::{one.name}"
        for path, tree in trees.items()
        if path.name.startswith("test_")
        for one in functions(tree)
        if one.name.startswith("test_") and not can_fail(one, defined)
    }
    assert harmless == set(OTHERWISE)


@pytest.mark.parametrize(
    ("body", "can"),
    [
        ("print(f())", False),
        ("f()", False),
        ("subprocess.run(['x'], check=False)", False),
        ("assert f()", True),
        ("checked()", True),
        ("with pytest.raises(ValueError):\n        f()", True),
        ("subprocess.run(['x'], check=True)", True),
    ],
)
def test_what_can_fail_is_told_from_what_cannot(body, can):
    others = "def f():\n    return g()\ndef g():\n    return f()\ndef checked():\n    assert f()\n"
    defined = named([ast.parse(f"{others}def test_x():\n    {body}\n")])
    assert can_fail(defined["test_x"][0], defined) is can


def recipe(goal: str) -> str:
    """What `make` does for a goal, after what it depends on."""
    return (ROOT / "Makefile").read_text().partition(f"\n{goal}: ")[2].partition("\n")[2].partition("\n")[0]


def test_every_test_is_in_a_part_and_all_parts_are_run_before_anything_is_deployed():
    """`make test` and `make test-long` choose by one mark; the rest and the whole are not chosen by anything else."""
    assert recipe("test") == '\t@$(PYTEST) -m "not long" $(ARGS)'
    assert recipe("test-long") == "\t@$(PYTEST) -m long $(ARGS)"
    assert recipe("test-all") == "\t@$(PYTEST) $(ARGS)"
    ran = (ROOT / ".ci" / "run").read_text()
    assert "\nmake test-all " in ran or ("\nmake test " in ran and "\nmake test-long " in ran)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())["jobs"]
    assert "make test-all" in [step.get("run") for step in jobs["test"]["steps"]]


def test_the_parts_that_have_an_order_or_a_process_of_their_own_exist():
    """A file that is moved would leave its group."""
    paths = [path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")]
    for start in (*parts.LONGEST, *itertools.chain(*parts.SHARED.values())):
        assert [path for path in paths if path.startswith(start)], start


@pytest.mark.parametrize(("fixture", "shared"), [("worker", "the Worker"), ("laboratory", "the laboratory")])
def test_who_uses_what_takes_long_to_start_is_in_its_group(fixture, shared):
    """Or another process would start it once more."""
    used = set()
    for path in (TESTS / "workerd").glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(fixture in {arg.arg for arg in one.args.args} for one in functions(tree) if is_collected(one)):
            used.add(f"workerd/{path.name}")
    assert used == set(parts.SHARED[shared])


def is_collected(function: Function) -> bool:
    """Whether it is a test or a fixture."""
    return function.name.startswith("test_") or any("fixture" in ast.unparse(one) for one in function.decorator_list)
