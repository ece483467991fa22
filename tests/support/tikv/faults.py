"""What goes wrong in the fake cluster, and when: rules that a test writes, or a storm drawn from a seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from tikv._proto import errorpb_pb2


class Kind(Enum):
    """What happens to one request. Those that say so are undetermined for a client that wrote."""

    REFUSED = "the connection breaks before the store has done anything"
    LOST = "the store does it, and the connection breaks before the answer (undetermined)"
    LATE = "the connection breaks, and the store does it when the test lets it (undetermined)"
    PAUSED = "the store waits until the test lets it, then does it and answers"
    BUSY = "ServerIsBusy"
    STALE = "StaleCommand, and nothing was done (the client cannot know: undetermined)"
    STALE_DONE = "StaleCommand, although it was done (undetermined)"
    UNDETERMINED = "UndeterminedResult, and it was done"
    NO_LEADER = "NotLeader without a hint"
    NOT_FOUND = "RegionNotFound, and nothing was done"
    EPOCH = "EpochNotMatch"


UNDETERMINED_KINDS = (Kind.LOST, Kind.STALE, Kind.STALE_DONE, Kind.UNDETERMINED, Kind.REFUSED)
"""For storms: those that leave an unknown outcome and need nobody to go on."""

DONE_KINDS = frozenset({Kind.LOST, Kind.STALE_DONE, Kind.UNDETERMINED})
"""The operation takes effect, whatever the client hears."""


@dataclass
class Fault:
    """One rule: the requests of ``method`` with a key that ``matches``, after ``skip`` of them, ``times`` of them."""

    kind: Kind
    method: str = ""
    matches: Callable[[bytes], bool] = field(default=lambda _key: True)
    skip: int = 0
    times: int = 1
    met: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first request is hit; a pause point waits for it."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test to let what is PAUSED or LATE go on."""

    def take(self, method: str, key: bytes) -> bool:
        """Whether this request is hit."""
        if (self.method and method != self.method) or not self.times or not self.matches(key):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        self.met += 1
        self.reached.set()
        return True


class Faults:
    """The rules of a cluster. The first one that fits is it."""

    def __init__(self) -> None:
        self.rules: list[Fault] = []
        self.late: set[asyncio.Task[None]] = set()
        self._dice: random.Random | None = None
        self._rate = 0.0
        self._kinds: tuple[Kind, ...] = ()
        self.storm_hits = 0

    def add(self, kind: Kind, method: str = "", **more: object) -> Fault:
        fault = Fault(kind, method, **more)  # type: ignore[arg-type]
        self.rules.append(fault)
        return fault

    def storm(self, seed: int, rate: float, *kinds: Kind) -> None:
        """Hit each request with probability ``rate``, from a seeded schedule."""
        self._dice, self._rate, self._kinds = random.Random(seed), rate, kinds or tuple(UNDETERMINED_KINDS)

    def calm(self) -> None:
        """End the storm and all rules."""
        self._dice = None
        for rule in self.rules:
            rule.times = 0
            rule.released.set()

    def draw(self, method: str, key: bytes) -> tuple[Kind, Fault | None] | None:
        """What happens to a request, None for nothing."""
        for rule in self.rules:
            if rule.take(method, key):
                return rule.kind, rule
        if self._dice is not None and self._dice.random() < self._rate:
            self.storm_hits += 1
            return self._dice.choice(self._kinds), None
        return None


def region_error(kind: Kind, region: int) -> errorpb_pb2.Error | None:
    """The answer that a kind is, None where there is none."""
    match kind:
        case Kind.BUSY:
            busy = errorpb_pb2.ServerIsBusy(reason="the scheduler is too busy")
            return errorpb_pb2.Error(message="server is busy", server_is_busy=busy)
        case Kind.STALE | Kind.STALE_DONE:
            return errorpb_pb2.Error(message="stale command", stale_command=errorpb_pb2.StaleCommand())
        case Kind.UNDETERMINED:
            unknown = errorpb_pb2.UndeterminedResult(message="proposal dropped")
            return errorpb_pb2.Error(message="undetermined", undetermined_result=unknown)
        case Kind.NO_LEADER:
            return errorpb_pb2.Error(message="no leader", not_leader=errorpb_pb2.NotLeader(region_id=region))
        case Kind.NOT_FOUND:
            gone = errorpb_pb2.RegionNotFound(region_id=region)
            return errorpb_pb2.Error(message="region is not found", region_not_found=gone)
        case _:
            return None
