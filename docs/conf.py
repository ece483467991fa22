"""How the pages become a site: `make docs`. Warnings are errors there, and no page asks anybody else for anything."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as _file:
    release = tomllib.load(_file)["project"]["version"]

project = "Kontract for Python"
copyright = "the Kontract authors"  # noqa: A001 - Sphinx's name
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

# Headings are what links name after #, as on a code host.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
# Blocks say how they are tested, in a word after the language; for colours the language counts.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"Kontract {release}"
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
add_module_names = False

# Names in signatures that the reference does not describe: how things are inside, and other people's libraries.
nitpick_ignore_regex = [
    ("py:class", r"(collections\.abc|contextlib|datetime|httpx|_pytest)\..*"),
    ("py:class", r"kontract\.(cli|core|gateway|ports|testing)\..*"),
    ("py:class", r"kontract\.client\.client\.(Options|T)"),
    ("py:mod", r"kontract\.client\.errors"),
]

# How an object is made is the gateway's business, except for those that people make.
_MADE_BY_PEOPLE = {"Client", "HttpError", "HttpResp", "Retries"}


def _without_how_it_is_made(
    _app: Sphinx, what: str, name: str, _made: object, _options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    hidden = signature and what in {"class", "exception"} and name.rpartition(".")[2] not in _MADE_BY_PEOPLE
    return ("", "") if hidden else (signature, returned)


def setup(app: Sphinx) -> None:
    """Sphinx calls it when it starts."""
    app.connect("autodoc-process-signature", _without_how_it_is_made)
