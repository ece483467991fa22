"""Whether the page can be used by everybody: names, contrast, sizes, structure, and what people have asked their
system for. Colours are computed from what the browser shows; names are those that it gives to a screen reader.
"""

from __future__ import annotations

import pytest

from support.demo_page import add_task, item, open_account

# Every element that shows text of its own: its colour, the colours behind it, the size of the letters, and the text.
# Colours are drawn on a canvas, which understands all of them and answers with numbers.
TEXTS = """(() => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return Array.from(context.getImageData(0, 0, 1, 1).data);
    };
    const ownText = (one) => Array.from(one.childNodes).some((node) => node.nodeType === 3 && node.data.trim());
    return Array.from(document.body.querySelectorAll("*"))
        .filter((one) => one.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
        .filter((one) => one.value || ownText(one))
        .filter((one) => !one.closest(".hidden, option, noscript"))
        .map((one) => {
            const layers = [];
            for (let at = one; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
            const style = getComputedStyle(one);
            const text = (one.value || one.textContent).trim().slice(0, 40);
            return [rgba(style.color), layers, parseFloat(style.fontSize), Number(style.fontWeight), text];
        });
})()"""

EDGES = """Array.from(document.querySelectorAll("input:not([type=checkbox]), select"))
    .filter((one) => one.checkVisibility())
    .map((one) => [getComputedStyle(one).borderTopColor, getComputedStyle(one.closest("section")).backgroundColor])"""

CONTROLS = """Array.from(document.querySelectorAll("a, button, input, select, summary"))
    .filter((one) => one.checkVisibility() && !one.matches(".skip"))
    .map((one) => {
        const target = one.type === "checkbox" ? (one.closest("label") ?? one) : one;
        const { width, height } = target.getBoundingClientRect();
        return [Math.round(width), Math.round(height), one.getAttribute("aria-label") ?? one.innerText ?? one.id];
    })"""

INTERACTIVE = {"button", "checkbox", "combobox", "link", "textbox", "progressbar", "spinbutton", "DisclosureTriangle"}


