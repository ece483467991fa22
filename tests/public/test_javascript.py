"""The JavaScript client in Node: each file beside this one, run by Node's own test runner."""

import re
import subprocess
from pathlib import Path

import pytest

from kontract.cli.toolchain import node

HERE = Path(__file__).parent
VENDORED = "swagger-ui"
SOURCES = sorted(path for path in (HERE.parents[1] / "public").rglob("*.js") if VENDORED not in path.parts)


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_the_client(name):
    """Every case of the file passes, and there are some."""
    # Node would like package.json to say that .js files are modules; in public/ that is the page's business.
    options = ["--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "--test-isolation=none", "--test-timeout=60000"]
    command = [node.bin_folder() / "node", "--test", *options, HERE / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"^. pass ([0-9]+)$", done.stdout, re.MULTILINE)
    assert counted is not None, done.stdout
    assert int(counted[1]) > 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_modules_are_small_and_import_nothing_but_each_other(path):
    """No build step and no dependency: what a module imports is a file beside it."""
    text = path.read_text()
    imported = re.findall(r'(?:\bfrom |\bimport\(|^import )"([^"]+)"', text, re.MULTILINE)
    assert [name for name in imported if not name.startswith(("./", "../")) or not (path.parent / name).is_file()] == []
    assert len(text.splitlines()) <= 450
    assert [line for line in text.splitlines() if len(line) > 120] == []
