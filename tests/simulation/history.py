"""What clients saw, and whether it can be true: the oracle of the simulation.

Two judges look at every run. The checker of ``tests/isolation`` sees what clients saw, and the order of each row's
versions. The replay knows more: it executes the commits in txid order, and every read must be what that order says.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from isolation import checker
from isolation.checker import FAIL, OK, UNKNOWN, Append, Deleted, Read, ReadWhere, Txn, Write
from kontract.core.messages import Prepared
from kontract.core.statements import Window
from kontract.core.transaction.transaction import Transaction
from kontract.core.types import Filter, TablePointer
from simulation.cluster import Node
from simulation.database import Database, decode


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
    takes: list[tuple[bool, str | None, dict[str, str | None]]] = field(default_factory=list)
    snapshot: int | None = None
    prepared: Prepared | None = None
    overtaken: bool = False  # it met a plain row newer than its snapshot
    superseded: bool = False  # its snapshot was given by a coordinator that another one had replaced

    def committed(self, commits: set[tuple[int, str]]) -> bool:
        return self.prepared is not None and (self.prepared.txid, self.prepared.sid) in commits


class Handle:
    """A transaction that keeps a record of itself."""

    def __init__(
        self,
        transaction: Transaction,
        attempt: Attempt,
        tokens: Iterator[int],
        table: TablePointer,
        pause: Callable[[], Awaitable[None]],
    ):
        self.transaction = transaction
        self.attempt = attempt
        self._tokens = tokens
        self._table = table
        self._pause = pause

    def token(self) -> int:
        return next(self._tokens)

    def _row(self, data: str | None) -> Any:
        return None if data is None else decode(data)

    async def get(self, key: str) -> Any:
        await self._pause()
        version = await self.transaction.get(self._table, key)
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
        await self._pause()
        rows, _ = await self.transaction.page(self._table, Filter(contains or None), Window(), limited=False)
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
        await self._pause()
        number = await self.transaction.count(self._table, Filter(contains or None))
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
        await self.transaction.put(self._table, key, data)
        self._written(key, data)

    async def add(self, key: str, **row: Any):
        data = self._encode(row)
        assert await self.transaction.add(self._table, key, data, fresh=True)
        self._written(key, data)

    async def replace(self, key: str, **row: Any):
        data = self._encode(row)
        await self.transaction.replace(self._table, key, data)
        self._written(key, data)

    async def append(self, key: str, row: dict[str, Any] | None):
        token = self.token()
        data = '{"list":[' + ",".join(map(str, [*(row["list"] if row else []), token])) + "]}"
        await self.transaction.put(self._table, key, data)
        self._written(key, data)
        self.attempt.ops.append(Append(key, token))

    async def push(self, key: str, **row: Any):
        """Append a row, as ``push`` does; ``key`` sorts in another order than that of insertion."""
        await self.add(key, **row)

    async def take(self, *, last: bool = False) -> Any:
        """Take the row inserted first or last."""
        await self._pause()
        own = dict(self.attempt.writes)
        version = await self.transaction.take_end(self._table, last=last)
        self.attempt.snapshot = self.transaction.snapshot
        self.attempt.takes.append((last, None if version is None else version.id, own))
        if version is None:
            return None
        self.attempt.ops.append(Read(version.id, version.data))
        self._written(version.id, None)
        return self._row(version.data)

    async def remove(self, key: str):
        if await self.transaction.remove(self._table, key):
            self._written(key, None)


def judge(attempts: list[Attempt], database: Database, nodes: list[Node]) -> list[str]:
    """Return everything that is wrong with a run."""
    wrong = list(database.alarms)
    commits = {(commit.txid, commit.sid) for commit in database.commits}
    applied = [attempt for attempt in attempts if attempt.committed(commits)]
    if database.went_back_at is not None:
        return wrong + list(_judge_after_loss(attempts, applied, database, nodes))
    for attempt in attempts:
        if attempt.outcome == OK and attempt.writes and attempt not in applied:
            wrong.append(f"lost: {attempt.id} was acknowledged and is not in the database")
        if attempt.outcome == FAIL and attempt in applied:
            wrong.append(f"undead: {attempt.id} was reported as failed and is in the database")
    known = {attempt.prepared.sid for attempt in attempts if attempt.prepared is not None}
    wrong += [f"stranger: {sid} is in the database" for _, sid in commits if sid not in known]
    for what in ("sid", "txid"):
        counts = Counter(getattr(commit, what) for commit in database.commits)
        wrong += [f"twice: {what} {value}" for value, n in counts.items() if n > 1]
    calls = Counter(commit.sid.partition("/")[0] for commit in database.commits)
    wrong += [f"applied twice: {call}" for call, n in calls.items() if n > 1]
    wrong += [
        f"superseded: {commit.sid} was applied in epoch {commit.epoch} during epoch {commit.current}"
        for commit in database.commits
        if commit.epoch != commit.current
    ]
    for node in nodes:
        wrong += [f"contradiction: {what}" for what in node.contradictions]
        wrong += _events(node, database)
    for rows in database.rows.values():
        if sum(row.deleted is None for row in rows) > 1:
            wrong.append(f"two live versions: {rows}")
    if any(line.startswith("twice") for line in wrong):
        return wrong
    wrong += _replay(attempts, applied, database)
    wrong += [f"{a.kind}: {a.detail}" for a in checker.check(*_history(attempts, applied, database))]
    return wrong


def _judge_after_loss(attempts: list[Attempt], applied: list[Attempt], database: Database, nodes: list[Node]):
    """Judge a run whose database has gone back: what was lost is lost, and the rest as if it had never been."""
    back, lost = database.went_back_at, {commit.sid for commit in database.lost}
    for attempt in attempts:
        sid = attempt.prepared.sid if attempt.prepared is not None else ""
        if attempt.outcome == OK and attempt.writes and attempt not in applied and sid not in lost:
            yield f"lost: {attempt.id} was acknowledged and is not in the database"
        if attempt.outcome == FAIL and attempt in applied:
            yield f"undead: {attempt.id} was reported as failed and is in the database"
    for commit in database.unnoticed:
        yield f"unnoticed: {commit.sid} was applied in epoch {commit.epoch}, in which acknowledged commits were lost"
    for what in ("sid", "txid"):
        counts = Counter(getattr(commit, what) for commit in [*database.commits, *database.lost])
        yield from (f"twice: {what} {value}" for value, n in counts.items() if n > 1 and what == "txid")
    calls = Counter(commit.sid.partition("/")[0] for commit in database.commits)
    yield from (f"applied twice: {call}" for call, n in calls.items() if n > 1)
    for node in nodes:
        yield from (f"contradiction: {what}" for what in node.contradictions)
    yield from _replay([attempt for attempt in attempts if attempt.start > back], applied, database)


def _events(node: Node, database: Database):
    """Every commit of a coordinator that is in charge must be in its journal, for those who follow changes."""
    if node.journal.epoch != database.epoch:
        return
    for commit in database.commits:
        if commit.epoch == database.epoch:
            record = node.journal.records.get(commit.txid) or node.journal.dropped.get(commit.txid)
            if record is None or record.phase != "committed" or record.sid != commit.sid:
                yield f"events: {commit.sid} committed as {commit.txid}, the journal says {record and record.phase}"


def _replay(attempts: list[Attempt], applied: list[Attempt], database: Database) -> list[str]:
    wrong = []
    state: dict[str, str] = {}
    txids = [0]
    states: list[dict[str, str]] = [{}]
    by_txid = sorted(applied, key=lambda attempt: attempt.prepared.txid)
    for attempt in by_txid:
        wrong += [f"replay: {attempt.id} {what}" for what in _differences(attempt, state)]
        state = {**state, **{key: data for key, data in attempt.writes.items() if data is not None}}
        for key, data in attempt.writes.items():
            if data is None:
                state.pop(key, None)
        txids.append(attempt.prepared.txid)
        states.append(state)
    live = [row for rows in database.rows.values() for row in rows if row.deleted is None]
    live.sort(key=lambda row: (row.order, row.id))
    final = {row.id: row.data for row in live}
    if final != state:
        wrong.append(f"final state: {final} instead of {state}")
    elif list(final) != list(state):
        wrong.append(f"order of insertion: {list(final)} instead of {list(state)}")
    for attempt in attempts:
        if attempt.snapshot is not None:
            seen = states[bisect_right(txids, attempt.snapshot) - 1]
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
    for last, taken, own in attempt.takes:
        # Rows of one's own come after all others; none of these handlers changes a row in place.
        there = [key for key in state if key not in own] + [key for key, data in own.items() if data is not None]
        if (there[-1 if last else 0] if there else None) != taken:
            yield f"took {taken} as the {'last' if last else 'first'} of {there}"


def _history(attempts: list[Attempt], applied: list[Attempt], database: Database):
    order: dict[str, list[Any]] = {}
    by_txid = {attempt.prepared.txid: attempt.id for attempt in applied}
    for key, installed in database.installed.items():
        if not key.startswith("list"):
            order[key] = [
                Deleted((by_txid.get(txid), key)) if data is None else data
                for txid, data in sorted(installed, key=lambda each: each[0])
            ]
    txns = []
    for attempt in attempts:
        outcome = attempt.outcome
        if outcome == UNKNOWN and attempt in applied:
            outcome = OK  # the database has told; when its client knew stays open
        # What a superseded coordinator shows is a state of before: right, but not up to date.
        start = 0.0 if attempt.superseded and not attempt.writes else attempt.start
        txns.append(Txn(attempt.id, attempt.ops, start, attempt.end, outcome))
    return txns, order
