"""docs/reference/javascript-client.md: what it shows runs in a browser, in this order, on a page of the Worker."""

from __future__ import annotations

import json
import re

import pytest

from kontract.cli.toolchain.checkout import Checkout
from support.pages import DOCS, blocks

TEXT = (Checkout.find().root / "docs" / "reference" / "javascript-client.md").read_text(encoding="utf-8")
IMPORT = re.compile(r'^import \{ (.+) \} from "(.+)";$', re.MULTILINE)


def script_of(page):
    """All examples of a page as one script, as a page would have them."""
    shown = [block.text for block in blocks(DOCS / page) if block.kind == "js"]
    assert shown
    return IMPORT.sub(r'const { \1 } = await import("\2");', "\n".join(shown))


@pytest.mark.usefixtures("no_tasks")
@pytest.mark.parametrize("page", ["how-to/connect-from-a-page.md", "how-to/encrypt-calls.md"])
def test_the_guides_run(page, site, visitor, call):
    """What people copy first."""
    visitor.network_may_fail = True  # one of them is told that a title is not one
    tab = visitor.tab(f"{site.url}/")
    script = script_of(page)
    if "const list = " in script:
        script += """
            const until = async (done) => { while (!done()) await new Promise((go) => setTimeout(go, 50)); };
            await until(() => rows.size === 1);
            await api.create_task("Seen at once");
            await until(() => document.title === "2 tasks");
            list.close();
        """
    tab.run(f"(async () => {{ {script} }})()")
    if "list = " in script:
        assert {task["title"] for task in call("list_tasks", None, 1000)} == {"Buy milk", "Seen at once"}


@pytest.mark.usefixtures("no_tasks")
def test_every_example_runs(site, visitor, call):
    visitor.network_may_fail = True  # one of them asks for a task that is not there
    blocks = re.findall(r"^```js\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    script = IMPORT.sub(r'const { \1 } = await import("\2");', "\n".join(blocks))
    tab = visitor.tab(f"{site.url}/")
    tab.run(f"(async () => {{ {script} }})()")
    titles = [task["title"] for task in call("list_tasks", None, 1000)]
    assert [titles.count(title) for title in ("Buy milk", "Pay the rent", "To be streamed")] == [1, 1, 1]


def test_what_is_the_clients_own_is_named(site, visitor):
    """Names that are no backend functions, and what there is to import: all in the text."""
    tab = visitor.tab(f"{site.url}/")
    own, exported = tab.run("""(async () => {
        const client = await import("/kontract.js");
        return [Object.keys(client.connect()), Object.keys(client)];
    })()""")
    assert sorted(own) == ["auth", "call", "stream", "url"]
    for name in [*own, "KontractError", "connect", "memoryStorage", "browserStorage"]:
        assert f"`{name}" in TEXT or f"{{ {name} }}" in TEXT, name
    assert set(exported) >= {"KontractError", "connect", "memoryStorage", "browserStorage"}, json.dumps(exported)
