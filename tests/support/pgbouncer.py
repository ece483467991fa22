"""A PgBouncer in front of the tests' PostgreSQL, in transaction mode, with fewer connections than it has clients."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from kontract.cli.toolchain.postgres import USER, Cluster
from kontract.cli.toolchain.processes import free_port, wait_until
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.unprivileged import run_as
from support.programs import program

POOL = 2
"""Connections to PostgreSQL per database. They take turns, so that two statements of one client rarely share one."""

_CONFIG = """
[databases]
* = host=127.0.0.1 port={upstream}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {pool}
min_pool_size = {pool}
server_round_robin = 1
max_client_conn = 1000
server_idle_timeout = 5
logfile = {folder}/log
"""


class PgBouncer:
    """One pooler. `url` names the same database as another URL, reached through it."""

    def __init__(self, found: str, cluster: Cluster, reaper: Reaper, pool: int, mode: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kontract-pgbouncer-"))
        reaper.watch_folder(self.folder)
        self.port = free_port()
        self.log = self.folder / "log"
        self._found, self._reaper, self._pool, self._mode = found, reaper, pool, mode
        (self.folder / "users").write_text(f'"{USER}" "{cluster.password}"\n')
        self._config = self.folder / "pgbouncer.ini"
        self._who = run_as(self.folder, Path(found))  # it refuses to run as root, as PostgreSQL does
        self.point_to(cluster.port)
        for path in (self.folder, self.folder / "users", self._config):
            self._who.own(path)

    def url(self, direct: str) -> str:
        return urlsplit(direct)._replace(netloc=urlsplit(direct).netloc.rpartition(":")[0] + f":{self.port}").geturl()

    def point_to(self, port: int) -> None:
        """Write the configuration, which counts from the next start or `reload` on."""
        self._config.write_text(
            _CONFIG.format(upstream=port, port=self.port, folder=self.folder, pool=self._pool, mode=self._mode)
        )

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._found, "--quiet", self._config],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._who.popen,
        )
        self._reaper.watch_group(self._process.pid)
        assert wait_until(lambda: self._process.poll() is not None or _listens(self.port), 60)
        assert self._process.poll() is None, self.log.read_text()

    def reload(self) -> None:
        """Read the configuration again. Clients keep their connections, and get others behind them."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self, how: int = signal.SIGTERM) -> None:
        self._process.send_signal(how)
        self._process.wait(30)
        self._reaper.forget_group(self._process.pid)


@contextmanager
def pgbouncer(cluster: Cluster, reaper: Reaper, pool: int = POOL, mode: str = "transaction") -> Iterator[PgBouncer]:
    """Start one for `cluster`; the test has to need it."""
    pooler = PgBouncer(program("pgbouncer"), cluster, reaper, pool, mode)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(pooler.folder, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
