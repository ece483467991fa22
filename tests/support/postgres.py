"""A throw-away PostgreSQL for the tests, with databases made from a template that has the schema."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import asyncpg

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import THROW_AWAY, Cluster, create_database, programs
from kontract.cli.toolchain.reaper import Reaper
from kontract.core.statements import ApplyPlan
from kontract.core.transaction.store import SqlStore
from kontract.ports import ApplyOutcome, ApplyRefusedError

_TEMPLATE = "kontract_template"
_SCHEMAS = r"SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'"


class Postgres:
    """The server and its databases."""

    def __init__(self, cluster: Cluster, reaper: Reaper, schema: Path) -> None:
        self.cluster = cluster
        self._reaper = reaper
        self._schema = schema
        self._numbers = itertools.count(1)

    @classmethod
    @contextmanager
    def started(cls, checkout: Checkout, reaper: Reaper, **settings: str) -> Iterator[Postgres]:
        """A server; `settings` are PostgreSQL's, over those that make it fast and forgetful."""
        folder = Path(tempfile.mkdtemp(prefix="kontract-tests-"))
        reaper.watch_folder(folder)
        folder.chmod(0o755)  # as root, PostgreSQL runs as another user, who must be able to get in
        cluster = Cluster(folder / "postgres", settings={**THROW_AWAY, **settings})
        try:
            cluster.start()
            reaper.watch_postgres(cluster.pid)
            yield cls(cluster, reaper, checkout.root / "sql" / "init.sql")
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def url(self) -> str:
        """A database that tests may share: with the schema, made at first use."""
        return self.create_database()

    @property
    def server_url(self) -> str:
        """The server's own database `postgres`: for statements that are about databases."""
        return self.cluster.url("postgres")

    def stop(self, how: signal.Signals) -> None:
        """End the server; `start` brings it back on the same port and data.

        `how`: SIGINT rolls back what is under way and writes everything to disk; SIGQUIT drops everything at once, so
        that the log has to be replayed, as after a crash.
        """
        pid = self.cluster.pid
        os.kill(pid, how)
        self.cluster.stop()  # waits for its end
        self._reaper.forget_postgres(pid)

    def start(self) -> None:
        port = self.cluster.port
        self.cluster.start()
        self._reaper.watch_postgres(self.cluster.pid)
        assert self.cluster.port == port

    def create_database(self, *, empty: bool = False, coordination: bool = False) -> str:
        """The URL of a new database: with sql/init.sql applied, or `empty`. Takes some 30 ms; never reused.

        `coordination`: with the tables that several nodes share, too.
        """
        name = f"test_{next(self._numbers)}"
        template = "template0" if empty else self._template
        _run(create_database(self.server_url, name, template))
        url = self.cluster.url(name)
        if coordination:
            self.run(url, self._schema.with_name("coordination.sql").read_text(encoding="utf-8"))
        return url

    def run(self, url: str, sql: str) -> None:
        """Run SQL in a database."""

        async def run() -> None:
            connection = await asyncpg.connect(url)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        _run(run())

    def dump(self, url: str) -> str:
        """A database as it is now, as SQL."""
        command = [programs() / "pg_dump", "--no-owner", url]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def restore(self, url: str, dump: str) -> None:
        """Put a database back to what a dump of it says, as an operator does: whoever is connected is cut off."""
        name = url.rpartition("/")[2].partition("?")[0]
        self.run(self.server_url, f'DROP DATABASE "{name}" WITH (FORCE)')
        _run(create_database(self.server_url, name, "template0"))
        command = [programs() / "psql", "-v", "ON_ERROR_STOP=1", "-q", url]
        subprocess.run(command, input=dump, check=True, capture_output=True, text=True)

    def reset(self, url: str) -> None:
        """Make a database as it was when it was created. A new one is three hundred files more to write and remove."""

        async def make() -> None:
            connection = await asyncpg.connect(url)
            try:
                for row in await connection.fetch(_SCHEMAS):
                    await connection.execute(f'DROP SCHEMA "{row[0]}" CASCADE')
                await connection.execute("CREATE SCHEMA public")
                await connection.execute(self._schema.read_text(encoding="utf-8"))
            finally:
                await connection.close()

        _run(make())

    @cached_property
    def _template(self) -> str:
        async def make() -> None:
            await create_database(self.server_url, _TEMPLATE)
            connection = await asyncpg.connect(self.cluster.url(_TEMPLATE))
            try:
                await connection.execute(self._schema.read_text(encoding="utf-8"))
            finally:
                await connection.close()

        _run(make())
        return _TEMPLATE


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end from anywhere, also from inside an asynchronous test."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def apply(store: SqlStore, plan: ApplyPlan) -> ApplyOutcome:
    """Apply; what the database refuses is a failure like any other, whose reason does not matter here."""
    try:
        return await store.apply(plan)
    except ApplyRefusedError:
        return ApplyOutcome.FAILED
