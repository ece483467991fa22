"""The API page at /docs: the functions that one may call, their types, and calls made from it."""

import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest

import support
from kontract.cli.toolchain.checkout import Checkout
from kontract.core.model.declare import BACKEND
from routes import ROUTES
from support.apps import large
from support.serving import running_server

PUBLIC = Checkout.find().root / "public"
VIEWER = PUBLIC / "docs" / "swagger-ui"

HOSTILE = """
from kontract import Context, backend, perms


@backend(perm=perms.R__)
async def hostile(ctx: Context, text: str = "<img src=x onerror='document.title = 1'>") -> str:
    \"\"\"Say <img src=x onerror="document.title = 'taken'"> and [click](javascript:alert(1)).

    <script>document.title = "taken"</script> <style>body { display: none }</style>
    \"\"\"
    return f"<script>document.title = 'taken'</script>{text}"
"""


def names(tab):
    """The functions that are shown."""
    paths = tab.run("Array.from(document.querySelectorAll('.opblock-summary-path'), (one) => one.dataset.path)")
    return [path.removeprefix("/call/") for path in paths if path.startswith("/call/")]


def signed_up(tab):
    tab.wait("/ function.* may be called without a token/.test(document.querySelector('#state').textContent)")
    tab.click("#anonymous")
    tab.wait("document.querySelector('#state').textContent.endsWith('with this token.')")
    tab.wait("document.querySelectorAll('.opblock').length > 10")


def block(tab, name):
    """The selector of what is shown of a function."""
    path = f'.opblock-summary-path[data-path="/call/{name}"]'
    return "#" + tab.run(f"document.querySelector('{path}').closest('.opblock').id")


def opened(tab, name):
    found = block(tab, name)
    tab.click(f"{found} .opblock-control-arrow")
    tab.wait(f"document.querySelector('{found} .execute')")
    return found


def written(tab, found, text):
    """Put a text in the place of the arguments, as somebody who types does."""
    tab.click(f"{found} textarea")
    tab.run(f"document.querySelector('{found} textarea').select()")
    tab.type(text)


def executed(tab, found):
    """Call, and return the status and the answer."""
    tab.click(f"{found} .execute")
    live = f"{found} .live-responses-table"
    tab.wait(f"document.querySelector('{live} .response-col_status')")
    return int(tab.text(f"{live} .response .response-col_status").split()[0]), tab.text(f"{live} .response")


def test_it_shows_what_one_may_call_and_calls_it(site, visitor):
    """Nothing without a token; with one every function, with its arguments, and a call that is answered."""
    tab = visitor.tab(f"{site.url}/docs")
    tab.wait("document.querySelector('#state').textContent.startsWith('0 functions may be called without a token')")
    assert names(tab) == []
    signed_up(tab)

    assert sorted(names(tab)) == sorted(ROUTES)
    found = opened(tab, "create_task")
    tab.wait(f"document.querySelector('{found}').innerText.includes('Create a task.')")
    tab.wait(f"document.querySelector('{found}').innerText.includes('x-kontract-perm\\t\"RW_\"')")
    tab.click(f"{found} .opblock-section-request-body .tablinks[data-name=model]")
    tab.wait(f"document.querySelector('{found} .opblock-section-request-body').innerText.includes('title')")
    assert re.search(r"title\s*string\s*.1, 200. characters", tab.text(f"{found} .opblock-section-request-body"))
    tab.click(f"{found} .opblock-section-request-body .tablinks[data-name=example]")

    written(tab, found, '{"title": "From the page"}')
    status, answer = executed(tab, found)
    assert status == 200
    assert '"title": "From the page"' in answer
    assert re.search(r"server-timing: coord;dur=", answer)
    assert re.search(r"x-kontract-txid: \d+", answer)


@pytest.fixture(scope="module")
def large_site(browser, checkout, postgres, reaper, tmp_path_factory):
    """The demo and a larger application. (It asks for the browser first: without one there is no need to start it.)"""
    del browser
    module = Path(support.__file__).parent / "apps" / "large.py"
    folder = tmp_path_factory.mktemp("large")
    hostile = tmp_path_factory.mktemp("module") / "hostile.py"
    hostile.write_text(HOSTILE)
    with running_server(checkout, postgres.create_database(), folder, reaper, modules=[module, hostile]) as server:
        yield server


