"""The reference says what there is: paths, headers, variables, compared with the code and asked of a gateway."""

import ast
import re
import tomllib

import pytest

from kontract.core import database_url
from kontract.gateway import own_operations
from support.pages import DOCS, ROOT

HTTP = (DOCS / "reference" / "http.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
LATER = {"/docs"}
"""A file of public/, which the gateway by itself does not serve."""


def paths():
    """(method, path) of each row of the table of paths."""
    for cell, method in re.findall(r"^\| (`/.*?`) \| ([A-Z]+) \|", HTTP, re.MULTILINE):
        for path in re.findall(r"`([^`]+)`", cell):
            yield method, path.replace("<name>", "list_tasks")


@pytest.mark.parametrize(("method", "path"), sorted(set(paths())))
async def test_a_path_is_answered(method, path, api):
    """With whatever error, but not as one that is not there; and another method is refused."""
    if path in LATER:
        assert (ROOT / "public" / f"{path[1:]}.html").is_file()
        return
    if path != "/stream":  # which would not end
        answer = await api.request(method, path)
        assert answer.status_code not in (404, 405), answer.text
    assert (await api.request("DELETE", path)).status_code == 405


def test_every_path_of_the_gateway_is_in_the_table():
    """Those that it describes itself, and those of raystream."""
    own = set(own_operations.paths())
    modules = (ROOT / "src" / "kontract" / "gateway").glob("*.py")
    named = {
        one for path in modules for one in re.findall(r'^[A-Z_]+ = "(/[^"]+[^/"])"', path.read_text(), re.MULTILINE)
    }
    assert len(own | named) >= 14
    shown = {path for _, path in paths()}
    assert sorted(one for one in own | named if one not in shown) == []


def test_headers_are_those_that_are_sent():
    """Each one that the page names is in the code, under that very name."""
    code = "".join(path.read_text() for path in (ROOT / "src" / "kontract" / "gateway").glob("*.py")).lower()
    headers = re.search(r"^Request headers:.*?(?=^## )", HTTP, re.MULTILINE | re.DOTALL)[0]
    named = set(re.findall(r"`([A-Za-z]+(?:-[A-Za-z]+)*)(?::[^`]*)?`", headers))
    assert len(named) >= 8
    assert sorted(name for name in named if f'"{name.lower()}"' not in code) == []


# --- configuration ---------------------------------------------------------------------------------------------------


def part(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", CONFIGURATION, re.MULTILINE | re.DOTALL)[1]


def names_in(text):
    return {name for row in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def constants(folder):
    """Every text that stands in a module below a folder."""
    for path in (ROOT / "src" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_what_a_worker_is_told_is_all_there():
    """What its modules ask the environment for, and what wrangler.toml binds."""
    listed = names_in(part("On Workers"))
    asked = {text for text in constants("kontract/gateway") if re.fullmatch(r"KONTRACT_[A-Z_]+", text)}
    asked -= {"KONTRACT_BUILD_ANSWER"}  # no variable
    config = tomllib.loads((ROOT / "wrangler.toml").read_text())
    asked |= set(config["vars"]) | {one["binding"] for one in config["hyperdrive"]}
    asked |= {one["name"] for one in config["durable_objects"]["bindings"]}
    source = "".join(path.read_text() for path in (ROOT / "src/kontract/cloudflare").glob("*.py"))
    assert sorted(asked - listed) == []
    assert sorted(name for name in listed - asked if not re.search(rf'"{name}"', source)) == []


def test_what_the_commands_are_told_is_all_there():
    """Each variable that a command reads is in the table, and the other way round."""
    source = "".join(path.read_text() for path in (ROOT / "src" / "kontract" / "cli").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"((?:KONTRACT_)?[A-Z_]+)"', source))
    listed = names_in(part("On your machine"))
    assert (
        sorted(name for name in read if name.startswith(("KONTRACT_", "DATABASE_URL", "PORT")) and name not in listed)
        == []
    )
    makefile = (ROOT / "Makefile").read_text()
    assert sorted(name for name in listed - read if not re.search(rf"^{name}\b", makefile, re.MULTILINE)) == []


def test_every_parameter_of_a_database_url_is_on_its_page():
    """In the part of the page that says what becomes of it."""
    page = (DOCS / "reference" / "database-url.md").read_text(encoding="utf-8")
    followed, _, rest = page.partition("Accepted without effect")
    without_effect, _, refused = rest.partition("\nRefused:")
    for names, part in (
        (database_url._FOLLOWED | database_url._PLACES | {"channel_binding"}, followed),
        (set(database_url._WITHOUT_EFFECT) - {"channel_binding"}, without_effect),
        (set(database_url._REFUSED), refused),
    ):
        assert [name for name in sorted(names) if f"`{name}" not in part] == []
