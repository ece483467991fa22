"""How the pages become a site: `make docs`. Warnings are errors there, and no page asks anybody else for anything."""

from __future__ import annotations

import tomllib
from pathlib import Path

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

# Names in signatures that the reference does not describe: how things are inside, and the standard library.
nitpick_ignore_regex = [("py:class", r"(collections\.abc|kontract\.(core|gateway|ports))\..*")]