@pytest.mark.long
def test_it_shows_every_function_of_a_large_application(large_site, visitor):
    """Whatever they take and return: each is opened, and its body and results are shown, as examples and as types."""
    tab = visitor.tab(f"{large_site.url}/docs")
    tab.wait("document.querySelector('#state').textContent.startsWith('1 function may be called without a token')")
    signed_up(tab)
    declared = {name for name, one in vars(large).items() if hasattr(one, BACKEND)} - {"burn_books"}
    expected = sorted({*declared, *ROUTES, "hostile"})
    says = f"{len(expected)} functions may be called with this token."
    assert tab.text("#state") == says
    assert sorted(names(tab)) == expected
    tab.run("document.querySelectorAll('.opblock-post .opblock-control-arrow').forEach((one) => one.click())")
    tab.wait(f"document.querySelectorAll('.opblock-body .execute').length >= {len(expected)}")
    for which, says in (("example", '"result": '), ("model", "array<")):
        tab.run(f"document.querySelectorAll('.tablinks[data-name={which}]').forEach((one) => one.click())")
        tab.wait(f"document.querySelector('#functions').innerText.includes({json.dumps(says)})")
        text = tab.text("#functions")
        for broken in ("Could not render", "Unknown Type", "undefined", "[object Object]"):
            assert broken not in text


@pytest.mark.parametrize(
    ("name", "sent", "status"),
    [
        ("nothing", None, 200),
        ("empty", None, 204),
        ("make", '{"title": "x"}', 201),
        ("triple", None, 200),
        ("bounded", '{"few": [1, 2, 3, 4]}', 400),
    ],
)
def test_it_calls_functions_of_every_kind(large_site, visitor, name, sent, status):
    """With the arguments that it proposes, or those that somebody writes; what is refused is said by the server."""
    visitor.network_may_fail = True
    tab = visitor.tab(f"{large_site.url}/docs")
    signed_up(tab)
    found = opened(tab, name)
    if sent is not None:
        written(tab, found, sent)
    got, answer = executed(tab, found)
    assert got == status, answer
    assert status != 400 or '"error": "INVALID_REQUEST"' in answer


def test_a_function_can_be_called_as_soon_as_it_is_open(large_site, visitor):
    """A click on Execute in the moment in which it appears, before Swagger UI has resolved the operation."""
    tab = visitor.tab(f"{large_site.url}/docs")
    signed_up(tab)
    found = block(tab, "triple")
    tab.run(f"""
        new MutationObserver((_, observer) => {{
            const button = document.querySelector('{found} .execute');
            if (!button) return;
            observer.disconnect();
            button.click();
        }}).observe(document.querySelector('{found}'), {{ childList: true, subtree: true }});
        document.querySelector('{found} .opblock-control-arrow').click();
    """)
    tab.wait(f"document.querySelector('{found} .live-responses-table .response-col_status')")
    assert tab.text(f"{found} .live-responses-table .response .response-col_status").split()[0] == "200"


def test_arguments_that_are_arrays_arrive_as_they_were_written(large_site, visitor):
    """Lists within structs, and structs and tuples that are arrays themselves."""
    tab = visitor.tab(f"{large_site.url}/docs")
    signed_up(tab)
    found = opened(tab, "nested")
    written(tab, found, '{"tree": {"value": 1, "children": [{"value": 2}, {"value": 3}]}, "pet": {"type": "cat"}}')
    status, answer = executed(tab, found)
    assert status == 200, answer
    assert re.findall(r'"value": (\d)', answer) == ["1", "2", "3"]
    tab.click(f"{found} .opblock-control-arrow")
    found = opened(tab, "odd_shapes")
    odd = {"point": [1.5, -2], "pair": [1, "a"], "options": {}, "box": {"width": 1}, "three": [1, "x", True]}
    written(tab, found, json.dumps(odd))
    status, answer = executed(tab, found)
    assert status == 200, answer
    assert re.search(r'"result": \[\s*1.5,\s*-2\s*\]', answer)


def test_text_of_an_application_never_becomes_html(large_site, visitor):
    """Neither docstrings nor defaults nor answers: no Markdown is made of them, and Trusted Types holds behind that."""
    tab = visitor.tab(f"{large_site.url}/docs")
    signed_up(tab)
    found = opened(tab, "hostile")
    assert "<script>document.title" in tab.text(f"{found} .opblock-description-wrapper")
    status, answer = executed(tab, found)
    assert status == 200
    assert "<script>document.title = 'taken'</script><img" in answer
    assert tab.run("document.querySelectorAll('#functions :is(img, script, style, a[href^=javascript])').length") == 0
    assert tab.run("document.title") == "API of this backend"
    with pytest.raises(AssertionError, match="TrustedHTML"):
        tab.run("document.body.innerHTML = '<p>'")
    tab.console.clear()  # of the attempt


