"""Files of public/: what is found, what is not, and with which headers."""

from __future__ import annotations

import itertools

import pytest

from kontract.server import assets
from kontract.server.assets import Assets, Moved, not_modified, parse_rules
from support import html_paths


@pytest.fixture
def folder(tmp_path):
    public = tmp_path / "public"
    for name in (
        "index.html",
        "about.html",
        "sub/index.html",
        "a.js",
        "data.bin",
        ".hidden",
        "health",
        "rpc/f",
        "streams",
    ):
        (public / name).parent.mkdir(parents=True, exist_ok=True)
        (public / name).write_text(name)
    (public / "_headers").write_text("# comment\n/*\n  X-All: yes\n\n/a.js\n  X-One: a: b\n")
    (tmp_path / "secret").write_text("secret")
    (public / "link").symlink_to(tmp_path / "secret")
    return public


@pytest.mark.parametrize(
    ("path", "file", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/about", "about.html", "text/html; charset=utf-8"),
        ("/sub/", "sub/index.html", "text/html; charset=utf-8"),
        ("/a.js", "a.js", "text/javascript; charset=utf-8"),
        ("/data.bin", "data.bin", "application/octet-stream"),
        ("/streams", "streams", "application/octet-stream"),
    ],
)
def test_files_have_the_paths_and_types_of_workers(folder, path, file, kind):
    """Static assets of Workers: pages without .html."""
    asset = Assets(folder).find(path)
    assert asset is not None
    assert asset.body == file.encode()
    assert dict(asset.headers)["content-type"] == kind
    assert dict(asset.headers)["x-all"] == "yes"


@pytest.mark.parametrize(
    "path",
    [
        "", "/../secret", "/%2e%2e/secret", "/sub/../../secret", "//etc/passwd", "/link", "/_headers",
        "/health", "/%68ealth", "//health", "/./rpc/f", "/rpc%2Ff", "/rpc/f",
        "/a.js/", "/A.JS", "/a.js\x00", "\\..\\secret",
    ],
)  # fmt: skip
def test_nothing_else_is_found(folder, path):
    """Paths are looked up, never opened. What leads out of the folder is not there, nor are the gateway's own paths."""
    assert Assets(folder).find(path) is None


def test_paths_are_written_as_workers_write_them(tmp_path):
    """The table that tests/workerd/test_assets.py asks workerd for."""
    html_paths.write(tmp_path)
    files = Assets(tmp_path)
    found = {}
    for url in html_paths.ANSWERS:
        path, mark, query = url.partition("?")
        asset = files.find(path)
        found[url] = (
            (307, f"{asset.location}{mark}{query}")
            if isinstance(asset, Moved)
            else asset and (200, asset.body.decode())
        )
    assert found == html_paths.ANSWERS


def test_a_folder_that_is_watched_is_read_again_when_it_changes(folder, monkeypatch):
    """In development; elsewhere what is deployed does not change."""
    times = itertools.count(0.0, assets.LOOK_SECONDS)
    monkeypatch.setattr(assets.time, "monotonic", lambda: next(times))
    watched, still = Assets(folder, watched=True), Assets(folder)
    (folder / "new.html").write_text("new")
    (folder / "a.js").unlink()
    assert watched.find("/new").body == b"new"
    assert watched.find("/a.js") is None
    assert still.find("/new") is None


def test_a_version_that_the_caller_has_is_not_sent_again(folder):
    """By its ETag, which is that of the content."""
    asset = Assets(folder).find("/a.js")
    for said in (asset.etag, f'"x", {asset.etag}', f"W/{asset.etag}", "*"):
        assert not_modified(asset, said)
    for said in (None, "", '"x"', asset.etag[:-1]):
        assert not not_modified(asset, said)
    (folder / "a.js").write_text("changed")
    assert Assets(folder).find("/a.js").etag != asset.etag


def test_rules_are_read_as_workers_read_them():
    """A star stands for anything, other characters for themselves."""
    [(every, _), (one, named)] = parse_rules("/*\n  A: b\n/x.y/*\n  C: d\n  e:f\n")
    assert named == {"c": "d", "e": "f"}
    assert every.fullmatch("/anything")
    assert one.fullmatch("/x.y/z")
    assert not one.fullmatch("/xzy/z")


def test_a_folder_that_is_not_there_and_a_file_that_is_too_large(folder, monkeypatch):
    """An application need not have a page."""
    assert len(Assets(None)) == len(Assets(folder / "none")) == 0
    monkeypatch.setattr(assets, "LARGEST", 5)
    assert Assets(folder).find("/data.bin") is None
