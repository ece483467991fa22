"""A PgBouncer in transaction mode in front of the tests' PostgreSQL, with fewer connections than it has clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kontract.cli.toolchain.postgres import USER, Cluster
from kontract.cli.toolchain.processes import free_port, wait_until
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.unprivileged import run_as

POOL = 2
"""Connections to PostgreSQL per database. They take turns, so that two statements of one client rarely share one."""

MISSING = "no program `pgbouncer` (a package of Debian, Ubuntu, Homebrew): nothing was tested through a pooler"

_CONFIG = """
[databases]
* = host=127.0.0.1 port={upstream}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool}
min_pool_size = {pool}
server_round_robin = 1
max_client_conn = 1000
server_idle_timeout = 5
logfile = {folder}/log
"""


@dataclass(frozen=True)
class PgBouncer:
    """`url` names the same database as another URL, reached through the pooler."""

    port: int
    log: Path

    def url(self, direct: str) -> str:
        return urlsplit(direct)._replace(netloc=urlsplit(direct).netloc.rpartition(":")[0] + f":{self.port}").geturl()


def program() -> str | None:
    """Where it is; distributions put it where ordinary users do not look."""
    return shutil.which("pgbouncer", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def pgbouncer(cluster: Cluster, reaper: Reaper) -> Iterator[PgBouncer]:
    """Start one for `cluster`; the test is skipped where there is no such program."""
    found = program()
    if found is None:
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="kontract-pgbouncer-"))
    reaper.watch_folder(folder)
    port = free_port()
    (folder / "users").write_text(f'"{USER}" "{cluster.password}"\n')
    config = folder / "pgbouncer.ini"
    config.write_text(_CONFIG.format(upstream=cluster.port, port=port, folder=folder, pool=POOL))
    who = run_as(folder, Path(found))  # it refuses to run as root, as PostgreSQL does
    for path in (folder, folder / "users", config):
        who.own(path)
    process = subprocess.Popen(
        [found, "--quiet", config],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **who.popen,
    )
    reaper.watch_group(process.pid)
    try:
        assert wait_until(lambda: process.poll() is not None or _listens(port), 60)
        assert process.poll() is None, (folder / "log").read_text()
        yield PgBouncer(port, folder / "log")
    finally:
        process.terminate()
        process.wait(30)
        reaper.forget_group(process.pid)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
