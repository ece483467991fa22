"""When a command is killed so hard that it cannot tidy up, the reaper does."""

import signal
import subprocess
import sys

import pytest

from kontract.cli.toolchain.postgres import Cluster
from kontract.cli.toolchain.processes import group_members, is_running, wait_until
from kontract.cli.toolchain.reaper import Reaper

_OWNER = """
import subprocess, sys, time
from pathlib import Path
from kontract.cli.toolchain.postgres import Cluster
from kontract.cli.toolchain.reaper import Reaper
reaper = Reaper()
cluster = Cluster(Path(sys.argv[1]))
cluster.start()
reaper.watch_postgres(cluster.pid)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
reaper.watch_group(child.pid)
spared = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
reaper.watch_group(spared.pid)
reaper.forget_group(spared.pid)
worthless = Path(sys.argv[1]).parent / "worth less"
worthless.mkdir()
reaper.watch_folder(worthless)
print(child.pid, cluster.pid, spared.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_owner_started_is_ended(tmp_path, number):
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, tmp_path / "postgres"], stdout=subprocess.PIPE)
    group, server, spared = (int(word) for word in owner.stdout.readline().split())
    assert group_members(group)
    assert is_running(server)

    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()

    assert wait_until(lambda: not group_members(group) and not is_running(server), 15)
    assert wait_until(lambda: not (tmp_path / "worth less").exists(), 5)
    assert "database system is shut down" in Cluster(tmp_path / "postgres").log.read_text()
    subprocess.run(["kill", "-9", str(spared)], check=True)


def test_an_owner_that_ends_well_leaves_nothing_to_do():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
    reaper = Reaper()
    reaper.watch_group(child.pid)
    child.kill()
    child.wait()

    reaper.close()

    assert reaper._process.returncode == 0
