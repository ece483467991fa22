"""The API page at /docs: the functions that one may call, their types, and calls made from it."""

import itertools
import json
from pathlib import Path

import pytest

import support
from kontract.cli.toolchain.checkout import Checkout
from kontract.core.model.declare import BACKEND
from routes import ROUTES
from support.apps import large
from support.serving import running_server

PUBLIC = Checkout.find().root / "public"


def names(tab):
    return tab.texts(".function:not([hidden]) h3")


def signed_up(tab):
    tab.wait("document.querySelector('#state').textContent.startsWith('0 functions may be called without a token')")
    tab.click("#anonymous")
    tab.wait("document.querySelectorAll('.function').length > 0")


def test_it_shows_what_one_may_call_and_calls_it(site, visitor):
    """Nothing without a token; with one every function, with its arguments, and a call that is answered."""
    tab = visitor.tab(f"{site.url}/docs")
    signed_up(tab)

    assert sorted(names(tab)) == sorted(ROUTES)
    article = "article[aria-labelledby=create_task]"
    assert "Create a task." in tab.text(article)
    assert tab.texts(f"{article} tbody tr")[0].split("\t") == [
        "title", "string", "characters at least 1, characters at most 200",
    ]  # fmt: skip
    assert tab.texts("article[aria-labelledby=type-Task] tbody tr th") == ["id", "title", "done", "created_by"]

    tab.run("document.querySelector('#try-create_task').closest('details').open = true")
    tab.run("""document.querySelector('#try-create_task').value = '{"title": "From the page"}'""")
    tab.click(f"{article} form button")
    tab.wait(f"!document.querySelector('{article} pre').hidden")
    assert json.loads(tab.text(f"{article} pre"))["result"]["title"] == "From the page"
    assert tab.text(f"{article} [aria-live]").startswith("Status 200 · coord;dur=")
    assert "commit " in tab.text(f"{article} [aria-live]")


@pytest.fixture(scope="module")
def large_site(browser, checkout, postgres, reaper, tmp_path_factory):
    """The demo and a larger application. (It asks for the browser first: without one there is no need to start it.)"""
    del browser
    module = Path(support.__file__).parent / "apps" / "large.py"
    folder = tmp_path_factory.mktemp("large")
    with running_server(checkout, postgres.create_database(), folder, reaper, modules=[module]) as server:
        yield server


def test_it_shows_every_function_of_a_large_application(large_site, visitor):
    """Whatever they take and return; one that could not be shown would not hide the others."""
    tab = visitor.tab(f"{large_site.url}/docs")
    tab.wait("document.querySelector('#state').textContent.startsWith('1 function may be called without a token')")
    tab.click("#anonymous")
    declared = {name for name, one in vars(large).items() if hasattr(one, BACKEND)} - {"burn_books"}
    expected = sorted({*declared, *ROUTES})
    says = f"{len(expected)} functions may be called with this token."
    tab.wait(f"document.querySelector('#state').textContent === {json.dumps(says)}")
    assert sorted(names(tab)) == expected
    assert "cannot show" not in tab.text("#functions")
    returns = dict(zip(names(tab), tab.texts(".returns code"), strict=True))
    assert {text for text in returns.values() if "undefined" in text or "object Object" in text} == set()
    assert (
        returns
        | {
            "make": "any",
            "empty": "any",
            "perhaps": "any | Book",
            "triple": "[integer, string, Pair]",
            "many": "{ name: (Tree | null)[] }",
            "several": "Cat | Dog | null",
            "nothing": "null",
            "unsaid": "any",
        }
        == returns
    )
    assert tab.texts("article[aria-labelledby=chosen] tbody td:nth-child(2)") == ["Colour", "Level", '3 | "a" | "b"']
    assert tab.texts("article[aria-labelledby=type-Point] p + code") == ["[number, number]"]


@pytest.mark.parametrize(
    ("name", "status"), [("nothing", 200), ("empty", 204), ("make", 201), ("triple", 200), ("bounded", 400)]
)
def test_it_calls_functions_of_every_kind(large_site, visitor, name, status):
    """With the arguments that it proposes: by name, and for a bounded one the sentence of what is wrong."""
    visitor.network_may_fail = True
    tab = visitor.tab(f"{large_site.url}/docs")
    tab.wait("document.querySelector('#state').textContent.startsWith('1 function')")
    tab.click("#anonymous")
    tab.wait("document.querySelectorAll('.function').length > 1")
    if name == "make":
        tab.run("""document.querySelector('#try-make').value = '{"title": "x"}'""")
    tab.run(f"document.querySelector('#try-{name}').closest('details').open = true")
    tab.click(f"article[aria-labelledby={name}] form button")
    said = f"document.querySelector('article[aria-labelledby={name}] [aria-live]').textContent"
    tab.wait(f"{said}.startsWith('Status {status}')")


def test_functions_are_found_by_what_they_say(site, visitor):
    """By name and by description."""
    tab = visitor.tab(f"{site.url}/docs")
    signed_up(tab)
    tab.click("#find")
    tab.type("oldest first")
    assert names(tab) == ["list_tasks"]


def test_a_token_that_is_none_is_said(site, visitor):
    """In the words of the server, and the page goes on."""
    visitor.network_may_fail = True
    tab = visitor.tab(f"{site.url}/docs")
    tab.click("#token")
    tab.type("nonsense")
    tab.press("Enter")
    tab.wait("document.querySelector('#state').textContent.includes('token')", seconds=60)


def test_every_control_has_a_name_and_headings_have_an_order(site, visitor):
    """For those who hear the page."""
    tab = visitor.tab(f"{site.url}/docs")
    signed_up(tab)
    unnamed = [
        node
        for node in tab.accessible()
        if node["role"] in ("button", "textbox", "searchbox", "link") and not node["name"]
    ]
    assert unnamed == []
    levels = tab.run("Array.from(document.querySelectorAll('h1, h2, h3'), (title) => Number(title.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_its_policy_is_the_one_of_the_site():
    """No script, style or request from elsewhere; the page says so itself, for other servers."""
    text = (PUBLIC / "docs.html").read_text()
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in text
    assert "connect-src 'self'" in text
    assert "http://" not in text
    assert "https://" not in text
