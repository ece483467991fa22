"""The texts beside the code: complete, with links that lead somewhere, and about no particular machine."""

import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root
DECISIONS = sorted((ROOT / "docs" / "explanation" / "decisions").glob("[0-9]*.md"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *DECISIONS,
    ROOT / "docs/explanation/decisions/README.md",
]
FILES = [*TEXTS, ROOT / ".editorconfig", ROOT / ".pre-commit-config.yaml", ROOT / ".github/workflows/deploy.yml"]
PLACES = re.compile(r"`((?:\.?[\w-]+/)*[\w.-]+\.(?:py|md|toml|sql|json|yml)|(?:\.?[\w-]+/)+)(?![\w.])")
SOURCES = [ROOT, ROOT / "src", ROOT / "src" / "kontract"]


def named(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DECISIONS, ids=named)
def test_a_decision_has_context_choice_and_consequences(path):
    text = path.read_text()

    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["Context", "Choice", "Consequences"]
    assert text.startswith(f"# {path.name[:4]}: ")
    assert len(text.split()) < 600, "one short page"


def test_the_index_lists_every_decision_by_its_title():
    index = (ROOT / "docs" / "explanation" / "decisions" / "README.md").read_text()

    listed = re.findall(r"\[(\d{4})\]\((.+?)\) \| (.+?) \|", index)
    titles = [re.match(r"# \d{4}: (.*)", path.read_text())[1].replace("`", "") for path in DECISIONS]
    assert [(number, name) for number, name, _ in listed] == [(path.name[:4], path.name) for path in DECISIONS]
    assert [title.replace("`", "") for *_, title in listed] == titles


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_links_and_paths_lead_somewhere(path):
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("https://")]
    generated = {
        "python_modules/",
        ".kontract/",
        "src/routes.py",
        "src/app/notes.py",
        "sql/migrations/0001_add_notes.sql",
    }

    assert [link for link in links if not (path.parent / link).exists()] == []
    places = set(PLACES.findall(text)) - generated
    assert [place for place in places if not any((base / place).exists() for base in places_of(path))] == []


def places_of(path):
    """Where a path in a text may start: the root, the sources, or the folder of a module that was named before."""
    rooms = ("core", "core/protocol", "core/transaction", "coordination", "cli", "cli/toolchain")
    folders = [ROOT / "src" / "kontract" / name for name in rooms]
    return [*SOURCES, path.parent, *folders]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_lines_are_short_and_nothing_is_about_one_machine(path):
    text = path.read_text()
    prose = re.sub(r"^```console.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)  # answers are as long as they are

    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/", text)
    assert not re.search(r"pypi\.org|pythonhosted|registry\.npmjs", text)
    assert text.endswith("\n")
    assert "\t" not in text


def test_the_changelog_knows_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()

    first = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[0]
    assert first in ("Unreleased", version)
    assert version in text


def test_the_licence_is_the_one_that_the_package_names():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert (ROOT / "LICENSE").read_text() == (ROOT / "src/kontract/LICENSE").read_text()


def test_hooks_run_goals_of_make_and_need_no_other_host():
    path = ROOT / ".pre-commit-config.yaml"
    done = subprocess.run(
        [Path(sys.executable).parent / "pre-commit", "validate-config", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "no warnings either"

    repos = yaml.safe_load(path.read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in repos[0]["hooks"]:
        command, goal = hook["entry"].split()
        assert command == "make"
        assert re.search(rf"^{goal}:", makefile, re.MULTILINE)
        assert hook["language"] == "system"
        assert re.compile(hook["files"]).search("src/kontract/ports.py")


def test_the_editor_is_told_what_ruff_and_make_want():
    parser = ConfigParser()
    parser.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]

    assert parser["top"]["root"] == "true"
    assert parser["*"].getint("max_line_length") == ruff["line-length"]
    assert parser["*.py"].getint("indent_size") == 4
    assert parser["Makefile"]["indent_style"] == "tab"
