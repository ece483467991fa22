"""The scope of one request: platform, configuration, and its costs so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from kontract.core.transaction.catalog import Catalog
from kontract.gateway.config import Config
from kontract.gateway.coordinator import RequestCoordinator
from kontract.gateway.counters import CallCounters, LocalCounters
from kontract.gateway.hashing import HashLine
from kontract.gateway.http import Request
from kontract.gateway.liveness import LiveSessions
from kontract.gateway.log_line import LogLine
from kontract.gateway.meter import Meter
from kontract.gateway.outbox import Holdings
from kontract.gateway.routes import Registry
from kontract.gateway.tokens import Tokens
from kontract.ports import CoordinatorStub, RuntimeAdapter


@dataclass(slots=True)
class Tidying:
    """When this process next looks for expired sessions, in ms of a monotonic clock."""

    due: float = 0.0


@dataclass(slots=True)
class Writes:
    """Whether the database accepted writes when last asked."""

    refused: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """What all requests of a process share: the application, the configuration, the keys.

    ``broken``: why the application has no functions, returned to callers.
    """

    registry: Registry
    config: Config
    tokens: Tokens
    catalog: Catalog
    broken: str = ""
    sessions: LiveSessions = field(default_factory=LiveSessions)
    counters: LocalCounters = field(default_factory=LocalCounters)
    hashing: HashLine = field(default_factory=HashLine)
    tidying: Tidying = field(default_factory=Tidying)
    holdings: Holdings = field(default_factory=Holdings)
    writes: Writes = field(default_factory=Writes)


class Scope(Struct, frozen=True):
    """One request. ``line``: its log line."""

    deployment: Deployment
    platform: RuntimeAdapter
    request: Request
    line: LogLine
    meter: Meter

    @property
    def request_id(self) -> str:
        """What the request is found by in the log."""
        return self.line.request_id

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the coordinator of ``owner``; its calls are counted, and its answers on sessions remembered."""
        platform, request = self.platform, self.request
        return RequestCoordinator(
            platform.coordinator(owner), owner, self.meter, self.deployment.sessions, platform.clock, request.commits
        )

    def counters(self, owner: str) -> CallCounters:
        """Return the counters of throttles and limits of ``owner``."""
        return CallCounters(self.platform, owner, self.deployment.counters, self.deployment.config.keys.current.counter)
