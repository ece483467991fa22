"""The pages of the documentation, cut into their blocks of code."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root
DOCS = ROOT / "docs"
SHOWN_URL = "http://localhost:8787"
"""The address that the pages name."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<kind>.*?)\n(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """What stands between two fences. `kind` is what follows the first one: ``bash``, ``bash account``."""

    page: Path
    kind: str
    text: str
    line: int

    @property
    def name(self) -> str:
        """Where it is, for people and for names of tests."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README.md, and everything below docs/ that somebody wrote."""
    found = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts]
    return [ROOT / "README.md", *sorted(found)]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, found["kind"], textwrap.dedent(found["text"]).strip("\n"), text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """The text of a page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, as GitHub and the site write them."""
    titles = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of each link of a page that leads to a file of this repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor
