"""Concurrent clients of the histories application, and what they know of their calls.

A client makes one call after the other over HTTP and writes down when it began, when it ended, and how: with an answer,
with a refusal (nothing was written), or without either. Some calls carry an Idempotency-Key; those are repeated until
an answer comes, as such a client does.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from isolation.checker import FAIL, OK, UNKNOWN

LISTS = [(table, f"list{n}") for table in ("lists", "plain_lists") for n in range(2)]
COUNTERS = ["c0", "c1"]
DUTY = "duty"  # the set that is never to have more than MOST elements
MOST = 3
OPEN = "open"  # the set that everybody adds to
ACCOUNTS = [f"acc{n}" for n in range(4)]
EACH = 100
REGISTERS = ["r0", "r1", "r2"]

TABLES = ("lists", "plain_lists", "counters", "members", "bank", "registers", "calls")
READ = TABLES[:-1]

PAUSE = 0.05
"""Seconds until a client that was refused goes on: it is to be there when the server is back, not to keep it busy."""

RECONNECT = 0.2


@dataclass(slots=True)
class Call:
    """One call, from its first request until its client knew or gave up."""

    id: str
    function: str
    args: list[Any]
    start: float = 0.0
    end: float = float("inf")
    outcome: str = UNKNOWN
    seen: Any = None
    txid: int | None = None
    requests: int = 0
    replayed: bool = False


@dataclass
class Clients:
    """All clients of one run. `seed` makes its dice, and the names of its calls; a share of them is `keyed`."""

    url: str
    bearer: dict[str, str]
    seed: int
    keyed: float = 0.4
    calls: list[Call] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)  # answers that no caller should ever get
    answered: int = 0
    written: int = 0  # answered calls that wrote
    disturbed: int = 0  # requests that got no answer, or 503
    unknown: int = 0  # of those: 503 COMMIT_UNKNOWN
    stopping: bool = False
    pace: float = 0.0  # seconds between two calls of one client: judging thousands takes longer than making them
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, number: int) -> None:
        """Call until `stopping`."""
        async with asyncio.TaskGroup() as group:
            for client in range(number):
                group.create_task(self._client(Random(self.seed * 1000 + client)))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that may change with each answer."""
        while not condition():
            self._more.clear()
            await self._more.wait()

    async def until_more(self, calls: int) -> None:
        """Wait until so many more calls have been answered."""
        goal = self.answered + calls
        await self.until(lambda: self.answered >= goal)

    async def once(self, function: str, *args: Any) -> Any:
        """Call until it succeeds; recorded like all others."""
        async with self._http() as http:
            while (call := await self._call(http, function, list(args), keyed=True)).outcome != OK:
                await asyncio.sleep(PAUSE)
        return call.seen

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.bearer, timeout=60, trust_env=False)

    async def _client(self, dice: Random) -> None:
        async with self._http() as http:
            while not self.stopping:
                await asyncio.sleep(self.pace)
                function, args = self._choose(dice)
                call = await self._call(http, function, args, keyed=dice.random() < self.keyed)
                if call.outcome != OK:
                    await asyncio.sleep(PAUSE)

    def _choose(self, dice: Random) -> tuple[str, list[Any]]:
        functions = ("append", "bump", "add", "join", "leave", "move", "put", "look")
        [function] = dice.choices(functions, (28, 12, 8, 14, 10, 13, 5, 10))
        match function:
            case "append":
                steps = [[*dice.choice(LISTS), dice.random() < 0.6] for _ in range(dice.randint(1, 3))]
                return function, [steps]
            case "bump":
                return function, [dice.choice(COUNTERS)]
            case "add":
                return function, [OPEN]
            case "join":
                return function, [DUTY, MOST]
            case "leave":
                return function, [DUTY]
            case "move":
                return function, [*dice.sample(ACCOUNTS, 2), dice.randint(1, 60)]
            case "put":
                return function, [dice.sample(REGISTERS, dice.randint(1, 2))]
            case _:
                return function, [dice.sample(READ, dice.randint(1, 3))]

    async def _call(self, http: httpx.AsyncClient, function: str, args: list[Any], *, keyed: bool) -> Call:
        call = Call(f"{self.seed}-{next(self._numbers)}", function, args)
        if function == "append":
            call.args = [[(t, k, f"{call.id}.{n}" if adds else None) for n, (t, k, adds) in enumerate(args[0])]]
        sent = call.args if function == "look" else [call.id, *call.args]
        headers = {"Idempotency-Key": call.id} if keyed else {}
        call.start = time.monotonic()
        self.calls.append(call)
        in_doubt = False
        while True:
            outcome = await self._request(http, call, sent, headers)
            in_doubt = in_doubt or outcome == UNKNOWN
            if outcome == OK or not (keyed and in_doubt) or self.stopping:
                break
            await asyncio.sleep(PAUSE)
        # A refusal of the repetition says nothing about the first request.
        call.outcome = UNKNOWN if in_doubt and outcome == FAIL else outcome
        if call.outcome != UNKNOWN:
            call.end = time.monotonic()
        self.answered += call.outcome == OK
        self.written += call.outcome == OK and call.txid is not None
        self._more.set()
        return call

    async def _request(self, http: httpx.AsyncClient, call: Call, sent: list[Any], headers: dict[str, str]) -> str:
        try:
            response = await self._post(http, call.function, sent, headers)
        except httpx.TransportError:
            self.disturbed += 1
            return UNKNOWN
        finally:
            call.requests += 1
        if response.status_code == 200:
            call.seen = response.json()["result"]
            call.replayed = "idempotency-replayed" in response.headers
            txid = response.headers.get("x-kontract-txid")
            call.txid = None if txid is None else int(txid)
            return OK
        code = error_code(response)
        if (response.status_code, code) in REFUSALS:
            self.disturbed += response.status_code == 503
            self.unknown += code == "COMMIT_UNKNOWN"
            self._more.set()
            return UNKNOWN if code == "COMMIT_UNKNOWN" else FAIL
        self.strange.append(f"{call.function} was answered {response.status_code}: {response.text[:300]}")
        return UNKNOWN

    async def _post(
        self, http: httpx.AsyncClient, function: str, sent: list[Any], headers: dict[str, str]
    ) -> httpx.Response:
        while True:
            try:
                return await http.post(f"/rpc/{function}", json=sent, headers=headers)
            except httpx.ConnectError:  # nobody listens: nothing was sent
                await asyncio.sleep(RECONNECT)


# What the documentation lets a caller of these functions expect. ALREADY_APPLIED is not here: no journal is lost.
REFUSALS = {
    (409, "CONFLICT"),
    (503, "UNAVAILABLE"),
    (503, "BUSY"),
    (503, "COMMIT_UNKNOWN"),
    (504, "DEADLINE_EXCEEDED"),
}


def error_code(response: httpx.Response) -> str | None:
    """The code in an error body; None when it is not one of the gateway's."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return None
