"""Tests find optional programs in one place, and are skipped before anything is opened where one is missing."""

import ast
import os
import re
import subprocess
import sys

from kontract.cli.toolchain.checkout import Checkout
from support import programs

ROOT = Checkout.find().root

SKIPS = {
    "deploy/test_systemd.py": "a child process has found out what the kernel can do, and has ended",
}
"""Files with a skip that is no mark, and why nothing is open then."""

LOOK_UPS = {
    "support/programs.py": "the one place",
    "support/image.py": "the programs of the image that was built",
    "docs/test_optional_programs.py": "this",
}


def sources_of_tests():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield path.relative_to(ROOT / "tests").as_posix(), path.read_text(encoding="utf-8")


def calls(tree):
    """(dotted name, call) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_test_is_skipped_after_it_has_opened_something():
    """A mark is looked at before the first fixture. What a fixture has opened before a skip is closed by nobody."""
    names = {"pytest.skip", "pytest.importorskip", "pytest.xfail", "unittest.skip"}
    found = {path for path, text in sources_of_tests() for name, _ in calls(ast.parse(text)) if name in names}
    assert found == set(SKIPS)


def test_programs_are_looked_up_in_one_place():
    """Another look-up would not know that `.ci/run` hides them."""
    found = {path for path, text in sources_of_tests() if re.search(r"\bshutil\.which\b|import which\b", text)}
    assert found == set(LOOK_UPS)


def test_who_runs_an_optional_program_by_its_name_needs_it():
    """A command line that begins with `git`, in a file that does not say so, fails on a machine without."""
    wrong = []
    for path, text in sources_of_tests():
        if path in LOOK_UPS:
            continue
        said = {
            name for call in re.findall(r"need(?:s|ing)\(([^)]*)\)", text) for name in re.findall(r'"([^"]+)"', call)
        }
        for name, call in calls(ast.parse(text)):
            first = call.args[0] if call.args else None
            words = first.elts[:1] if isinstance(first, ast.List) else [first]
            run = [one.value for one in words if isinstance(one, ast.Constant) and one.value in programs.ON_PATH]
            if name.startswith(("subprocess.", "asyncio.create_subprocess", "os.exec")) and not set(run) <= said:
                wrong.append(f"{path}:{call.lineno}: {run[0]}")
    assert wrong == []


def test_who_starts_one_with_a_helper_needs_it():
    """The helpers assert that it is there; a test that does not need it would fail where it is not."""
    helpers = {"program", "pgbouncer", "proxy", "standby", "Browser"}
    wrong = []
    for path, text in sources_of_tests():
        if path.startswith("support/"):
            continue
        imported = {
            alias.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("support.")
            for alias in node.names
        }
        if imported & helpers and not re.search(r"need(?:s|ing)\(", text):
            wrong.append(path)
    assert wrong == []


def test_without_the_programs_every_test_of_them_is_skipped_before_its_fixtures():
    """As `.ci/run` does it for all tests, with the two files that once opened sockets before they were skipped."""
    files = [ROOT / "tests" / "deploy" / name for name in ("test_proxies.py", "test_pgbouncer.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "optional", "-p", "no:cacheprovider", *files],
        cwd=ROOT, env={**os.environ, programs.HIDDEN: "none"}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ skipped", done.stdout.splitlines()[-1]), done.stdout
    assert "no program `nginx`" in done.stdout


def test_ci_runs_what_can_be_skipped_without_the_programs():
    text = (ROOT / ".ci" / "run").read_text()
    assert f"{programs.HIDDEN}=none .venv/bin/pytest -n 0 -q -m optional" in text
