"""The pages of the documentation: links lead somewhere, tables are those of the code, nothing is about one machine."""

import importlib.util
import re

import pytest

from kontract.core import limits
from support.pages import DOCS, ROOT, anchors, links, pages, prose

PAGES = pages()


def named(path):
    return path.relative_to(ROOT).as_posix()


def of_docs(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    """On a code host, too: the site's builder checks only what belongs to the site."""
    assert [str(path) for path, _ in links(page) if not path.exists()] == []
    assert [
        (named(path), anchor)
        for path, anchor in links(page)
        if anchor and path.suffix == ".md" and anchor not in anchors(path)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_has_one_title_and_whole_fences(page):
    """What is generated from it, and what tests execute of it, depend on both."""
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1
    assert re.match(r"(<!--.*?-->\s*)?# \S", text, re.DOTALL)
    assert "```" not in prose(page), "a fence that is not closed"
    assert "\t" not in text
    assert text.endswith("\n")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_nothing_is_about_one_machine(page):
    """Paths and hosts that only the author has."""
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|work|Users)/", text)
    assert not re.search(r"pypi\.org|pythonhosted|registry\.npmjs", text)


def test_tables_of_facts_are_those_of_the_code():
    """`make docs` brings them up to date."""
    assert [named(path) for path, _ in of_docs("facts").stale()] == []


def test_every_limit_is_in_the_reference():
    """With its reason: facts.py leaves out what has no docstring, or a value of several lines."""
    page = (DOCS / "reference" / "limits.md").read_text(encoding="utf-8")
    assert [name for name in vars(limits) if name.isupper() and f"| `{name}` |" not in page] == []
