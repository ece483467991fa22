"""The site is built of the pages without a warning, and asks nobody else for anything."""

import re
import subprocess
import sys

import pytest

import kontract
import kontract.client
from kontract import middlewares
from kontract.core.transaction.storage import Table
from support.pages import DOCS


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as `make docs` builds it: each warning is an error, a link that leads nowhere is one."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "-d", folder / "trees"]
    done = subprocess.run([*command, DOCS, folder / "html"], capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.long
def test_every_page_is_in_it(site):
    for path in DOCS.rglob("*.md"):
        if "_build" not in path.parts:
            assert (site / path.relative_to(DOCS)).with_suffix(".html").is_file()


@pytest.mark.long
def test_pages_ask_nobody_else_for_anything(site):
    """Scripts, styles, fonts and pictures are the site's own."""
    loaded = re.compile(r"""(?:<(?:script|img|iframe)\b[^>]*\bsrc|<link\b[^>]*\bhref)=["'](https?:)?//""")
    foreign = [page.name for page in site.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))]
    assert foreign == []
    imported = re.compile(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""")
    assert [one.name for one in site.rglob("*.css") if imported.search(one.read_text(encoding="utf-8"))] == []


@pytest.mark.long
def test_the_reference_has_every_public_name(site):
    """Whoever adds one writes a docstring, and it is found in the reference."""
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    there = set(re.findall(r'id="([\w.]+)"', page))
    names = {f"{module.__name__}.{name}" for module in (kontract, kontract.client) for name in module.__all__}
    ours = [name for name, one in vars(middlewares).items() if getattr(one, "__module__", "") == middlewares.__name__]
    names |= {f"{middlewares.__name__}.{name}" for name in ours}
    for fixture in ("api", "app", "worker", "kontract_environment"):
        names.add(f"kontract.testing.pytest.{fixture}")
    tables = [name for name in vars(Table) if not name.startswith("_") and callable(getattr(Table, name))]
    names |= {f"kontract.core.transaction.storage.Table.{name}" for name in tables}
    assert len(names) > 50
    assert sorted(name for name in names if name not in there) == []


def test_what_makes_the_site_is_typed():
    """As strictly as the product; a project made by `kontract new` has no docs/, so this is not among its types."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", *DOCS.glob("*.py")],
        cwd=DOCS.parent, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["tutorial", "how-to", "reference", "explanation"])
def test_an_index_links_each_of_its_pages_in_the_order_of_the_sidebar(folder):
    """On a code host there is no sidebar: the links are what readers have."""
    text = (DOCS / folder / "index.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([\w/-]+)\.md\)", text)
    listed = re.search(r"```\{toctree\}\n(?::.*\n)*\n(.*?)```", text, re.DOTALL)[1].split()
    assert linked == listed
    there = {path.stem for path in (DOCS / folder).glob("*.md")} - {"index"}
    assert {name for name in listed if "/" not in name} == there


@pytest.mark.long
def test_decisions_are_one_entry_of_the_sidebar(site):
    """Not twenty-seven beside the pages that people look for."""
    tree = re.search(r'<div class="sidebar-tree">.*?</ul>\s*</div>', (site / "index.html").read_text(), re.DOTALL)[0]
    deep = re.findall(r'toctree-l(\d)[^"]*"><a class="reference internal" href="explanation/decisions/(\w+)', tree)
    assert ("2", "README") in deep
    assert len(deep) > 25
    assert {level for level, name in deep if name != "README"} == {"3"}
