"""The picture of the demo page in README.md and docs/: made here, so that anybody can make it again.

Run: KONTRACT_PICTURE=docs/demo-page.webp .venv/bin/pytest tests/browser/test_picture.py
"""

from __future__ import annotations

import base64
import os
import re

import pytest

from support.demo_page import add_task, answered, has_task, item, open_account
from support.pages import DOCS, ROOT

PICTURE = DOCS / "demo-page.webp"
WIDTH, HEIGHT = 1280, 960
SCALE = 0.8  # a page of text shows it about this wide
LARGEST = 100_000
"""Bytes: the README is read on telephones, too."""


def size(data: bytes) -> tuple[int, int]:
    """The width and height of a WebP in its extended format, which is what Chromium writes (RFC 9649)."""
    assert (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8X")
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


@pytest.mark.long
def test_the_picture_is_made_of_the_page(site, visitor, call, no_tasks):
    """Tasks, accounts and the last calls, in a window of the size that the stored picture has."""
    tab = visitor.demo(site.url, width=WIDTH, height=HEIGHT)
    tab.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    for title in ("Buy milk", "Call the bank", "Write the invoice"):
        add_task(tab, title)
    tab.click(f"{item('Buy milk')} input")
    tab.wait(has_task("Buy milk", done=True))
    there = {account["id"] for account in call("list_accounts")}  # of tests before, on the same Worker
    for name in ("alice", "bob"):
        if name not in there:
            open_account(tab, name, 100)
    tab.click("#storm")
    tab.wait("document.querySelector('#storm-result').textContent")
    answered(tab, "#open-form")
    tab.run("document.activeElement.blur(); scrollTo(0, 0)")
    tab.send("Page.bringToFront")  # another tab is not drawn
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": SCALE}
    data = base64.b64decode(tab.send("Page.captureScreenshot", format="webp", quality=80, clip=clip)["data"])
    if wanted := os.environ.get("KONTRACT_PICTURE"):
        (ROOT / wanted).write_bytes(data)

    assert size(data) == size(PICTURE.read_bytes()), "make the picture again"
    assert len(data) < LARGEST


def test_the_pages_show_it():
    """A small file, with words for those who do not see it."""
    assert len(PICTURE.read_bytes()) < LARGEST
    for page in (ROOT / "README.md", DOCS / "index.md"):
        shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert [(page.parent / path).resolve() for _, path in shown] == [PICTURE]
        assert len(shown[0][0].split()) >= 8
