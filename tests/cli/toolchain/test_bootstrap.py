"""`make`'s first step: .venv from uv.lock, with nothing but the system's Python, and sentences when that fails."""

import ast
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kontract.cli.toolchain import bootstrap


@pytest.fixture
def root(tmp_path):
    for name in ("pyproject.toml", "uv.lock"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.fixture
def calls(root, monkeypatch):
    """The commands that it runs; `fails` names the one that fails, and how."""
    seen = []
    fails = {}

    def run(command, **_options):
        words = " ".join(str(word) for word in command)
        seen.append(words)
        for part, output in fails.items():
            if part in words:
                return subprocess.CompletedProcess(command, 1, output, "")
        if " -m venv" in words:
            (root / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "uv 0.0.0" if "--version" in words else "", "")

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    return SimpleNamespace(seen=seen, fails=fails)


def tools(calls):
    return [call for call in calls.seen if " -c " not in call and "--version" not in call]


def test_the_tools_are_installed_from_the_lock_file_and_then_left_alone(root, calls):
    calls.fails["import pip"] = ""

    assert bootstrap.main(str(root)) == 0
    create, get_uv, sync = tools(calls)
    assert "-m venv --clear" in create
    assert "pip install" in get_uv
    assert "uv==0.13.8" in get_uv
    assert "uv sync --locked" in sync

    calls.seen.clear()
    assert bootstrap.main(str(root)) == 0
    assert tools(calls) == []


def test_a_changed_lock_file_keeps_the_environment_and_syncs(root, calls):
    (root / ".venv").mkdir()
    assert bootstrap.main(str(root)) == 0
    (root / "uv.lock").write_text("changed")
    calls.seen.clear()

    assert bootstrap.main(str(root)) == 0
    assert not any(" -m venv" in call for call in calls.seen)
    assert any("uv sync --locked" in call for call in calls.seen)


@pytest.mark.parametrize(
    ("command", "output", "says"),
    [
        ("-m venv", "ensurepip is not available", "python3-venv"),
        ("pip install", "NewConnectionError: Failed to establish", "registry could not be reached"),
        ("uv sync", "error: Failed to fetch: dns error", "registry could not be reached"),
        ("uv sync", "No space left on device (os error 28)", "disk is full"),
        ("uv sync", "The lockfile needs to be updated", "uv lock"),
    ],
)
def test_a_failed_step_is_a_sentence_and_the_next_run_begins_there(root, calls, capsys, command, output, says):
    calls.fails["import pip"] = ""
    calls.fails[command] = output
    (root / ".venv" / "bin").mkdir(parents=True)

    assert bootstrap.main(str(root)) == 1

    told = capsys.readouterr().err
    assert told.startswith("Problem: ")
    assert says in told
    assert output in told
    assert "Traceback" not in told
    assert not (root / ".venv" / "ready").exists()


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 6, 0), (2, 7, 18)])
def test_an_old_python_is_told_which_is_needed(root, capsys, version):
    assert bootstrap.main(str(root), version) == 1

    assert "needs 3.11 or later" in capsys.readouterr().err
    assert not (root / ".venv").exists()


def test_an_old_python_can_read_the_file_to_the_place_that_says_so(checkout):
    source = (checkout.root / "src/kontract/cli/toolchain/bootstrap.py").read_text()

    ast.parse(source, feature_version=(3, 6))


def test_make_tells_an_old_python_too(checkout, tmp_path):
    """Through make, with a `python` that runs the file and says that it is 3.9."""
    old = tmp_path / "python3.9"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 1); sys.argv = sys.argv[1:]; "
        'import runpy; runpy.run_path(sys.argv[0], run_name="__main__")\' "$@"\n'
    )
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copyfile(checkout.root / name, tmp_path / name)
    script = tmp_path / "src/kontract/cli/toolchain/bootstrap.py"
    script.parent.mkdir(parents=True)
    shutil.copyfile(checkout.root / "src/kontract/cli/toolchain/bootstrap.py", script)

    result = subprocess.run(["make", "dev", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert result.returncode != 0
    assert "Python 3.9.1 is too old" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_too_little_space_is_told_before_anything_is_written(root, capsys, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2**20))

    assert bootstrap.main(str(root)) == 1
    assert "Only 1 MB are free" in capsys.readouterr().err
    assert not (root / ".venv").exists()
