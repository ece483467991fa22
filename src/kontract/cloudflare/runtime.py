"""The gateway's platform on Cloudflare Workers."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, cached_property
from typing import Any

import js
from pyodide.ffi import JsException
from workers import import_from_javascript

from kontract.cloudflare import feed
from kontract.cloudflare.crypto import NativeCrypto
from kontract.cloudflare.database import HyperdriveDatabase, connector
from kontract.cloudflare.kv import WorkerKV
from kontract.core import logs
from kontract.core.events import Subscription
from kontract.core.messages import Answer, Request, decode_answer, encode
from kontract.core.shared import state as shared
from kontract.core.shared.state import SharedAnswer, SharedRequest
from kontract.ports import CoordinatorStub, CoordinatorUnavailableError, Database, DOStub, Feed, KVStore, Mutex


class WorkerClock:
    """Time in an isolate. Against timing attacks it stands still between two pieces of I/O."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def __init__(self) -> None:
        """Start a clock for one request or one object."""
        self._latest = 0.0

    def elapsed(self) -> float:
        """Milliseconds that do not go back: the platform's clock does, by one, when an answer comes from elsewhere."""
        self._latest = max(self._latest, time.time_ns() / 1_000_000)
        return self._latest

    async def sleep(self, milliseconds: float) -> None:
        """Pause."""
        await asyncio.sleep(milliseconds / 1000)


class WorkerRandomness:
    """Randomness of the isolate; there is none while modules are imported."""

    def token(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret


def log_line(level: str, event: str, **fields: Any) -> None:
    """Write one JSON line, from the level of KONTRACT_LOG_LEVEL on; ``wrangler tail`` shows it."""
    levels, write = _log()
    if level in levels:
        write(logs.line(level, event, fields))


@cache
def _log() -> tuple[frozenset[str], Callable[[str], None]]:
    """Return which lines are written, and how: once an isolate, in its first request.

    ``print`` would hand a line to JavaScript piece by piece.
    """
    return written(import_from_javascript("cloudflare:workers").env), js.console.log


def written(env: Any) -> frozenset[str]:
    """Return the levels of the lines that are written; a level that there is not is the usual one."""
    level = getattr(env, "KONTRACT_LOG_LEVEL", None)
    return logs.from_level(str(level) if level in logs.LEVELS else "info")


class DurableObjectStub:
    """The Durable Object of one owner: its coordinator, and what its requests share."""

    def __init__(self, namespace: Any, owner: str) -> None:
        """Address the object of ``owner``; nothing is sent yet."""
        self._stub = namespace.get(namespace.idFromName(owner))
        self._owner = owner

    async def ask(self, request: Request) -> Answer:
        """Ask the coordinator. The object may be restarting: then it is unknown whether it got the message."""
        return decode_answer(await self._answer(self._stub.ask(self._owner, encode(request))))

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Ask for or change a shared value."""
        return shared.decode_answer(await self._answer(self._stub.shared(shared.encode(request).decode())))

    @staticmethod
    async def _answer(call: Awaitable[Any]) -> str:
        try:
            return str(await call)
        except JsException as error:
            raise CoordinatorUnavailableError(str(error)) from error
        except Exception as error:  # the binding wraps JavaScript errors in classes of its own
            raise CoordinatorUnavailableError(repr(error)) from error


class WorkerPlatform:
    """RuntimeAdapter for one request in a Worker."""

    def __init__(self, env: Any, context: Any) -> None:
        """Use the request's bindings."""
        self.clock = WorkerClock()
        self.random = WorkerRandomness()
        self.crypto = NativeCrypto()
        self.log = log_line
        self._env = env
        self._context = context

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Variables and secrets: the gateway reads them once an isolate."""
        return variables(self._env)

    @cached_property
    def kv(self) -> KVStore | None:
        """The KV namespace, if there is one."""
        namespace = getattr(self._env, "KV", None)
        return None if namespace is None else WorkerKV(namespace)

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the way to the object of ``owner``."""
        return DurableObjectStub(self._env.SESSION_DO, owner)

    def shared(self, owner: str) -> DOStub:
        """Return the way to the object of ``owner``."""
        return DurableObjectStub(self._env.SESSION_DO, owner)

    async def open_feed(self, owner: str, subscription: Subscription) -> Feed:
        """Connect to the changes of ``owner``."""
        return await feed.connect(self._env.SESSION_DO, owner, subscription)

    def open_database(self) -> Database:
        """Return a database for this request."""
        return HyperdriveDatabase(connector(self._env))

    def mutex(self) -> Mutex:
        """Return a new lock."""
        return asyncio.Lock()

    def spawn(self, work: Awaitable[Any]) -> None:
        """Let work continue after the response."""
        self._context.waitUntil(asyncio.ensure_future(work))

    async def within(self, milliseconds: float, work: Awaitable[Any]) -> Any:
        """Await with a time limit."""
        async with asyncio.timeout(max(0.0, milliseconds) / 1000):
            return await work


def variables(env: Any) -> Mapping[str, str]:
    """Return the vars and secrets among the bindings."""
    raw = getattr(env, "_env", env)
    return {str(name): str(value) for name, value in js.Object.entries(raw) if isinstance(value, str)}
