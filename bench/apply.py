"""What the apply statement costs in PostgreSQL beside a plain upsert of the same rows, side by side in one run.

Planning and execution time come from EXPLAIN (ANALYZE), so neither the network nor Python is in them.

Run: .venv/bin/python bench/apply.py [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
from pathlib import Path

import asyncpg
import records
from msgspec import Raw
from records import TIMES, Record, over_rounds

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import Cluster
from kontract.core.messages import Write
from kontract.core.statements import ApplyPlan, Statement
from kontract.core.transaction import sql
from kontract.core.types import Epoch, TableKind, TablePointer, Txid

WARM_UP = 20
BLOCKS = 4  # the spread is that of so many parts of the rounds
POINTER = TablePointer("accounts", "tbl_accounts_9b27e4", TableKind.VERSIONED, 7)

UPSERT = """
INSERT INTO plain_accounts (id, data)
SELECT e.value->>'id', e.value->'data' FROM jsonb_array_elements($1::jsonb) AS e(value)
ON CONFLICT (id) DO UPDATE SET data = excluded.data
"""


async def measure(connection: asyncpg.Connection, statement: Statement) -> tuple[float, float]:
    """Run a statement under EXPLAIN ANALYZE; return its planning and execution milliseconds."""
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {statement.text}", *statement.params)
    text = "\n".join(row[0] for row in rows)
    found = [re.search(rf"{word} Time: ([0-9.]+) ms", text) for word in ("Planning", "Execution")]
    planning, execution = (float(match[1]) if match else 0.0 for match in found)
    return planning, execution


async def compare(connection: asyncpg.Connection, size: int, rounds: int) -> Record:
    """Alternate between the two statements and print medians."""
    times: dict[str, list[tuple[float, float]]] = {"apply": [], "upsert": []}
    base = await connection.fetchval("SELECT coalesce(max(abs(create_txid)), 0) FROM trxs WHERE sid NOT LIKE 'epoch/%'")
    seen: dict[str, int | None] = {}
    for number in range(WARM_UP + rounds):
        txid = base + number + 1
        ids = [f"account-{(number * size + n) % 50_000}" for n in range(size)]
        data = Raw(b'{"balance":%d}' % txid)
        writes = [Write("accounts", POINTER.ptr, one, seen.get(one), data) for one in ids]
        plan = ApplyPlan(f"bench-{size}-{number}", "tenant-1", "bench", Txid(txid), Epoch(1), [(POINTER, writes)])
        times["apply"].append(await measure(connection, sql.apply(plan)))
        seen.update(dict.fromkeys(ids, txid))
        rows = json.dumps([{"id": one, "data": {"balance": txid}} for one in ids])
        times["upsert"].append(await measure(connection, Statement(UPSERT, (rows,))))
    medians = {
        name: [statistics.median(part) for part in zip(*measured[WARM_UP:], strict=True)]
        for name, measured in times.items()
    }
    for name, (planning, execution) in medians.items():
        print(f"  {size:>3} rows  {name:<7} planning {planning:6.3f} ms   execution {execution:6.3f} ms")
    sums = {name: [sum(one) for one in measured[WARM_UP:]] for name, measured in times.items()}
    blocks = [slice(rounds * n // BLOCKS, rounds * (n + 1) // BLOCKS) for n in range(BLOCKS)]
    ratios = [statistics.median(sums["apply"][block]) / statistics.median(sums["upsert"][block]) for block in blocks]
    own, plain = (sum(medians[name]) for name in ("apply", "upsert"))
    found = over_rounds(
        f"server time of {size} row{'s' if size > 1 else ''}",
        ratios,
        TIMES,
        product="commit statement",
        peer="plain upsert",
        behind=f"{own:.2f} ms beside {plain:.2f} ms",
    )
    print(f"  {size:>3} rows  ratio of server time: {found.value:.1f} ({found.low:.1f}-{found.high:.1f})")
    return found


async def run(url: str, schema: str, rounds: int) -> list[Record]:
    """Fill two tables with 50,000 rows each, then compare."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await connection.execute(schema)
        await connection.execute("CREATE TABLE plain_accounts (id TEXT PRIMARY KEY, data JSONB NOT NULL)")
        await connection.execute("CREATE INDEX ON plain_accounts USING gin (data jsonb_path_ops)")
        rows = "SELECT 'account-' || n, '{\"balance\": 1}'::jsonb FROM generate_series(0, 49999) AS n"
        await connection.execute(f"INSERT INTO plain_accounts {rows}")
        await connection.execute(
            f"INSERT INTO {POINTER.ptr} (id, data, _txid, _owner) SELECT a, b, 0, 'bench' FROM ({rows}) AS r(a, b)"
        )
        await connection.execute("INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 1)")
        await connection.execute("ANALYZE")
        print((await connection.fetchval("SELECT version()")).split(" on ")[0])
        return [await compare(connection, size, rounds) for size in (1, 2, 10, 100)]
    finally:
        await connection.close()


def main() -> None:
    """Start a throw-away cluster and compare in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    records.add_option(parser)
    options = parser.parse_args()
    schema = (Checkout.find().root / "sql" / "init.sql").read_text()
    with tempfile.TemporaryDirectory(prefix="kontract-bench-") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder) / "postgres")
        try:
            cluster.start()
            records.write(options.records, asyncio.run(run(cluster.url("postgres"), schema, options.rounds)))
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
