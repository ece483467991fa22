"""What statements cost PostgreSQL at different sizes of their table, side by side in one run.

Processor time of the backend process (Linux), so neither the network nor Python nor waiting is in it. Statements are
prepared as a server does it, before the tables are filled; --unprepared: as it does behind a pooler that keeps none.

Run: .venv/bin/python bench/sizes.py [--rounds N] [--sizes 0,500,10000,100000,1000000] [--only commit] [--unprepared]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncpg
import records
from msgspec import Raw
from records import TIMES, Record, over_rounds

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import THROW_AWAY, Cluster, create_database
from kontract.core.messages import ABSENT, Write
from kontract.core.statements import ApplyPlan, Statement, Window
from kontract.core.transaction import sql
from kontract.core.types import EVERY_ROW, Epoch, Filter, Snapshot, TableKind, TablePointer, Txid
from kontract.server.prepared import KEPT, Statements

TABLE = TablePointer("tasks", "tbl_tasks_5f0c1d", TableKind.VERSIONED, 7)
RUNS = 40  # of one statement at one size in a round
DEAD = 100_000
NOW = Snapshot(1_000_000_000)

_numbers = itertools.count(10)


def _apply(*writes: Write) -> Statement:
    number = next(_numbers)
    return sql.apply(ApplyPlan(f"s/{number}", "tenant-1", "ann", Txid(number), Epoch(1), [(TABLE, writes)]))


def _write(row_id: str, seen: int | None) -> Write:
    return Write("tasks", TABLE.ptr, row_id, seen, Raw(b'{"title":"written","done":false}'))


STATEMENTS: dict[str, Callable[[], Statement]] = {
    "commit of a new row": lambda: _apply(_write(f"new-{next(_numbers)}", ABSENT)),
    "commit of a blind write": lambda: _apply(_write("row-7", None)),
    "get": lambda: sql.read_row(TABLE, "row-9", NOW),
    "page": lambda: sql.query(TABLE, EVERY_ROW, NOW, Window(limit=100)),
    "pop": lambda: sql.end_row(TABLE, NOW, (), last=True),
    "shift": lambda: sql.end_row(TABLE, NOW, (), last=False),
    "filter with index": lambda: sql.query(TABLE, Filter({"title": "t9"}), NOW, Window(limit=100)),
}


def processor_time(pid: int) -> int:
    """Return the nanoseconds that a process has had a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])


class Sized:
    """A database whose table has so many live rows and, if wanted, dead versions."""

    def __init__(self, url: str, rows: int, dead: int, *, prepared: bool) -> None:
        """Connect later."""
        self.name = f"{rows:,} rows" + (f" and {dead:,} dead versions" if dead else "")
        self._url, self._rows, self._dead, self._prepared = url, rows, dead, prepared

    async def open(self) -> None:
        """Prepare on the empty table, then fill it and let PostgreSQL look at what it has."""
        self.sql = await asyncpg.connect(self._url, statement_cache_size=KEPT if self._prepared else 0)
        await self.sql.execute("INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 1)")
        self.pid = await self.sql.fetchval("SELECT pg_backend_pid()")
        self._statements = Statements(self.sql, named=self._prepared, pooled=not self._prepared)
        for _ in range(8):
            for make in STATEMENTS.values():
                await self._run(make())
        await self.sql.execute(f"DELETE FROM {TABLE.ptr}")
        for first, last, ended in ((1, self._dead, 2), (1, self._rows, None)):
            await self.sql.execute(
                f"INSERT INTO {TABLE.ptr} (id, data, _txid, _deleted_txid, _owner) SELECT 'row-' || n, "
                "jsonb_build_object('title', 't' || n, 'done', false), CASE WHEN $3::bigint IS NULL THEN 3 ELSE 1 END, "
                "$3::bigint, 'ann' FROM generate_series($1::int, $2::int) AS n",
                first,
                last,
                ended,
                timeout=600,
            )
        await self.sql.execute(f"SELECT gin_clean_pending_list('{TABLE.ptr}_data')")  # as autovacuum does

    async def _run(self, statement: Statement) -> None:
        await self._statements.fetch(statement, None)

    async def measure(self, make: Callable[[], Statement], runs: int) -> float:
        """Return the microseconds of processor time of one run."""
        statements = [make() for _ in range(runs)]
        before = processor_time(self.pid)
        for statement in statements:
            await self._run(statement)
        return (processor_time(self.pid) - before) / runs / 1000


async def compare(sized: list[Sized], rounds: int, only: str) -> list[Record]:
    """Go through all sizes in each round and print medians."""
    found = []
    for name, make in STATEMENTS.items():
        if only not in name:
            continue
        for one in sized:
            await one.measure(make, RUNS)
        times = [[await one.measure(make, RUNS) for one in sized] for _ in range(rounds)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        print(name)
        for one, median in zip(sized, medians, strict=True):
            print(f"  {one.name:<40} {median:>9.0f} µs")
        ratios = [max(row) / min(row) for row in times]
        slowest = f"{sized[medians.index(max(medians))].name}: {max(medians):.0f} µs; least {min(medians):.0f} µs"
        found.append(over_rounds(f"{name}: most to least over sizes", ratios, TIMES, behind=slowest))
        print(f"  most to least: {found[-1].value:.2f} ({found[-1].low:.2f}-{found[-1].high:.2f})")
    return found


async def run(cluster: Cluster, schema: str, options: argparse.Namespace) -> list[Record]:
    """Make a database for each size, then compare."""
    sized = []
    for number, rows in enumerate(options.sizes):
        for dead in (0, *([DEAD] if options.dead else [])):
            name = f"sized_{number}_{dead}"
            await create_database(cluster.url("postgres"), name)
            url = cluster.url(name)
            connection = await asyncpg.connect(url)
            await connection.execute(schema)
            await connection.close()
            sized.append(Sized(url, rows, dead, prepared=not options.unprepared))
    for one in sized:
        await one.open()
        if options.vacuum:
            await one.sql.execute(f"VACUUM ANALYZE {TABLE.ptr}", timeout=600)
    try:
        return await compare(sized, options.rounds, options.only)
    finally:
        for one in sized:
            await one.sql.close()


def main() -> None:
    """Start a throw-away cluster and compare in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[0, 500, 10_000, 100_000]
    )
    parser.add_argument("--dead", action="store_true", help=f"also with {DEAD:,} dead versions")
    parser.add_argument("--only", default="", help="statements whose name has this in it")
    parser.add_argument("--unprepared", action="store_true", help="each statement is parsed and planned")
    parser.add_argument("--vacuum", action="store_true", help="VACUUM ANALYZE when the tables are filled")
    records.add_option(parser)
    options = parser.parse_args()
    schema = (Checkout.find().root / "sql" / "init.sql").read_text()
    with tempfile.TemporaryDirectory(prefix="kontract-bench-") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder) / "postgres", settings=dict(THROW_AWAY))
        try:
            cluster.start()
            records.write(options.records, asyncio.run(run(cluster, schema, options)))
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
