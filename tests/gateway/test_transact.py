"""What a transaction of a call leaves behind when it is over."""

from __future__ import annotations

import pytest

from kontract.gateway.meter import Meter
from kontract.gateway.transact import Transactor


class Connection:
    """A database that notes when its connection is given back."""

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self.closed = 0

    def warm(self):
        pass

    async def aclose(self):
        self.closed += 1


class Platform:
    """As much of one as a transactor that runs nothing needs. ``spawned``: what goes on after the answer."""

    clock = None

    def __init__(self, connection: Connection) -> None:
        self.open_database = lambda: connection
        self.spawned = []

    def spawn(self, work):
        self.spawned.append(work)


class Scope:
    """One request."""

    class deployment:  # noqa: N801 - an attribute
        catalog = None

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.meter = Meter()


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_task_gives_a_connection_back_only_where_there_is_one(is_open):
    """A pool has it back already; a connection of this request takes a network turn, which nobody waits for."""
    connection = Connection(is_open=is_open)
    platform = Platform(connection)
    async with Transactor(Scope(platform), lambda name: None):
        pass
    assert connection.closed == 0
    for work in platform.spawned:
        await work
    assert connection.closed == is_open
