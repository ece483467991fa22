"""Reads of random histories, compared with what a few lines of Python say should be visible."""

from __future__ import annotations

import json
import random

import asyncpg
import pytest

from kontract.core.statements import Pending, Window
from kontract.core.transaction.store import SqlStore
from kontract.core.types import EVERY_ROW, Filter, TableKind, TablePointer
from kontract.server.database import AsyncpgDatabase

TASKS = TablePointer("tasks", "tbl_tasks_5f0c1d", TableKind.VERSIONED, 7)
LAST = 12


def random_history(rng: random.Random) -> list[tuple]:
    """Versions (id, data, _txid, _deleted_txid, _owner, _order): those of one id follow each other."""
    versions, order = [], list(range(1, 9))
    rng.shuffle(order)
    for number in range(8):
        at = rng.randint(1, LAST)
        while at < LAST:
            ended = rng.choice([None, rng.randint(at + 1, LAST), rng.randint(at + 1, LAST)])
            data = {"n": rng.randint(0, 2), "x": rng.choice(["a", "b", None])}
            versions.append((f"r{number}", json.dumps(data), at, ended, rng.choice("uv"), order[number]))
            if ended is None:
                break
            at = ended + rng.choice([0, 0, 1, 3])
    return versions


def seen(versions: list[tuple], snapshot: int, pending: list[Pending], only: str | None) -> list[tuple]:
    """Return (id, data, position) of what is visible at the snapshot, under pending writes."""
    stored = [v for v in versions if v[2] <= snapshot and (v[3] is None or v[3] > snapshot)]
    place = {v[0]: v[5] for v in stored}
    own = {p.id: p.data for p in pending}
    rows = [(v[0], json.loads(v[1]), v[5]) for v in stored if v[0] not in own and only in (None, v[4])]
    for number, p in enumerate(pending):
        if p.data is not None:
            rows.append((p.id, json.loads(p.data), place.get(p.id, 1_000 + number)))
    return rows


@pytest.mark.parametrize("seed", range(25))
async def test_every_read_at_every_snapshot(fresh, seed):
    rng = random.Random(seed)
    versions = random_history(rng)
    sql = await asyncpg.connect(fresh)
    store = SqlStore(AsyncpgDatabase(fresh))
    try:
        await sql.executemany(
            f"INSERT INTO {TASKS.ptr} (id, data, _txid, _deleted_txid, _owner, _order) VALUES ($1, $2, $3, $4, $5, $6)",
            versions,
        )
        for snapshot in range(LAST + 1):
            changed = rng.sample([f"r{n}" for n in range(10)], rng.choice([0, 0, 1, 3]))
            pending = [Pending(one, rng.choice([None, '{"n":1}', '{"n":2,"x":"b"}'])) for one in changed]
            only = rng.choice([None, None, "u"])
            table = TablePointer(TASKS.name, TASKS.ptr, TASKS.kind, 7, only=only)
            rows = sorted(seen(versions, snapshot, pending, only))
            for wanted in (EVERY_ROW, Filter({"n": 1}), Filter({"x": "b"}, "r3"), Filter(None, "r4")):
                match = [
                    row
                    for row in rows
                    if (wanted.contains or {}).items() <= row[1].items() and wanted.id in (None, row[0])
                ]
                assert await store.count(table, wanted, snapshot, pending) == len(match)
                for descending in (False, True):
                    ordered = match[::-1] if descending else match
                    page = await store.query(table, wanted, snapshot, Window(None, descending, limit=3), pending)
                    assert [(one.id, json.loads(one.data)) for one in page] == [row[:2] for row in ordered[:3]]
                    if len(ordered) > 3:
                        after = Window(None, descending, ordered[2][0], limit=100)
                        rest = await store.query(table, wanted, snapshot, after, pending)
                        assert [one.id for one in rest] == [row[0] for row in ordered[3:]]
                    by_n = Window("n", descending, limit=2)
                    page = await store.query(table, wanted, snapshot, by_n, pending)
                    keyed = sorted(match, key=lambda row: (row[1]["n"], row[0]), reverse=descending)
                    assert [one.id for one in page] == [row[0] for row in keyed[:2]]
            for last in (False, True):
                end = await store.end_row(table, snapshot, pending, last=last)
                by_place = sorted(rows, key=lambda row: row[2], reverse=last)
                assert (end and end.id) == (by_place[0][0] if by_place else None)
            for row_id in ("r0", "r5", "none"):
                row = await store.read_row(TASKS, row_id, snapshot)
                stored = {one[0]: one[1] for one in seen(versions, snapshot, [], None)}
                assert (row and json.loads(row.data)) == stored.get(row_id)
    finally:
        await store.aclose()
        await sql.close()
