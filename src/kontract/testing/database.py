"""The PostgreSQL of the tests: a server for one run, with one database that is reset for each test.

A reset deletes the content of all tables and restores what the migrations had written: that takes a few milliseconds,
while creating a database from a template takes thirty.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from kontract.cli.migrate import migrate
from kontract.cli.toolchain.postgres import THROW_AWAY, Cluster, create_database
from kontract.cli.toolchain.reaper import Reaper

# What the migrations have put into the tables of the application: kept beside them, in a schema of its own.
_REMEMBER = """
DO $$
DECLARE one record; filled boolean;
BEGIN
  CREATE SCHEMA kontract_first;
  FOR one IN SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM public.%I)', one.name) INTO filled;
    IF filled THEN
      EXECUTE format('CREATE TABLE kontract_first.%I AS TABLE public.%I', one.name, one.name);
    END IF;
  END LOOP;
END $$
"""

# Without triggers and foreign keys, so in any order. A table that grew large is cut, because nothing vacuums it.
_PUT_BACK = """
DO $$
DECLARE one record;
BEGIN
  SET LOCAL session_replication_role = replica;
  FOR one IN SELECT oid, relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
  LOOP
    IF pg_relation_size(one.oid) > 1048576 THEN
      EXECUTE format('TRUNCATE public.%I CASCADE', one.name);
    ELSE
      EXECUTE format('DELETE FROM public.%I', one.name);
    END IF;
  END LOOP;
  FOR one IN
    SELECT c.relname AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
    FROM pg_class first
    JOIN pg_class c ON c.relname = first.relname AND c.relnamespace = 'public'::regnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE first.relnamespace = 'kontract_first'::regnamespace AND first.relkind = 'r'
    GROUP BY c.relname
  LOOP
    EXECUTE format('INSERT INTO public.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM kontract_first.%I',
                   one.name, one.columns, one.columns, one.name);
  END LOOP;
END $$
"""


class Server:
    """A PostgreSQL server in a temporary folder."""

    def __init__(self, cluster: Cluster) -> None:
        """``cluster``: a running one."""
        self._cluster = cluster

    @classmethod
    @contextmanager
    def started(cls, reaper: Reaper) -> Iterator[Server]:
        """Start a server; it is stopped at the end, by ``reaper`` if this process is killed."""
        folder = Path(tempfile.mkdtemp(prefix="kontract-testing-"))
        reaper.watch_folder(folder)
        folder.chmod(0o755)  # as root, PostgreSQL runs as another user, who must be able to get in
        cluster = Cluster(folder / "postgres", settings=THROW_AWAY)
        try:
            cluster.start()
            reaper.watch_postgres(cluster.pid)
            yield cls(cluster)
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)

    def create(self, name: str) -> str:
        """Create a database with the application's schema and return its URL; raises Problem if that fails."""
        url = self._cluster.url(name)

        async def make() -> None:
            await create_database(self._cluster.url("postgres"), name)
            await migrate(url, lambda _text: None)
            connection = await asyncpg.connect(url)
            try:
                await connection.execute(_REMEMBER)
            finally:
                await connection.close()

        run(make())
        return url


async def put_back(connection: Any) -> None:
    """Reset a database to its state after creation, except for tables that were added or altered since."""
    await connection.execute(_PUT_BACK)


async def live_rows(connection: Any, owner: str, table: str) -> list[tuple[str, str]]:
    """Return id and JSON text of the rows of a logical table, in insertion order.

    Raises LookupError when the tenant has no such table.
    """
    pointer = await connection.fetchval(
        "SELECT ptr FROM storage WHERE owner = $1 AND id IN ($2, $1 || '/' || $2)", owner, table
    )
    if pointer is None:
        message = f"tenant {owner!r} has no table {table!r}"
        raise LookupError(message)
    quoted = '"' + pointer.replace('"', '""') + '"'
    rows = await connection.fetch(
        f"SELECT id, data::text FROM {quoted} WHERE _deleted_txid IS NULL ORDER BY _order, id"  # noqa: S608 - quoted
    )
    return [(row[0], row[1]) for row in rows]


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, even if a loop is already running."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
