"""docs/reference/javascript-client.md: what it shows runs in a browser, in this order, on a page of the Worker."""

from __future__ import annotations

import json
import re

import pytest

from kontract.cli.toolchain.checkout import Checkout

TEXT = (Checkout.find().root / "docs" / "reference" / "javascript-client.md").read_text(encoding="utf-8")
IMPORT = re.compile(r'^import \{ (.+) \} from "(.+)";$', re.MULTILINE)


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
