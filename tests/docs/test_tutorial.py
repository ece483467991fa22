"""The tutorial is followed as it is written: each command typed, each file written, each answer compared."""

import os
import re
import shutil
import subprocess
from itertools import count
from urllib.parse import urlsplit

import pytest

from kontract.cli.toolchain.processes import free_port, wait_until
from support.dev import dev
from support.pages import DOCS, ROOT, SHOWN_URL, blocks
from support.programs import needing
from support.worker import running_worker

TUTORIAL = DOCS / "tutorial" / "booking.md"
QUICK_START = DOCS / "tutorial" / "quick-start.md"

# Row ids (UUID) and request ids are new each time.
IDS = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<="request_id":")[0-9a-f]{24}(?=")')

GIT = {f"GIT_{who}_{what}": "reader@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Renamed:
    """Texts with their ids replaced by numbers in order of appearance, so that equal ids stay equal."""

    def __init__(self):
        self.names = {}
        self._numbers = count(1)

    def __call__(self, text):
        return IDS.sub(lambda found: self.names.setdefault(found[0], f"<id {next(self._numbers)}>"), text)


class Reader:
    """Somebody in a shell: where a `cd` leads and what a line sets is there in the next."""

    def __init__(self, folder, port):
        self.folder = folder
        self.port = port
        self._before = ""
        self._told, self._answered = Renamed(), Renamed()

    def type(self, text, *, may_fail=False):
        """What is printed on standard output."""
        text = text.replace(SHOWN_URL, f"http://localhost:{self.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{self._before}\n{text}\npwd >&2\ndeclare -p TOKEN STAFF >&2 || true"],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | GIT,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert may_fail or done.returncode == 0, done.stdout + done.stderr
        if done.returncode != 0:
            return done.stdout.strip()
        self.folder = re.findall(r"^(/.*)$", done.stderr, re.MULTILINE)[-1]
        for name, value in re.findall(r'^declare -- (TOKEN|STAFF)="(.+)"$', done.stderr, re.MULTILINE):
            self._before = re.sub(rf"^{name}=.*\n", "", self._before, flags=re.MULTILINE) + f"{name}={value}\n"
        if re.match(r"\w+\(\)", text):
            self._before += f"{text}\n"
        return done.stdout.strip()

    def compare(self, text):
        """Type each line after `$`; what it prints, once what was saved has arrived, is what stands below it."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            real = {name: found for found, name in self._answered.names.items()}
            line = IDS.sub(lambda found, real=real: real[self._told.names[found[0]]], command)
            expected, answers = self._told(shown.strip()), []

            def as_shown(line=line, expected=expected, answers=answers):
                answers.append(self.type(line, may_fail=True))
                return shape(answers[-1]) == shape(expected)

            # A call that comes before the Worker has reloaded is answered by the one of before.
            assert wait_until(as_shown, 60), f"$ {command}\n{answers[-1]}\ninstead of\n{expected}"
            assert self._answered(answers[-1]) == expected


def shape(text):
    """A text without its ids: `<id 3>` and the id itself look alike."""
    return re.sub(r"<id \d+>", "<id>", IDS.sub("<id>", text))


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
