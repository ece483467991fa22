"""Tools fail with advice, and a group of processes ends with all its members."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import (
    command_of,
    free_port,
    group_members,
    is_running,
    run_tool,
    stop_group,
    wait_until,
)


def tool(code, **options):
    return run_tool([sys.executable, "-c", code], failed="The tool failed.", fix="Repair it.", **options)


def test_a_tools_output_is_returned(tmp_path):
    assert tool("import os; print(os.getcwd())", cwd=tmp_path).strip() == str(tmp_path.resolve())


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("npm error code ENOTFOUND", "The package registry could not be reached"),
        ("Failed to establish a new connection: [Errno 111]", "The package registry could not be reached"),
        ("error: failed to fetch; dns error", "The package registry could not be reached"),
        ("ENOSPC: no space left on device, write", "The disk is full"),
        ("something else", "Repair it."),
    ],
)
def test_a_failure_says_what_to_do_and_quotes_the_tool(tmp_path, output, advice):
    with pytest.raises(Problem) as caught:
        tool(f"import sys; sys.exit({output!r})", cwd=tmp_path)

    assert caught.value.what == "The tool failed."
    assert caught.value.fix.startswith(advice)
    assert output in caught.value.detail


def test_a_tool_that_is_not_there_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="cannot be run: No such file"):
        run_tool([tmp_path / "nothing"], cwd=tmp_path, failed="The tool failed.", fix="Install it.")


def test_a_free_port_can_be_bound_and_a_taken_one_is_not_offered():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_a_zombie_counts_as_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert wait_until(lambda: not is_running(child.pid), 5)  # nobody has collected it yet
    child.wait()


def test_a_command_line_is_seen():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "marker of this test"])
    try:
        assert wait_until(lambda: "marker of this test" in command_of(child.pid), 5)
    finally:
        child.kill()
        child.wait()
    assert command_of(child.pid) == ""


# A parent that ignores SIGINT, and its child: as stubborn as a group can be.
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_group_ends_with_every_member(stubborn):
    code = _STUBBORN if stubborn else _STUBBORN.replace("SIG_IGN", "SIG_DFL")
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout.readline() == b"ready\n"
    assert wait_until(lambda: len(group_members(leader.pid)) == 2, 5)
    started = time.monotonic()

    stop_group(leader.pid, grace=0.5)

    assert group_members(leader.pid) == []
    assert leader.wait() == (-signal.SIGKILL if stubborn else -signal.SIGINT)
    assert time.monotonic() - started < 4
    leader.stdout.close()


def test_stopping_a_group_that_is_gone_is_no_error():
    child = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    child.wait()

    stop_group(child.pid, grace=1)


def test_the_tests_own_group_is_seen():
    assert os.getpid() in [one.pid for one in group_members(os.getpgid(0))]
