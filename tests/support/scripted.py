"""A client without a server: a transport that answers as it was told, a clock that is moved, and loaded dice."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable

from kontract.client import Answer, Client
from kontract.core.errors import Code

URL = "http://gateway.test"


class ManualClock:
    """Stands still but for those who sleep; ``slept`` are the pauses, in milliseconds."""

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self.time = float(now)
        self.slept: list[float] = []

    def now(self) -> int:
        return int(self.time)

    def elapsed(self) -> float:
        return self.time

    async def sleep(self, milliseconds: float) -> None:
        self.slept.append(milliseconds)
        self.time += milliseconds
        await asyncio.sleep(0)


class LoadedDice:
    """Tokens are numbers in order; jitter is what it was made with."""

    def __init__(self, jitter: float = 1.0) -> None:
        self.jitter = jitter
        self._numbers = itertools.count(1)

    def token(self, size: int) -> bytes:
        return next(self._numbers).to_bytes(size, "big")

    def uniform(self) -> float:
        return self.jitter


class Script:
    """A transport: each call takes the next answer, or raises the next error, or calls the next function for one."""

    def __init__(self, answers: Iterable[Answer | Exception | Callable[[], Answer]]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, dict[str, str], bytes]] = []

    async def send(self, function, headers, body) -> Answer:
        self.sent.append((function, dict(headers), body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def keys(self) -> list[str | None]:
        return [headers.get("idempotency-key") for _, headers, _ in self.sent]


def scripted(*answers, **options) -> tuple[Client, Script, ManualClock]:
    script, clock = Script(answers), ManualClock()
    options = {"transport": script, "clock": clock, "random": LoadedDice()} | options
    return Client(URL, options.pop("token", "t"), **options), script, clock


def ok(result=None, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {"content-type": "application/json", **headers}, json.dumps({"result": result}).encode())


def refused(code: Code | str, status: int | None = None, details=None, **headers: str) -> Answer:
    name, status = (code.name, code.status) if isinstance(code, Code) else (code, status or 500)
    body = {"error": name, "message": f"about {name}", "request_id": "r-1"} | ({"details": details} if details else {})
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode())
