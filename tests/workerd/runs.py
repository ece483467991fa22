"""A run of concurrent clients under faults, wherever the gateway runs, and the proof that its judges see something."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from isolation.checker import CYCLES, OK
from support import apps
from workerd.clients import ACCOUNTS, EACH, READ, Call, Clients
from workerd.faults import connected
from workerd.judge import Final, create_tables, empty_tables, judge, view

APP = Path(apps.__path__[0]) / "histories.py"

CLIENTS = 10
BETWEEN = 20
"""Calls answered before the first, between two, and after the last fault of a run."""

HELD = 3
"""Applies that are in the middle when a fault strikes."""


class Served(Protocol):
    """Where the gateway is, and the database behind it."""

    url: str
    database_url: str


async def prepare(url: str) -> None:
    async with connected(url) as connection:
        await create_tables(connection)


async def run(
    server: Served,
    bearer: dict[str, str],
    seed: int,
    fail: Callable[[Clients], Awaitable[None]],
    *,
    keyed: float = 0.4,
    make: type[Clients] = Clients,
) -> tuple[list[Call], Final]:
    """Let clients work while `fail` does its work; returns what they know, and the database."""
    async with connected(server.database_url) as connection:
        await empty_tables(connection)
    clients = make(server.url, bearer, seed, keyed)
    await clients.once("fund", ACCOUNTS, EACH)

    async def until_it_is_over() -> None:
        try:
            await clients.until_more(BETWEEN)
            await fail(clients)
            await clients.until_more(BETWEEN)
        finally:
            clients.stopping = True

    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run(CLIENTS))
        group.create_task(until_it_is_over())
    # A write is answered when everything before it is settled: from then on the database does not change.
    await clients.once("put", ["r0"])
    last = await clients.once("look", list(READ))
    assert not clients.strange, clients.strange[:3]
    async with connected(server.database_url) as connection:
        final = await Final.read(connection)
    assert last == view(final)
    return clients.calls, final


def assert_right(calls: list[Call], final: Final) -> None:
    """Nothing is wrong with the run; and it would have been noticed."""
    assert judge(calls, final) == []
    for name, (change, signs) in DOCTORED.items():
        wrong = judge(*change(calls, final))
        assert any(line.startswith(signs) for line in wrong), f"not noticed: {name}"


# --- the same run with one thing changed ------------------------------------------------------------------------------


def _instead(calls: list[Call], old: Call, **changes: Any) -> list[Call]:
    return [dataclasses.replace(call, **changes) if call is old else call for call in calls]


def _longest_list(calls: list[Call]) -> tuple[Call, dict[str, Any]]:
    last = calls[-1]
    return last, max(last.seen["lists"], key=lambda row: len(row["elements"]))


def _see_list(calls: list[Call], elements: Callable[[list[str]], list[str]]) -> list[Call]:
    last, longest = _longest_list(calls)
    rows = [row if row is not longest else {**row, "elements": elements(row["elements"])} for row in last.seen["lists"]]
    return _instead(calls, last, seen={**last.seen, "lists": rows})


def _miss_a_member(calls: list[Call]) -> list[Call]:
    last = calls[-1]
    return _instead(calls, last, seen={**last.seen, "members": last.seen["members"][1:]})


def _read_an_older_counter(calls: list[Call], final: Final) -> tuple[list[Call], Final]:
    """An acknowledged increment that saw the same as the one before it."""
    bumps = [c for c in calls if c.function == "bump" and c.outcome == OK and c.seen is not None]
    by_id = {call.id: call for call in bumps}
    late = next(call for call in bumps if call.seen["by"] in by_id)
    seen = by_id[late.seen["by"]].seen
    committed = {**final.committed, late.id: (late.txid, seen)}
    return _instead(calls, late, seen=seen), dataclasses.replace(final, committed=committed)


def _acknowledge_a_lost_write(calls: list[Call], final: Final) -> tuple[list[Call], Final]:
    one = next(call for call in calls if call.function == "append" and call.outcome == OK)
    return calls, dataclasses.replace(final, committed={c: v for c, v in final.committed.items() if c != one.id})


def _refuse_a_committed_write(calls: list[Call], final: Final) -> tuple[list[Call], Final]:
    one = next(call for call in calls if call.function == "append" and call.outcome == OK)
    return _instead(calls, one, outcome="fail"), final


CYCLIC = tuple(kind for *_, kind in CYCLES)

DOCTORED: dict[str, tuple[Callable[[list[Call], Final], tuple[list[Call], Final]], tuple[str, ...]]] = {
    "a list is read without its last element": (
        lambda calls, final: (_see_list(calls, lambda elements: elements[:-1]), final),
        CYCLIC,
    ),
    "two elements of a list are read in the other order": (
        lambda calls, final: (_see_list(calls, lambda elements: [elements[1], elements[0], *elements[2:]]), final),
        ("incompatible-order",),
    ),
    "a query misses a row": (
        lambda calls, final: (_miss_a_member(calls), final),
        CYCLIC,
    ),
    "two increments see the same counter": (_read_an_older_counter, ("lost-update",)),
    "an acknowledged write is not there": (_acknowledge_a_lost_write, ("lost:",)),
    "a refused write is there": (_refuse_a_committed_write, ("undead:",)),
}
