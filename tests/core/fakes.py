"""A coordinator, a store and a platform that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from kontract.core.messages import (
    Answer,
    Began,
    Begin,
    Committed,
    Doubt,
    Finish,
    Leave,
    Left,
    Noted,
    Prepare,
    Prepared,
    Request,
)
from kontract.core.transaction.transaction import Call, Transaction
from kontract.core.types import TableKind, TablePointer, Version
from kontract.ports import ApplyOutcome

TABLE = TablePointer("tasks", "tbl", TableKind.VERSIONED, 7)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> int:
        return int(self.time)

    def elapsed(self) -> float:
        return self.time

    async def sleep(self, milliseconds: float) -> None:
        self.slept.append(milliseconds)
        self.time += milliseconds
        await asyncio.sleep(0)


class Coordinator:
    """Says yes to everything, unless ``answers`` holds something else for a kind of message."""

    def __init__(self) -> None:
        self.heard: list[Request] = []
        self.answers: dict[type, list[Answer | Exception]] = {}
        self.last_txid = 7

    async def ask(self, request: Request) -> Answer:
        self.heard.append(request)
        planned = self.answers.get(type(request))
        answer = planned.pop(0) if planned else self.answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, request: Request) -> Answer:
        match request:
            case Begin():
                return Began(self.last_txid, 1)
            case Prepare():
                self.last_txid += 1
                return Prepared(self.last_txid, f"{request.call}/{request.attempt}", 1)
            case Finish():
                return Committed(request.txid)
            case Leave():
                return Left()
            case Doubt():
                return Noted()
        raise AssertionError(request)

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.heard]


class Store:
    """Rows by id, all of them version 3; reads ignore filters except an id and one field."""

    def __init__(self, rows: dict[str, str]) -> None:
        self.rows = rows
        self.snapshots: list[int] = []
        self.pending: list[Any] = []
        self.applied: list[Any] = []
        self.outcome = ApplyOutcome.APPLIED
        self.fence: int | None = None
        self.fails: Exception | None = None
        self.first: tuple[int, str | None] | Exception | None = None
        self.asked: list[str] = []
        self.asked_for: list[list[str]] = []

    def warm(self) -> None:
        pass

    def _at(self, snapshot: int, pending=()) -> None:
        self.snapshots.append(snapshot)
        self.pending = list(pending)
        if self.fails is not None:
            raise self.fails

    async def lookup(self, owner, name):
        return TABLE if name == "tasks" else None

    async def read_row(self, pointer, row_id, snapshot):
        self._at(snapshot)
        data = self.rows.get(row_id)
        return None if data is None else Version(row_id, data, 3, "ann")

    async def read_rows(self, pointer, row_ids, snapshot):
        self._at(snapshot)
        self.asked_for.append(list(row_ids))
        return [Version(row, self.rows[row], 3, "ann") for row in sorted(row_ids) if row in self.rows]

    async def query(self, pointer, wanted, snapshot, page, pending):
        self._at(snapshot, pending)
        rows = [Version(row, data, 3, "ann") for row, data in sorted(self.rows.items())]
        if wanted.id is not None:
            rows = [row for row in rows if row.id == wanted.id]
        if wanted.contains:
            rows = [row for row in rows if all(f'"{k}":{v}' in row.data for k, v in wanted.contains.items())]
        if page.after is not None:
            rows = [row for row in rows if row.id > page.after]
        return rows[: page.limit]

    async def end_row(self, pointer, snapshot, pending, *, last):
        self._at(snapshot, pending)
        row = sorted(self.rows)[-1 if last else 0]
        changed = {one.id: one.data for one in pending}
        return Version(row, changed.get(row, self.rows[row]), 0 if row in changed else 3, "ann")

    async def count(self, pointer, wanted, snapshot, pending):
        self._at(snapshot, pending)
        return len(self.rows)

    async def apply(self, plan):
        self.applied.append(plan)
        return self.outcome

    async def resolve(self, sid, owner, txid):
        return self.fence

    async def committed(self, call):
        self.asked.append(call)
        if isinstance(self.first, Exception):
            raise self.first
        return self.first

    async def aclose(self) -> None:
        pass


class Randomness:
    """Dice that always show the same."""

    def __init__(self, number: float = 1.0) -> None:
        self.number = number

    def token(self, size: int) -> bytes:
        return bytes(size)

    def uniform(self) -> float:
        return self.number


class Platform:
    """What attempts need, on the fake clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.random = Randomness()

    def mutex(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def within(self, milliseconds: float, work: Awaitable[Any]) -> Any:
        async with asyncio.timeout(max(0.0, milliseconds) / 1000):
            return await work


def transaction(coordinator: Coordinator, store: Store, *, clock: Clock | None = None, **call: Any) -> Transaction:
    """An attempt of one call of ann's."""
    return Transaction(
        Call(id="call", owner="tenant", user="ann", **call), 1, coordinator, store, clock or Clock(), asyncio.Lock
    )
