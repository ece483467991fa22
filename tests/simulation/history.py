"""What clients saw, and whether it can be true: the oracle of the simulation.

Two judges look at every run. The checker of ``tests/isolation`` sees what clients saw, and the order of each row's
versions. The replay knows more: it executes the commits in txid order, and every read must be what that order says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from isolation import checker
from isolation.checker import FAIL, OK, UNKNOWN, Append, Deleted, Read, ReadWhere, Txn, Write
from kontract.core.messages import Prepared
from kontract.core.sql import Page
from kontract.core.transaction import Transaction
from kontract.core.types import Filter
from simulation.database import TABLE, Database, decode


@dataclass(slots=True)
class Attempt:
    """One run of a handler."""

    id: str
    start: float
    end: float = float("inf")
    outcome: str = FAIL
    ops: list[Any] = field(default_factory=list)
    gets: list[tuple[str, str | None]] = field(default_factory=list)
    scans: list[tuple[dict[str, Any], dict[str, str], frozenset[str]]] = field(default_factory=list)
    writes: dict[str, str | None] = field(default_factory=dict)
    snapshot: int | None = None
    prepared: Prepared | None = None

    def committed(self, fences: dict[str, int]) -> bool:
        return self.prepared is not None and fences.get(self.prepared.sid) == self.prepared.txid


class Handle:
    """A transaction that keeps a record of itself."""

    def __init__(self, transaction: Transaction, attempt: Attempt, tokens):
        self.transaction = transaction
        self.attempt = attempt
        self._tokens = tokens

    def token(self) -> int:
        return next(self._tokens)

    def _row(self, data: str | None) -> Any:
        return None if data is None else decode(data)

    async def get(self, key: str) -> Any:
        version = await self.transaction.get(TABLE, key)
        self.attempt.snapshot = self.transaction.snapshot
        data = None if version is None else version.data
        if key not in self.attempt.writes:
            self.attempt.gets.append((key, data))
        row = self._row(data)
        if key.startswith("list"):
            self.attempt.ops.append(Read(key, tuple(row["list"]) if row else ()))
        else:
            self.attempt.ops.append(Read(key, data))
        return row

    async def where(self, **contains: Any) -> dict[str, Any]:
        rows = await self.transaction.page(TABLE, Filter(contains or None), Page(), ordered=False)
        self.attempt.snapshot = self.transaction.snapshot
        found = {row.id: row.data for row in rows}
        others = {key: data for key, data in found.items() if key not in self.attempt.writes}
        self.attempt.scans.append((contains, others, frozenset(self.attempt.writes)))
        self.attempt.ops.append(
            ReadWhere(
                lambda data: contains.items() <= decode(data).items(),
                frozenset((key, data) for key, data in found.items() if not key.startswith("list")),
                lambda key: not key.startswith("list"),
            )
        )
        return {key: self._row(data) for key, data in found.items()}

    async def count(self, **contains: Any) -> int:
        number = await self.transaction.count(TABLE, Filter(contains or None))
        self.attempt.snapshot = self.transaction.snapshot
        if not self.attempt.writes:
            self.attempt.scans.append((contains, {"count": str(number)}, frozenset({"count"})))
        return number

    def _written(self, key: str, data: str | None):
        self.attempt.writes[key] = data
        if not key.startswith("list"):
            self.attempt.ops.append(Write(key, Deleted((self.attempt.id, key)) if data is None else data))

    def _encode(self, row: dict[str, Any]) -> str:
        parts = [f'"{name}":{str(value).lower() if isinstance(value, bool) else value}' for name, value in row.items()]
        return "{" + ",".join(parts) + f',"w":{self.token()}' + "}"

    async def put(self, key: str, **row: Any):
        data = self._encode(row)
        await self.transaction.put(TABLE, key, data)
        self._written(key, data)

    async def add(self, key: str, **row: Any):
        data = self._encode(row)
        assert await self.transaction.add(TABLE, key, data, fresh=True)
        self._written(key, data)

    async def replace(self, key: str, **row: Any):
        data = self._encode(row)
        await self.transaction.replace(TABLE, key, data)
        self._written(key, data)

    async def append(self, key: str, row: dict[str, Any] | None):
        token = self.token()
        data = '{"list":[' + ",".join(map(str, [*(row["list"] if row else []), token])) + "]}"
        await self.transaction.put(TABLE, key, data)
        self._written(key, data)
        self.attempt.ops.append(Append(key, token))

    async def remove(self, key: str):
        if await self.transaction.remove(TABLE, key):
            self._written(key, None)


def judge(attempts: list[Attempt], database: Database, journal: dict[int, Any] | None) -> list[str]:
    """Return everything that is wrong with a run. ``journal``: records by txid, None when it was lost on the way."""
    fences = database.fences
    wrong = list(database.alarms)
    applied = [attempt for attempt in attempts if attempt.committed(fences)]
    for attempt in attempts:
        if attempt.outcome == OK and attempt.writes and attempt not in applied:
            wrong.append(f"lost: {attempt.id} was acknowledged and is not in the database")
        if attempt.outcome == FAIL and attempt in applied:
            wrong.append(f"undead: {attempt.id} was reported as failed and is in the database")
    known = {attempt.prepared.sid for attempt in attempts if attempt.prepared is not None}
    wrong += [f"stranger: {sid} is in the database" for _, sid in database.committed if sid not in known]
    wrong += [f"twice: sid {sid}" for sid, n in Counter(sid for _, sid in database.committed).items() if n > 1]
    wrong += [f"twice: txid {txid}" for txid, n in Counter(txid for txid, _ in database.committed).items() if n > 1]
    calls = Counter(attempt.id.partition("#")[0] for attempt in applied)
    wrong += [f"applied twice: {call}" for call, n in calls.items() if n > 1]
    if journal is not None:
        for txid, sid in database.committed:
            record = journal.get(txid)
            if record is None or record.phase != "committed" or record.sid != sid:
                wrong.append(f"events: {sid} committed as {txid}, the journal says {record and record.phase}")
    for rows in database.rows.values():
        if sum(row.deleted is None for row in rows) > 1:
            wrong.append(f"two live versions: {rows}")
    if any(line.startswith("twice") for line in wrong):
        return wrong
    wrong += _replay(attempts, applied, database)
    wrong += [f"{a.kind}: {a.detail}" for a in checker.check(*_history(attempts, applied, database))]
    return wrong


def _replay(attempts: list[Attempt], applied: list[Attempt], database: Database) -> list[str]:
    wrong = []
    state: dict[str, str] = {}
    states: list[tuple[int, dict[str, str]]] = [(0, {})]
    by_txid = sorted(applied, key=lambda attempt: attempt.prepared.txid)
    for attempt in by_txid:
        wrong += [f"replay: {attempt.id} {what}" for what in _differences(attempt, state)]
        state = {**state, **{key: data for key, data in attempt.writes.items() if data is not None}}
        for key, data in attempt.writes.items():
            if data is None:
                state.pop(key, None)
        states.append((attempt.prepared.txid, state))
    final = {key: row.data for key, rows in database.rows.items() for row in rows if row.deleted is None}
    if final != state:
        wrong.append(f"final state: {final} instead of {state}")
    for attempt in attempts:
        if attempt.snapshot is not None:
            seen = next(state for txid, state in reversed(states) if txid <= attempt.snapshot)
            wrong += [f"snapshot {attempt.snapshot}: {attempt.id} {what}" for what in _differences(attempt, seen)]
    return wrong


def _differences(attempt: Attempt, state: dict[str, str]):
    for key, data in attempt.gets:
        if state.get(key) != data:
            yield f"read {data} of {key} where {state.get(key)} was"
    for contains, found, own in attempt.scans:
        matching = {key: data for key, data in state.items() if contains.items() <= decode(data).items()}
        if "count" in found:
            matching = {"count": str(len(matching))}
        else:
            matching = {key: data for key, data in matching.items() if key not in own}
        if matching != found:
            yield f"found {found} where {matching} was"


def _history(attempts: list[Attempt], applied: list[Attempt], database: Database):
    order: dict[str, list[Any]] = {}
    deleted_by = {attempt.prepared.txid: attempt.id for attempt in applied}
    for key, rows in database.rows.items():
        if key.startswith("list"):
            continue
        values = order[key] = []
        rows = sorted(rows, key=lambda row: row.txid)  # noqa: PLW2901
        births = {row.txid for row in rows}
        for row in rows:
            values.append(row.data)
            if row.deleted is not None and row.deleted not in births:
                values.append(Deleted((deleted_by.get(row.deleted), key)))
    txns = []
    for attempt in attempts:
        outcome = attempt.outcome
        if outcome == UNKNOWN and attempt in applied:
            outcome = OK  # the database has told; when its client knew stays open
        txns.append(Txn(attempt.id, attempt.ops, attempt.start, attempt.end, outcome))
    return txns, order
