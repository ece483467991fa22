"""What belongs to one request: where it runs, what is configured, and what it has cost so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kontract.core.catalog import Catalog
from kontract.gateway.config import Config
from kontract.gateway.http import Request
from kontract.gateway.meter import Meter
from kontract.gateway.routes import Registry
from kontract.gateway.tokens import Tokens
from kontract.ports import RuntimeAdapter


@dataclass(frozen=True, slots=True)
class Deployment:
    """What all requests of a process have in common: the application, the configuration, the keys."""

    registry: Registry
    config: Config
    tokens: Tokens
    catalog: Catalog


@dataclass(frozen=True, slots=True)
class Scope:
    """One request. ``log`` gathers fields of its log line."""

    deployment: Deployment
    platform: RuntimeAdapter
    request: Request
    request_id: str
    meter: Meter = field(default_factory=Meter)
    log: dict[str, Any] = field(default_factory=dict)
