"""The tutorial is followed as it is written: each command typed, each file written, each answer compared."""

import os
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest

from kontract.cli.toolchain.processes import free_port
from support.dev import dev
from support.pages import DOCS, ROOT, blocks
from support.programs import needing
from support.reader import GIT, Reader
from support.worker import running_worker

TUTORIAL = DOCS / "tutorial" / "booking.md"
QUICK_START = DOCS / "tutorial" / "quick-start.md"


@pytest.fixture
@needing("git")
def clone(checkout, tmp_path):
    """A clone, with what is not committed yet."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout.root, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    folder = tmp_path / "kontract"
    for name in filter(None, names.split("\0")):
        if (checkout.root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout.root / name, folder / name)
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Clone"]):
        subprocess.run(["git", *arguments], cwd=folder, env=os.environ | GIT, check=True)
    return folder


def test_every_block_says_what_it_is():
    kinds = {block.kind.partition(" ")[0] for block in blocks(TUTORIAL)}
    assert kinds == {"bash", "console", "python", "html", "javascript"}


@pytest.mark.needs("curl")
def test_the_quick_start_works_as_it_is_written(checkout, postgres, reaper, tmp_path):
    """Typed against what `make dev` starts: a Worker whose database nobody has used."""
    shown = blocks(QUICK_START)
    assert [block.text for block in shown if block.kind == "bash dev"] == ["make dev"]
    with running_worker(checkout, postgres.create_database(), tmp_path, reaper) as server:
        reader = Reader(tmp_path, urlsplit(server.url).port)
        for block in shown:
            if block.kind == "console":
                reader.compare(block.text)


def test_what_the_quick_start_tells_to_change_is_there():
    """The file, and the sentence of the error in it."""
    assert "which is less than" in (ROOT / "src/app/accounts.py").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.needs("curl")
@pytest.mark.timeout(900)
def test_the_tutorial_works_as_it_is_written(clone, tmp_path):
    """From the clone to what would be deployed."""
    port = free_port()
    reader = Reader(clone, port)
    running = None
    try:
        for block in blocks(TUTORIAL):
            kind, _, rest = block.kind.partition(" ")
            if block.kind == "bash dev":
                running = dev(tmp_path / "booking", port=port, command=tuple(block.text.split()))
                server = running.__enter__()
                server.wait_for("Kontract is ready on", 400)
            elif block.kind == "bash":
                reader.type(block.text)
            elif kind == "console":
                reader.compare(block.text)
            elif rest.startswith("append "):
                path = tmp_path / "booking" / rest.removeprefix("append ")
                path.write_text(path.read_text() + "\n\n" + block.text.lstrip("\n") + "\n")
            elif kind in ("python", "html", "javascript"):
                (tmp_path / "booking" / rest).write_text(block.text + "\n")
            else:
                assert block.kind == "bash account"
    finally:
        if running is not None:
            running.__exit__(None, None, None)
    log = subprocess.check_output(["git", "log", "--oneline"], cwd=tmp_path / "booking", text=True)
    assert len(log.splitlines()) == 2
