"""The systemd units: systemd reads them without a word, and finds them well shut in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.deployment import DEPLOY, HOME, ORDERLY_END_SECONDS, env_file, seconds, unit
from support.programs import needing, program

UNITS = ["kontract.service", "kontract-migrate.service"]
# 0 is the best; systemd itself calls up to 2 "OK". What is left is the network, which a server cannot do without.
EXPOSURE = 16


@pytest.fixture
@needing("systemd-analyze")
def analyze(tmp_path):
    """systemd-analyze with a unit in which the place of the application is this environment, so that it is there."""

    def run(name, *command, change=("", "")):
        text = (DEPLOY / "systemd" / name).read_text().replace(f"{HOME}/.venv", str(Path(sys.prefix)))
        path = tmp_path / name
        path.write_text(text.replace(f"WorkingDirectory={HOME}", "WorkingDirectory=/").replace(*change))
        return subprocess.run(
            [program("systemd-analyze"), *command, path],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=dict(os.environ),
        )

    return run


@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_it_without_a_word(analyze, name):
    done = analyze(name, "verify", "--man=no")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_it_shut_in(analyze, name):
    """The score of `systemd-analyze security`, ten times what it prints; without one of the settings it is worse."""
    command = ("security", "--offline=true", f"--threshold={EXPOSURE}")
    assert analyze(name, *command).returncode == 0
    assert analyze(name, *command, change=("SystemCallFilter=", "#")).returncode != 0


def test_the_analyser_would_find_a_mistake(analyze):
    done = analyze("kontract.service", "verify", "--man=no", change=("Restart=on-failure", "Restart=sometimes"))
    assert "restart specifier" in done.stderr


def test_there_is_time_for_an_orderly_end():
    drain = int(env_file(DEPLOY / "systemd" / "kontract.env.example")["KONTRACT_DRAIN_SECONDS"])
    settings = unit("kontract.service")
    assert seconds(settings["TimeoutStopSec"][-1]) > ORDERLY_END_SECONDS + drain
    assert settings["KillSignal"] == ["SIGTERM"]
    assert settings["KillMode"] == ["mixed"], "only the main process is told to end: it tells its workers"


def test_it_waits_for_a_database_that_comes_later():
    """A machine that starts everything at once must not need a second look."""
    settings = unit("kontract.service")
    assert settings["Restart"] == ["on-failure"]
    assert settings["StartLimitIntervalSec"] == ["0"]
    assert "RestartPreventExitStatus" not in settings, "the server ends with 2 without a database as well"


@pytest.mark.parametrize("name", UNITS)
def test_it_runs_what_the_documentation_installs(name):
    settings = unit(name)
    assert settings["WorkingDirectory"] == [HOME]
    assert settings["ExecStart"][0].startswith(f"{HOME}/.venv/bin/kontract ")
    assert settings["EnvironmentFile"][0] == "/etc/kontract/kontract.env"
    assert settings["DynamicUser"] == ["yes"]


def test_the_example_of_the_settings_holds_no_secret():
    example = env_file(DEPLOY / "systemd" / "kontract.env.example")
    assert example["KONTRACT_SECRET"] == ""
    assert "PASSWORD" in example["DATABASE_URL"]


def test_native_packages_do_without_memory_that_is_writable_and_executable():
    """MemoryDenyWriteExecute: a package that makes machine code at run time would end the server at its first use."""
    assert unit("kontract.service")["MemoryDenyWriteExecute"] == ["yes"]
    code = """
import ctypes, mmap, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
import asyncpg, cryptography.hazmat.primitives.ciphers.aead as aead, granian.server.embed, msgspec, uvloop
aead.ChaCha20Poly1305(bytes(32)).encrypt(bytes(12), b"x", b"")
uvloop.new_event_loop().close()
msgspec.json.encode({})
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    sys.exit(0)
sys.exit("memory may be both")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 77:
        pytest.skip("this kernel (before 6.3) cannot forbid it")
    assert done.returncode == 0, done.stderr