def test_it_is_used_with_the_keyboard_alone(site, visitor):
    """Sign up, find a function, open it, write its arguments and call it."""
    tab = visitor.tab(f"{site.url}/docs")
    tab.wait("document.querySelector('#state').textContent.startsWith('0 functions')")

    def tab_to(condition):
        for _ in range(60):
            tab.press("Tab")
            if tab.run(f"(() => {{ const at = document.activeElement; return {condition}; }})()"):
                return
        raise AssertionError(f"not reached: {condition}")

    tab_to("at.id === 'anonymous'")
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.opblock').length > 10")
    tab_to("at.id === 'find'")
    tab.type("Create a task")
    tab.wait("document.querySelectorAll('.opblock').length === 1")
    tab_to("at.matches('.opblock-summary-control, .opblock-control-arrow')")
    tab.press("Enter")
    tab.wait("document.querySelector('.execute')")
    tab_to("at.tagName === 'TEXTAREA'")
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.run("document.activeElement.select()")
    tab.type('{"title": "By key"}')
    tab_to("at.classList.contains('execute')")
    tab.press("Enter")
    tab.wait("document.querySelector('.live-responses-table')?.innerText.includes('By key')")


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_it_is_light_or_dark_as_the_visitor_prefers(site, visitor, shade):
    """And changes at once when that does; text is never of the shade of its page."""
    tab = visitor.tab("about:blank")
    tab.prefer(prefers_color_scheme=shade)
    visitor.hosts.add(site.url.removeprefix("http://"))
    tab.go(f"{site.url}/docs")
    signed_up(tab)
    for seen in (shade, "dark" if shade == "light" else "light"):
        tab.prefer(prefers_color_scheme=seen)
        tab.wait(f"document.documentElement.classList.contains('dark-mode') === {json.dumps(seen == 'dark')}")
        ink = "getComputedStyle(document.querySelector('.opblock-summary-path')).color"
        page = "getComputedStyle(document.body).backgroundColor"
        light = [sum(map(int, re.findall(r"\d+", tab.run(one))[:3])) for one in (ink, page)]
        assert (light[0] > 500 and light[1] < 200) if seen == "dark" else (light[0] < 300 and light[1] > 700), light


def test_functions_are_found_by_what_they_say(site, visitor):
    """By name and by description."""
    tab = visitor.tab(f"{site.url}/docs")
    signed_up(tab)
    tab.click("#find")
    tab.type("oldest first")
    tab.wait("document.querySelectorAll('.opblock').length === 1")
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
    opened(tab, "create_task")
    unnamed = [
        node
        for node in tab.accessible()
        if node["role"] in ("button", "textbox", "searchbox", "link") and not node["name"]
    ]
    assert unnamed == []
    levels = tab.run("Array.from(document.querySelectorAll('h1, h2, h3, h4, h5'), (title) => Number(title.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_its_policy_is_the_one_of_the_site():
    """No script, style or request from elsewhere; the page says so itself, for other servers."""
    text = (PUBLIC / "docs.html").read_text()
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in text
    assert "connect-src 'self'" in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_viewer_is_the_one_that_was_taken():
    """As docs/viewer.py made it of its package: nobody has edited it, and its licence is beside it."""
    version, *sums = (VIEWER / "VERSION.txt").read_text().splitlines()
    assert re.fullmatch(r"swagger-ui-dist \d+\.\d+\.\d+", version)
    noted = {name: digest for digest, name in (line.split("  ") for line in sums)}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VIEWER.iterdir()
        if path.name != "VERSION.txt"
    }
    assert found == noted
    assert "Apache License" in (VIEWER / "LICENSE.txt").read_text()


def test_its_style_asks_for_nothing_but_its_own_files():
    """The policy lets no image in that is written as data:, and nothing from elsewhere."""
    for asked in re.findall(r"url\(([^)]*)\)", (VIEWER / "swagger-ui.css").read_text()):
        assert (VIEWER / asked).is_file()
    assert "@import" not in (VIEWER / "swagger-ui.css").read_text()
