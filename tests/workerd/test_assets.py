"""The files of public/ as the Worker serves them: headers, and paths that stay the Worker's own."""

from __future__ import annotations

import re

import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from support import html_paths
from support.laboratory import NOWHERE
from support.scratch import scratch_checkout
from support.worker import running_worker

PUBLIC = Checkout.find().root / "public"
FILES = sorted(path.relative_to(PUBLIC).as_posix() for path in PUBLIC.rglob("*") if path.is_file())

ENTRY = """\
from session_do import KontractSessionDO
from workers import Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        health = request.url.endswith("/health")
        return Response('{"status": "ok", "routes": 0}' if health else "the Worker")
"""


def get(worker, path, **headers):
    return httpx.get(f"{worker.url}{path}", headers=headers, timeout=60, trust_env=False)


def policy(text):
    """A content security policy as {directive: sources}."""
    return dict((part.strip() + " ").split(" ", 1) for part in text.split(";") if part.strip())


def test_the_page_has_a_strict_policy_in_header_and_document(worker):
    """Nothing from elsewhere, nothing inline, no frames, no HTML out of strings; both copies say the same."""
    response = get(worker, "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    header = policy(response.headers["content-security-policy"])
    assert header.pop("frame-ancestors").strip() == "'none'"  # a meta element cannot say that
    assert header == policy(re.search(r'Content-Security-Policy" content="([^"]+)"', response.text)[1])
    assert header["default-src"].strip() == "'none'"
    assert not [sources for sources in header.values() if "unsafe" in sources or "http" in sources or "*" in sources]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"\sstyle=|\son[a-z]+=|<script(?![^>]*src=)|javascript:", response.text)


def test_a_visit_that_comes_again_loads_nothing_again(worker):
    """Files have an ETag and are asked for again, so a deployment is seen at once and costs one short answer each."""
    first = get(worker, "/kontract.js")
    assert first.headers["cache-control"] == "public, max-age=0, must-revalidate"
    assert get(worker, "/kontract.js", **{"If-None-Match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("name", [name for name in FILES if name != "_headers" and not name.endswith(".d.ts")])
def test_every_file_is_served_as_what_it_is(worker, name):
    """With its type; the client's modules to pages of every origin."""
    response = get(worker, "/" if name == "index.html" else f"/{name.removesuffix('.html')}")
    types = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}
    types |= {"txt": "text/plain"}
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == types[name.rpartition(".")[2]]
    assert ("access-control-allow-origin" in response.headers) is name.startswith("kontract")


def test_the_rules_are_no_file(worker):
    assert get(worker, "/_headers").status_code == 404


def test_errors_of_the_worker_are_its_own(worker):
    """A path that is no file is the Worker's: an error in JSON, and no page in place of one."""
    response = get(worker, "/nowhere", Accept="text/html")
    assert (response.status_code, response.json()["error"]) == (404, "NOT_FOUND")


def test_no_file_can_take_a_path_of_the_worker(checkout, reaper, tmp_path):
    """Files named like the Worker's paths lie there and are not served."""
    copy = scratch_checkout(checkout, tmp_path / "checkout", entry=ENTRY)
    public = tmp_path / "checkout" / "public"
    public.unlink()
    paths = [
        "rpc/create_task",
        "auth/anonymous",
        "raystream/rpc",
        ".well-known/kontract",
        "stream/ticket",
        "health",
        "ready",
    ]
    for name in [*paths, "openapi.json", "page.txt"]:
        (public / name).parent.mkdir(parents=True, exist_ok=True)
        (public / name).write_text("a file")
    html_paths.write(public)
    with running_worker(copy, NOWHERE, tmp_path / "state", reaper) as server:
        assert html_paths.ask(server.url, "the Worker") == html_paths.ANSWERS
        answers = {name: get(server, f"/{name}").text for name in [*paths, "openapi.json", "page.txt"]}
        assert get(server, "/stream?table=tasks").text == "the Worker"
    assert answers.pop("page.txt") == "a file"
    assert answers.pop("health") == '{"status": "ok", "routes": 0}'
    assert set(answers.values()) == {"the Worker"}
