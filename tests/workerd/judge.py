"""What the clients of a run were told, against what the database holds afterwards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import asyncpg

from isolation.checker import FAIL, OK, UNKNOWN, Append, Deleted, Op, Read, ReadWhere, Txn, Write, check
from workerd.clients import ACCOUNTS, COUNTERS, DUTY, EACH, LISTS, MOST, READ, REGISTERS, TABLES, Call

VERSIONED = """
CREATE TABLE tbl_{name} (
  id TEXT COLLATE "C" NOT NULL, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid));
CREATE UNIQUE INDEX tbl_{name}_live ON tbl_{name} (id) WHERE _deleted_txid IS NULL;
"""
PLAIN = """
CREATE TABLE tbl_{name} (
  id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL);
"""
REGISTER = "INSERT INTO storage (id, ptr, owner) VALUES ('{name}', 'tbl_{name}', 'tenant-1');"

TWICE_LIVE = "SELECT id FROM tbl_{name} WHERE _deleted_txid IS NULL GROUP BY id HAVING count(*) > 1"
COMMITTED_TWICE = "SELECT id FROM tbl_calls GROUP BY id HAVING count(*) > 1"  # each commit leaves a version
LIVE_BELOW = (
    "SELECT old.id FROM tbl_{name} AS old JOIN tbl_{name} AS new USING (id) "
    "WHERE old._txid < new._txid AND (old._deleted_txid IS NULL OR old._deleted_txid > new._txid)"
)


async def create_tables(connection: asyncpg.Connection) -> None:
    for name in TABLES:
        ddl = PLAIN if name.startswith("plain") else VERSIONED
        await connection.execute((ddl + REGISTER).format(name=name))


async def empty_tables(connection: asyncpg.Connection) -> None:
    """A run begins with nothing. The coordinator need not know: its txids go on, and no snapshot is in use."""
    for name in TABLES:
        await connection.execute(f"DELETE FROM tbl_{name}")


@dataclass
class Final:
    """The database after a run."""

    rows: dict[str, dict[str, Any]]  # by table and id: the live rows
    committed: dict[str, tuple[int, Any]]  # by call: its txid, and what it saw
    order: dict[Hashable, list[Any]]  # of registers, which are written without being read
    fences: Counter[int]
    broken: list[str]  # ids of which more than one version is, or was, live at a time
    twice: list[str]  # calls that were committed more than once

    @classmethod
    async def read(cls, connection: asyncpg.Connection) -> Final:
        rows: dict[str, dict[str, Any]] = {}
        broken = []
        for name in TABLES:
            live = await connection.fetch(f"SELECT id, data::text, _txid FROM tbl_{name} WHERE _deleted_txid IS NULL")
            rows[name] = {row[0]: json.loads(row[1]) for row in live}
            if name == "calls":
                committed = {row[0]: (row[2], json.loads(row[1])["seen"]) for row in live}
            for query in (TWICE_LIVE, LIVE_BELOW):
                broken += [f"{name}/{row[0]}" for row in await connection.fetch(query.format(name=name))]
        order: dict[Hashable, list[Any]] = {("registers", key): [] for key in REGISTERS}
        for key, by in await connection.fetch("SELECT id, data->>'by' FROM tbl_registers ORDER BY _txid"):
            order["registers", key].append(by)
        fences = await connection.fetch("SELECT create_txid FROM trxs WHERE sid NOT LIKE 'epoch/%'")
        twice = [row[0] for row in await connection.fetch(COMMITTED_TWICE)]
        return cls(rows, committed, order, Counter(row[0] for row in fences), broken, twice)


def judge(calls: list[Call], final: Final) -> list[str]:
    """Return everything that is wrong with a run."""
    wrong = [f"two versions live: {name}" for name in final.broken]
    wrong += [f"twice: {call} was committed again" for call in final.twice]
    writers = [call for call in calls if call.function != "look"]
    wrong += [f"lost: {c.id} was acknowledged" for c in writers if c.outcome == OK and c.id not in final.committed]
    wrong += [f"undead: {c.id} was refused" for c in writers if c.outcome == FAIL and c.id in final.committed]
    for call in writers:
        if call.id in final.committed:
            txid, seen = final.committed[call.id]
            if call.outcome == OK and (txid, seen) != (call.txid, json.loads(json.dumps(call.seen))):
                wrong.append(f"told otherwise: {call.id} was told {call.seen} as {call.txid}, not {seen} as {txid}")
            if final.fences[txid] != 1:
                wrong.append(f"fences: {call.id} was committed as {txid}, which has {final.fences[txid]}")
    wrong += [f"stranger: {call}" for call in final.committed.keys() - {call.id for call in writers}]
    wrong += _wrong_rows([call for call in writers if call.id in final.committed], final)
    wrong += _wrong_views(calls)
    wrong += [f"{a.kind}: {a.detail}" for a in check(history(calls, final), final.order)]
    return wrong


def history(calls: list[Call], final: Final) -> list[Txn]:
    """The run as the checker knows it. The database tells what became of calls without an answer."""
    txns = []
    for call in calls:
        outcome, seen = call.outcome, call.seen
        if outcome == UNKNOWN and call.id in final.committed:
            outcome, seen = OK, final.committed[call.id][1]  # when its client would have known stays open
        elif outcome == UNKNOWN:
            outcome = FAIL
        ops = operations(call, seen) if outcome == OK else _intended(call)
        txns.append(Txn(call.id, ops, call.start, call.end, outcome))
    return txns


def operations(call: Call, seen: Any) -> list[Op]:
    """What a committed call read and wrote, from what it saw."""
    match call.function, call.args:
        case "append", [steps]:
            ops: list[Op] = []
            for (table, key, element), elements in zip(steps, seen, strict=True):
                ops.append(Read((table, key), tuple(elements)))
                if element is not None:
                    ops.append(Append((table, key), element))
            return ops
        case "bump", [key]:
            return [Read(("counters", key), _counter(seen)), Write(("counters", key), (_count(seen) + 1, call.id))]
        case "add", [group]:
            return [Read(("members", call.id), None), Write(("members", call.id), group)]
        case "join", [group, most]:
            ops = [_members(group, seen)]
            if len(seen) < most:
                ops += [Read(("members", call.id), None), Write(("members", call.id), group)]
            return ops
        case "leave", [group]:
            gone = [Write(("members", seen[0]), Deleted(call.id))] if seen else []
            return [_members(group, seen), *gone]
        case "fund", [accounts, amount]:
            return [Write(("bank", account), (amount, call.id)) for account in accounts]
        case "move", [src, dst, amount]:
            before = [(row["balance"], row["by"]) for row in seen]
            ops = [Read(("bank", src), before[0]), Read(("bank", dst), before[1])]
            if before[0][0] >= amount:
                ops.append(Write(("bank", src), (before[0][0] - amount, call.id)))
                ops.append(Write(("bank", dst), (before[1][0] + amount, call.id)))
            return ops
        case "put", [keys]:
            return [Write(("registers", key), call.id) for key in keys]
        case "look", [tables]:
            return [op for table in tables for op in _looked(table, {row["id"]: row for row in seen[table]})]
    raise AssertionError(call)


def _intended(call: Call) -> list[Op]:
    """What can be said of a call that was not committed: nothing that it meant to write may ever be seen."""
    match call.function, call.args:
        case "append", [steps]:
            return [Append((table, key), element) for table, key, element in steps if element is not None]
        case (("add" | "join"), [group, *_]):
            return [Write(("members", call.id), group)]
        case "put", [keys]:
            return [Write(("registers", key), call.id) for key in keys]
    return []


def _looked(table: str, rows: dict[str, Any]) -> list[Op]:
    match table:
        case "lists" | "plain_lists":
            keys = [key for name, key in LISTS if name == table]
            return [Read((table, key), tuple(rows[key]["elements"]) if key in rows else ()) for key in keys]
        case "counters":
            return [Read((table, key), _counter(rows.get(key))) for key in COUNTERS]
        case "members":
            found = frozenset(((table, row_id), row["group"]) for row_id, row in rows.items())
            return [ReadWhere(lambda _: True, found, lambda key: key[0] == table)]
        case "bank":
            return [Read((table, key), (rows[key]["balance"], rows[key]["by"])) for key in ACCOUNTS]
        case "registers":
            return [Read((table, key), rows[key]["by"] if key in rows else None) for key in REGISTERS]
    raise AssertionError(table)


def _counter(row: dict[str, Any] | None) -> tuple[int, str] | None:
    return None if row is None else (row["n"], row["by"])


def _count(row: dict[str, Any] | None) -> int:
    return 0 if row is None else row["n"]


def _members(group: str, found: list[str]) -> ReadWhere:
    return ReadWhere(
        lambda value: value == group,
        frozenset((("members", row_id), group) for row_id in found),
        lambda key: key[0] == "members",
    )


def _wrong_rows(committed: list[Call], final: Final) -> list[str]:
    """The final rows are the sum of the committed calls: each of them once, nothing else."""
    wrong = []
    elements: Counter[tuple[str, str, str]] = Counter()
    counts: Counter[str] = Counter()
    members: dict[str, str] = {}
    gone = set()
    balances = dict.fromkeys(ACCOUNTS, EACH)
    for call in committed:
        seen = final.committed[call.id][1]
        match call.function, call.args:
            case "append", [steps]:
                elements.update(step for step in steps if step[2] is not None)
            case "bump", [key]:
                counts[key] += 1
            case "add", [group]:
                members[call.id] = group
            case "join", [group, most] if len(seen) < most:
                members[call.id] = group
            case "leave", [_] if seen:
                gone.add(seen[0])
            case "move", [src, dst, amount] if seen[0]["balance"] >= amount:
                balances[src] -= amount
                balances[dst] += amount
    there = Counter((t, k, e) for t, k in LISTS for e in final.rows[t].get(k, {"elements": []})["elements"])
    if there != elements:
        wrong.append(f"lists: too many {there - elements}, missing {elements - there}")
    counted = {key: _count(final.rows["counters"].get(key)) for key in COUNTERS}
    wrong += [f"counter {key}: {counted[key]}, not {counts[key]}" for key in COUNTERS if counted[key] != counts[key]]
    members = {row_id: group for row_id, group in members.items() if row_id not in gone}
    found = {row_id: row["group"] for row_id, row in final.rows["members"].items()}
    if found != members:
        wrong.append(f"members: {sorted(found.items() ^ members.items())}")
    held = {key: row["balance"] for key, row in final.rows["bank"].items()}
    if held != balances:
        wrong.append(f"bank: {held} instead of {balances}")
    return wrong


def _wrong_views(calls: list[Call]) -> list[str]:
    """No caller saw a state that no order of the calls has."""
    wrong = []
    for call in calls:
        if call.outcome != OK or call.function != "look":
            continue
        if "bank" in call.seen and sum(row["balance"] for row in call.seen["bank"]) != EACH * len(ACCOUNTS):
            wrong.append(f"bank: {call.id} saw {call.seen['bank']}")
        on_duty = [row["id"] for row in call.seen.get("members", []) if row["group"] == DUTY]
        if len(on_duty) > MOST:
            wrong.append(f"duty: {call.id} saw {on_duty}")
    return wrong


def view(final: Final) -> dict[str, list[dict[str, Any]]]:
    """What `look` at everything must answer after the run."""
    return {
        table: [{**row, "id": row_id} for row_id, row in sorted(final.rows[table].items(), key=lambda r: r[0].encode())]
        for table in READ
    }
