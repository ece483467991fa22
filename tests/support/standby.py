"""A second PostgreSQL that follows the tests' first one by streaming replication, and takes its place."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg

from kontract.cli.toolchain.postgres import THROW_AWAY, Cluster
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.unprivileged import run_as
from support.postgres import Postgres
from support.programs import program

SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


class Standby:
    """A copy that follows `primary`. After `follow` it has all that the primary has acknowledged from then on."""

    def __init__(self, primary: Postgres, cluster: Cluster) -> None:
        self.primary = primary
        self.cluster = cluster

    def url(self, direct: str) -> str:
        """The same database as another URL of the primary, here."""
        return self.cluster.url(direct.rpartition("/")[2])

    async def follow(self) -> None:
        """From now on the primary acknowledges no commit that is not on the disk of this server, too."""
        async with _connected(self.primary.server_url) as sql:
            await sql.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await sql.execute("SELECT pg_reload_conf()")
            await _until(sql, SYNCHRONOUS)

    async def sender(self) -> int:
        """The process of the primary that sends its log here: while it stands still, nothing leaves the primary."""
        async with _connected(self.primary.server_url) as sql:
            return await sql.fetchval("SELECT pid FROM pg_stat_replication")

    async def receiver(self) -> int:
        """The process that takes the log: while it stands still, what was sent waits at this server's door."""
        async with _connected(self.cluster.url("postgres")) as sql:
            return await sql.fetchval("SELECT pid FROM pg_stat_wal_receiver")

    async def everything_sent(self) -> None:
        """Wait until what is on the primary's disk now has left it."""
        async with _connected(self.primary.server_url) as sql:
            end = await sql.fetchval("SELECT pg_current_wal_flush_lsn()::text")
            await _until(sql, f"SELECT sent_lsn >= '{end}' FROM pg_stat_replication")

    async def promote(self) -> None:
        """Take the place of the primary, and wait for nobody: who was first is not there any more."""
        async with _connected(self.cluster.url("postgres")) as sql:
            assert await sql.fetchval("SELECT pg_promote(wait => true, wait_seconds => 60)")
            assert await sql.fetchval("SHOW synchronous_standby_names") == ""


@contextmanager
def standby(primary: Postgres, reaper: Reaper) -> Iterator[Standby]:
    """Copy a running server, and let the copy follow it; the test has to need `pg_basebackup`."""
    copier = Path(program("pg_basebackup"))
    folder = Path(tempfile.mkdtemp(prefix="kontract-standby-"))
    reaper.watch_folder(folder)
    folder.chmod(0o755)
    cluster = Cluster(folder / "postgres", settings={**THROW_AWAY, "synchronous_commit": "on"})
    cluster.folder.mkdir()
    who = run_as(cluster.folder, copier)
    who.own(cluster.folder)
    copied = subprocess.run(
        [
            *(copier, "--pgdata", cluster.data, "--dbname", primary.server_url),
            *("--checkpoint", "fast", "--wal-method", "stream", "--write-recovery-conf", "--no-sync"),
        ],
        cwd="/",
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **who.popen,
    )
    assert copied.returncode == 0, copied.stderr
    shutil.copyfile(primary.cluster.folder / "password", cluster.folder / "password")
    try:
        cluster.start()
        reaper.watch_postgres(cluster.pid)
        yield Standby(primary, cluster)
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _until(sql: asyncpg.Connection, query: str) -> None:
    while not await sql.fetchval(query):
        await asyncio.sleep(0.01)
