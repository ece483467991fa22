"""The pages on testing and deploying: what they show is run, as far as there is no account for it."""

import re
import subprocess
import sys

import pytest

from kontract.cli.main import COMMANDS
from kontract.cli.toolchain import node, setup
from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root
HOW_TO = ROOT / "docs" / "how-to"
PAGES = [HOW_TO / f"{name}.md" for name in ("test-your-app", "start-a-project", "deploy")]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page, kind):
    found = re.findall(rf"^( *)```{kind}\n(.*?)^\1```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_the_tests_that_are_shown_pass(tmp_path):
    """All of them as one file, with the fixtures that they ask for."""
    shown = blocks(PAGES[0], "python tests")
    file = tmp_path / "test_shown.py"
    file.write_text("\n".join(shown))
    assert len(re.findall(r"^async def test_", file.read_text(), re.MULTILINE)) >= 9

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "kontract.testing.pytest", "-p", "no:cacheprovider"),
            *("-c", ROOT / "pyproject.toml", "--rootdir", ROOT, file),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def account_commands():
    """wrangler's command lines that nobody runs here."""
    text = "\n".join(blocks(PAGES[2], "bash account"))
    return sorted(set(re.findall(r"\bwrangler .*", text)))


@pytest.mark.parametrize("line", account_commands())
def test_wrangler_knows_what_is_not_run(line, checkout):
    """Each command with each of its options, from its own help."""
    setup.prepare(checkout)
    words = line.split()[1:]
    command = [
        word
        for word in words[:2]
        if re.fullmatch(
            r"login|hyperdrive|create|secret|put|tail|versions|upload|deploy|rollback|deployments|list", word
        )
    ]
    done = subprocess.run(
        [*node.wrangler_command(checkout), *command, "--help"],
        cwd=ROOT,
        env={**node.environment(node.bin_folder()), "WRANGLER_SEND_METRICS": "false"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"wrangler {' '.join(command)}" in done.stdout
    assert [word for word in words if word.startswith("--") and f"{word} " not in done.stdout] == []


@every_page
def test_the_commands_that_are_named_exist(page):
    text = page.read_text()
    makefile = (ROOT / "Makefile").read_text()
    goals = set(re.findall(r"\bmake ((?:[a-z]+-?)+)\b", "\n".join(re.findall(r"`+([^`]+)`+", text))))
    commands = set(re.findall(r"bin/kontract ([a-z-]+)", text))

    assert goals
    assert [goal for goal in goals if not re.search(rf"^{goal}:", makefile, re.MULTILINE)] == []
    assert commands <= COMMANDS.keys()


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert "://" in target or (page.parent / target).is_file(), target


def test_fixtures_that_are_named_exist():
    from kontract.testing import pytest as plugin
    from kontract.testing.app import Api, App
    from kontract.testing.worker import Worker

    text = PAGES[0].read_text()
    for name in re.findall(r"\bapp\.(\w+)", text):
        assert hasattr(App, name) or name in ("clock", "http", "log"), name
    for name in re.findall(r"\bworker\.(\w+)", text):
        assert hasattr(Worker, name), name
    for name in ("as_user", "response", "request", "changes"):
        assert f"api.{name}(" in text
        assert hasattr(Api, name)
    assert hasattr(plugin, "kontract_environment")
