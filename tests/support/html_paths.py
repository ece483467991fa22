"""How paths of public/ are written, as Workers have them: what is asked for, and what is answered.

tests/workerd/test_assets.py asks workerd, tests/server/test_assets.py the server: one table for both.
"""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

FILES = (
    "index.html",
    "about.html",
    "docs/index.html",
    "docs/page.html",
    "both.html",
    "both/index.html",
    "plain.txt",
    "a b.txt",
    "a+b(c)!.txt",
    "100%.txt",
    "h\u00f6he.html",
    "q.html.html",
    "x.htm",
    "deep/er/index.html",
)

# A file, a place to go to, or None: the gateway answers.
ANSWERS: dict[str, tuple[int, str] | None] = {
    "/": (200, "index.html"),
    "/index": (307, "/"),
    "/index.html": (307, "/"),
    "/about": (200, "about.html"),
    "/about?x=1": (200, "about.html"),
    "/about.html": (307, "/about"),
    "/about.html?x=1&y": (307, "/about?x=1&y"),
    "/about/": (307, "/about"),
    "/about/index": (307, "/about"),
    "/about/index.html": (307, "/about"),
    "/about.html/": None,
    "/docs": (307, "/docs/"),
    "/docs?x=1": (307, "/docs/?x=1"),
    "/docs/": (200, "docs/index.html"),
    "/docs/index": (307, "/docs/"),
    "/docs/index.html": (307, "/docs/"),
    "/docs/page": (200, "docs/page.html"),
    "/docs/page.html": (307, "/docs/page"),
    "/docs/page/": (307, "/docs/page"),
    "/DOCS/": None,
    "/both": (200, "both.html"),
    "/both/": (200, "both/index.html"),
    "/both.html": (307, "/both"),
    "/both/index.html": (307, "/both/"),
    "/plain.txt": (200, "plain.txt"),
    "/plain": None,
    "/plain.txt/": None,
    "/a%20b.txt": (200, "a b.txt"),
    "/a%2Bb(c)!.txt": (200, "a+b(c)!.txt"),
    "/a+b(c)!.txt": (307, "/a%2Bb(c)!.txt"),
    "/100%25.txt": (200, "100%.txt"),
    "/100%.txt": (307, "/100%25.txt"),
    "/h%C3%B6he": (200, "h\u00f6he.html"),
    "/h%C3%B6he.html": (307, "/h%C3%B6he"),
    "/q.html": (200, "q.html.html"),
    "/q.html.html": (307, "/q.html"),
    "/x.htm": (200, "x.htm"),
    "/x": None,
    "/deep/er": (307, "/deep/er/"),
    "/deep": None,
    "//about": (307, "/about"),
    "//about.html": (307, "/about"),
    "/./about.html": (307, "/about"),
    "/%61bout": (307, "/about"),
    "/docs//": (307, "/docs/"),
    "/docs%2Fpage": (307, "/docs/page"),
    "//evil.example/%2e%2e/about.html": (307, "/about"),
    "/nowhere": None,
}


def write(public: Path) -> None:
    """Write the files; each holds its own name."""
    for name in FILES:
        (public / name).parent.mkdir(parents=True, exist_ok=True)
        (public / name).write_text(name, encoding="utf-8")


def ask(url: str, gateway: str) -> dict[str, tuple[int, str] | None]:
    """What a server answers to each path; ``gateway`` is in the body of what is no file. Nothing is normalised here."""
    parts = urlsplit(url)
    found: dict[str, tuple[int, str] | None] = {}
    for path in ANSWERS:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        found[path] = None if gateway in body else (answer.status, answer.getheader("location") or body)
        answer.close()
        connection.close()
    return found
