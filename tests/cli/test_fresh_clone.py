"""The quick start as a newcomer does it: nothing is installed, `make dev`, paste what it prints, Ctrl-C."""

import json
import shutil
import signal
import subprocess
import time

import pytest

from kontract.cli.toolchain.processes import free_port, table
from support.dev import dev
from support.programs import needing


@pytest.fixture
@needing("curl", "git")
def clone(checkout, tmp_path):
    """What a clone has: the files that git knows or would take, as they are now, and nothing generated."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout.root,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "a clone"  # people have blanks in their paths
    for name in filter(None, listed.stdout.split("\0")):
        source, target = checkout.root / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder


def paste(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_make_dev_in_a_fresh_clone(clone):
    port = free_port()
    with dev(clone, port=port, command=("make", "dev")) as first:
        first.wait_for("Kontract is ready on", 500)
        health, token, create, read = first.curl_lines()

        assert paste(health)["status"] == "ok"
        made = paste(f"{token}\n{create}")["result"]
        assert made["title"] == "Buy milk"
        assert made in paste(f"{token}\n{read}")["result"]

        first.send(signal.SIGINT)
        first.wait()
    assert "Traceback" not in first.output
    assert not [one for one in table() if str(clone) in one.command and one.state != "Z"]

    started = time.monotonic()
    with dev(clone, port=port, command=("make", "dev")) as second:
        second.wait_for("Kontract is ready on")
        seconds = time.monotonic() - started
        assert made in paste(f"{token}\n{read}")["result"], "Ctrl-C loses nothing"
        second.send(signal.SIGINT)
        second.wait()
    print(f"second start: {seconds:.1f} s")
    # The promise is 15 s; a machine that runs other things beside is given twice that.
    assert seconds < 30