def over(top, bottom):
    alpha = top[3] / 255
    return [*(alpha * above + (1 - alpha) * below for above, below in zip(top[:3], bottom[:3], strict=True)), 255]


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    parts = [part / 255 for part in colour[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def rgb(text):
    return [float(part) for part in text[text.index("(") + 1 : -1].replace(",", " ").split()[:3]]


@pytest.fixture(scope="module")
def furnished(site, guest, call):
    """The page with something of everything in it: also an error, a result, a task that is done, one being renamed."""
    for task in call("list_tasks", None, 1000):
        call("delete_task", task["id"])
    guest.network_may_fail = True
    tab = guest.demo(site.url)
    tab.prefer(prefers_reduced_motion="reduce")  # colours in motion are no colours
    for title in ("Open to all", "Done by all", "Renamed by all"):
        add_task(tab, title)
    tab.click(f"{item('Done by all')} input")
    for name in ("one", "two"):
        if f"{name}\t" not in "".join(tab.texts("#accounts tr")):
            open_account(tab, name, 3)
    for field, value in {"src": "one", "dst": "two", "amount": "9000"}.items():
        tab.run(f"document.querySelector('#transfer-{field}').value = '{value}'")
    tab.click("#transfer-form button")
    tab.click("#open-form button")
    tab.click("#seal")
    tab.wait("document.querySelector('#calls .tag:not(.bad)')")
    tab.wait("document.querySelector('#transfer-error').textContent && document.querySelector('#calls .bad')")
    tab.click("summary")
    tab.run("document.querySelector('#storm-result').textContent = 'It held.'")
    tab.run("document.querySelector('#storm-result').dataset.held = 'yes'")
    tab.click(f"{item('Renamed by all')} .rename")
    return tab


@pytest.fixture
def page(furnished):
    """That page, as wide as at first; the tests look at it and change nothing."""
    furnished.size(1280, 900)
    furnished.prefer(prefers_reduced_motion="reduce")
    return furnished


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(page, scheme):
    """WCAG 2.2 AA: 4.5 to 1, large text 3 to 1, edges of fields 3 to 1; in the light and in the dark."""
    page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    low = []
    texts = page.run(TEXTS)
    for colour, layers, size, weight, text in texts:
        behind = [255, 255, 255, 255]
        for layer in reversed(layers):
            behind = over(layer, behind)
        large = size >= 24 or (size >= 18.66 and weight >= 700)
        found = contrast(over(colour, behind), behind)
        if found < (3 if large else 4.5):
            low.append((text, round(found, 2)))
    assert len(texts) > 60
    assert low == []
    edges = page.run(EDGES)
    assert len(edges) >= 6
    assert [pair for pair in edges if contrast(rgb(pair[0]), rgb(pair[1])) < 3] == []


def test_every_control_has_a_name_that_is_its_own(page):
    """What a screen reader says of buttons, fields, boxes and links; those of a list say which entry they belong to."""
    nodes = [node for node in page.accessible() if node["role"] in INTERACTIVE]
    names = [(node["role"], node["name"].strip()) for node in nodes]
    assert len(names) > 20
    assert [pair for pair in names if not pair[1]] == []
    assert {pair for pair in names if names.count(pair) > 1} <= {("textbox", "with")}
    for title in ("Open to all", "Done by all"):
        assert {("checkbox", title), ("button", f"Rename {title}"), ("button", f"Delete {title}")} <= set(names)


def test_the_structure_can_be_heard(page):
    """Language, one main, headings without a gap, named regions and tables, live regions, errors tied to fields."""
    nodes = page.accessible()
    assert page.run("document.documentElement.lang") == "en"
    assert [node["role"] for node in nodes].count("main") == 1
    headings = [(node["level"], node["name"]) for node in nodes if node["role"] == "heading"]
    assert headings[0] == (1, "Every function is a transaction")
    assert [level for level, _ in headings[1:]] == [2] * (len(headings) - 1)
    regions = {node["name"] for node in nodes if node["role"] == "region"}
    assert regions == {name for level, name in headings if level == 2}
    assert {node["name"] for node in nodes if node["role"] == "table"} == {
        "Accounts and their balances",
        "The last calls of this tab, newest first",
    }
    assert page.run("document.querySelectorAll('[role=status]').length") == 3
    invalid = [node for node in nodes if node.get("invalid") == "true"]
    assert invalid
    described = (
        "Array.from(document.querySelectorAll('[aria-describedby]'), (one) => one.getAttribute('aria-describedby'))"
    )
    assert page.run(f"{described}.every((id) => document.getElementById(id))")
    assert page.run("Array.from(document.querySelectorAll('[id]'), (one) => one.id).length") == page.run(
        "new Set(Array.from(document.querySelectorAll('[id]'), (one) => one.id)).size"
    )


@pytest.mark.parametrize("width", [320, 360, 640, 768, 1280])
def test_it_fits(page, width):
    """No scrolling sideways, from 320 pixels on (WCAG 1.4.10; 640 are 1280 at a zoom of 200 %), all large enough."""
    page.size(width, 740, phone=width < 500)
    assert page.run("document.documentElement.scrollWidth") <= width
    beyond = f"""Array.from(document.querySelectorAll("main *, header *"))
        .filter((one) => one.checkVisibility() && !one.closest("pre, .hidden"))
        .filter((one) => one.getBoundingClientRect().right > {width} + 0.5).map((one) => one.outerHTML.slice(0, 100))"""
    assert page.run(beyond) == []
    small = [one for one in page.run(CONTROLS) if one[1] < 40 or one[0] < 40]
    assert [one for one in small if "What a transfer does" not in str(one[2])] == []


def test_who_wants_no_motion_gets_none(page):
    """prefers-reduced-motion: no animation and no transition is left."""
    moving = """Array.from(document.querySelectorAll("*")).filter((one) => {
        const { animationName, transitionDuration } = getComputedStyle(one);
        return animationName !== "none" || parseFloat(transitionDuration) > 0;
    }).length"""
    assert page.run(moving) == 0
    page.prefer(prefers_reduced_motion="no-preference")
    assert page.run(moving) > 0


def test_what_has_the_focus_can_be_seen(page):
    """A ring of 3 pixels around everything that Tab reaches."""
    page.run("document.activeElement.blur()")
    seen = set()
    for _ in range(80):
        page.press("Tab")
        width, style, name = page.run("""(() => {
            const { outlineWidth, outlineStyle } = getComputedStyle(document.activeElement);
            return [parseFloat(outlineWidth), outlineStyle, document.activeElement.outerHTML.slice(0, 80)];
        })()""")
        if "<body" in name:
            continue  # from the end of the page to its beginning
        seen.add(name)
        assert (width, style) == (3, "solid"), name
    assert len(seen) > 20


def test_what_another_tab_does_is_said(site, visitor):
    """News arrive in a live region; what this tab does is confirmed there."""
    one, two = visitor.demo(site.url), visitor.demo(site.url)
    add_task(one, "To be heard")
    one.wait("document.querySelector('#announcer').textContent === 'Added: To be heard'")
    two.wait("document.querySelector('#announcer').textContent === 'From another tab: To be heard, not done'")
