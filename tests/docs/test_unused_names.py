"""Code that nothing uses goes: `make lint` finds its names, and the list of exceptions is as short as it can be."""

import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root
VULTURE = Path(sys.executable).with_name("vulture")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["vulture"]


def vulture(*arguments):
    done = subprocess.run([VULTURE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 3), done.stderr  # 3: something was found
    return [line.split("'")[1] for line in done.stdout.splitlines()]


def test_every_exception_is_needed():
    """One whose name is used, or gone, hides the next that is not."""
    (found := vulture("--config", "/dev/null", *SETTINGS["paths"], "--min-confidence", "60")).sort()
    assert [name for name in SETTINGS["ignore_names"] if not any(fnmatchcase(one, name) for one in found)] == []
    allowed = [one for one in found if any(fnmatchcase(one, name) for name in SETTINGS["ignore_names"])]
    assert sorted(allowed) == found, "and nothing else is found: what `make lint` says"


def test_a_name_that_nothing_uses_is_found(tmp_path):
    """Also one whose only user is a test: tests are not among the paths."""
    (tmp_path / "module.py").write_text(
        "LEFT_OVER_HERE = 1\n\ndef forgotten_here():\n    return _used()\n\ndef _used():\n    return 1\n"
    )
    assert vulture(*SETTINGS["paths"], tmp_path) == ["LEFT_OVER_HERE", "forgotten_here"]
    assert not [path for path in SETTINGS["paths"] if path.startswith("tests")]


def test_lint_runs_it():
    done = subprocess.run(["make", "--dry-run", "lint"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".venv/bin/vulture" in done.stdout.splitlines()
