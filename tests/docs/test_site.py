"""The site is built of the pages without a warning, and asks nobody else for anything."""

import re
import subprocess
import sys

import pytest

from support.pages import DOCS


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as `make docs` builds it: each warning is an error, a link that leads nowhere is one."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "-d", folder / "trees"]
    done = subprocess.run([*command, DOCS, folder / "html"], capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_every_page_is_in_it(site):
    for path in DOCS.rglob("*.md"):
        if "_build" not in path.parts:
            assert (site / path.relative_to(DOCS)).with_suffix(".html").is_file()


def test_pages_ask_nobody_else_for_anything(site):
    """Scripts, styles, fonts and pictures are the site's own."""
    loaded = re.compile(r"""(?:<(?:script|img|iframe)\b[^>]*\bsrc|<link\b[^>]*\bhref)=["'](https?:)?//""")
    foreign = [page.name for page in site.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))]
    assert foreign == []
    imported = re.compile(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""")
    assert [one.name for one in site.rglob("*.css") if imported.search(one.read_text(encoding="utf-8"))] == []
