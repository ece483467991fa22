"""The README is a first sight that tells the truth: each of its blocks is executed, each of its figures compared."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest

from kontract.cli.main import COMMANDS
from kontract.cli.toolchain.bootstrap import MINIMUM_PYTHON
from support.example import Calls, built, migrated
from support.pages import ROOT, blocks
from support.programs import needing
from support.reader import GIT, Reader
from support.worker import running_worker

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
ADDRESS = "<address of this repository>"


def of_kind(kind):
    return [block.text for block in blocks(PAGE) if block.kind == kind]


def the_one(kind):
    (text,) = of_kind(kind)
    return text


def test_it_is_a_first_sight():
    """What does not fit has a page of its own."""
    assert 900 <= len(README.split()) <= 1200


def test_every_block_says_what_it_is():
    assert {block.kind for block in blocks(PAGE)} == {"bash clone", "console", "python"}


# --- trying it -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
@needing("git")
def repository(checkout, tmp_path_factory):
    """This repository with what is not committed yet, under an address that git understands."""
    folder = tmp_path_factory.mktemp("repository")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout.root, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = [name for name in names.split("\0") if name and (checkout.root / name).is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout.root / name, folder / name)
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Clone"]):
        subprocess.run(["git", *arguments], cwd=folder, env=os.environ | GIT, check=True)
    return f"file://{folder}"


def test_it_is_cloned_as_shown(repository, tmp_path):
    """The last line is what tests/cli/test_fresh_clone.py does in a fresh clone."""
    *clone, last = the_one("bash clone").splitlines()
    Reader(tmp_path, None).type("\n".join([*clone, "test -f Makefile"]).replace(ADDRESS, repository))
    assert last == "make dev"
    assert 'command=("make", "dev")' in (ROOT / "tests/cli/test_fresh_clone.py").read_text()


def test_python_is_new_enough_where_the_page_says():
    assert "Python {}.{} or later".format(*MINIMUM_PYTHON) in README


@pytest.mark.needs("curl")
def test_the_session_answers_as_shown(checkout, postgres, reaper, tmp_path):
    """Typed against what `make dev` gives a newcomer: a Worker whose database nobody has used."""
    with running_worker(checkout, postgres.create_database(), tmp_path, reaper) as server:
        Reader(tmp_path, urlsplit(server.url).port).compare(the_one("console"))


def test_the_client_is_installed_as_its_manual_says():
    """From a clone and from Git, with what tests/deploy/test_package.py runs."""
    manual = (ROOT / "docs" / "reference" / "python-client.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```bash install\n(.*?)```", manual, re.DOTALL)
    shown = shown.replace("path/to/", "./").replace("https://git.example.com/you/kontract", ADDRESS)
    text = " ".join(README.split())
    assert [line for line in shown.splitlines() if f"`{line}`" not in text] == []
    assert "```bash install" in (ROOT / "tests/deploy/test_package.py").read_text()


def test_the_commands_that_the_texts_name_exist():
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    code = "\n".join([*re.findall(r"`([^`]+)`", prose), *of_kind("bash clone")])
    makefile = (ROOT / "Makefile").read_text()
    goals = set(re.findall(r"\bmake ([a-z]+)\b", code))
    commands = set(re.findall(r"\bkontract ([a-z]+)\b", code))

    assert {"dev", "test", "serve", "new", "docs"} <= goals
    assert [goal for goal in goals if not re.search(rf"^{goal}:", makefile, re.MULTILINE)] == []
    assert {"migrate"} <= commands
    assert commands <= COMMANDS.keys()


# --- the example -----------------------------------------------------------------------------------------------------


async def test_one_of_many_gets_the_seat(postgres, tmp_path, monkeypatch):
    """The function and its table, with the migration that is written for them."""
    declared, registry = built(tmp_path, monkeypatch, {"seats.py": the_one("python")})
    assert [(one.kind, one.name) for one in declared] == [("backend", "take_seat"), ("table", "seats")]
    (name,) = re.findall(r"kontract migrate new (\w+)", README)
    url = postgres.create_database()
    _, ptr = await migrated(tmp_path, url, name, "seats")
    call = Calls(registry, url)
    await call.sql(f"INSERT INTO {ptr} (id, data, _txid, _owner) VALUES ('12A', '{{}}', 1, 'ann')")

    answers = await asyncio.gather(*(call("take_seat", "12A") for _ in range(10)))

    assert sorted(status for status, _ in answers) == [200] + [409] * 9
    (taken,) = [answer["result"] for status, answer in answers if status == 200]
    assert taken == {"id": "12A", "taken_by": "developer"}
    assert {answer["message"] for status, answer in answers if status == 409} == {"seat 12A is taken"}
    assert (await call("take_seat", "12B"))[0] == 404


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """{name: part} of the run that docs/benchmarks.md shows."""
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    return {part["name"]: part for part in results["parts"]}


def test_what_a_read_takes_in_workerd_is_what_was_measured(measured):
    """The plan that is needed follows from it."""
    rows = re.findall(r"^get_task +\d+  Kontract +.*", measured["workerd"]["output"], re.MULTILINE)
    least, most = sorted(float(row.split()[-2]) for row in rows)
    assert least > 10, "would the Free plan do?"
    assert f"A read took {least:.0f} to {most:.0f} ms of processor time in workerd" in " ".join(README.split())


def test_what_it_costs_beside_fastapi_is_what_was_measured(measured):
    ratio = {
        record["scenario"]: f"{record['value']:.2f}".rstrip("0")
        for record in measured["serve"]["records"]
        if (record["product"], record["peer"]) == ("Kontract, memory", "FastAPI")
    }
    read, write = (ratio[f"{name} on CPython, 16 connections"] for name in ("get_task", "create_task"))
    says = f"it serves {read} times as many reads a second as FastAPI, and {write} times as many writes"
    assert says in " ".join(README.split())
