"""The product's Worker beside a hand-written JavaScript Worker and FastAPI in a Python Worker, in one run.

All three run in workerd under `wrangler dev`, on one PostgreSQL, and are asked in turns, so that noise of the machine
hits all of them. Ratios are taken within a round, against the JavaScript Worker.

Run: .venv/bin/python bench/workerd.py [--commit REVISION] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import load
import records
from records import TIMES, Record, over_rounds
from stage import PEERS, Server, Stage, conditions, execute, tell

from kontract.cli.toolchain.postgres import create_database
from kontract.cli.toolchain.problem import Problem

BASE = "JavaScript"
PRODUCT = "Kontract"
NO_LOG = "without log"  # the same without its log line a request: the peers write none
FASTAPI = "FastAPI"


RESTARTS = 4

COUNTED = ("coordinator calls", "statements")
# A read is one call and one query; a blind write begins, prepares and is applied by one statement; a read-modify-write
# has its reads and one statement more, and a transfer reads two rows.
AIMS = {"get_task": (1, 1), "create_task": (2, 1), "toggle_task": (3, 2), "transfer": (3, 3)}


@dataclass(frozen=True)
class Scenario:
    """One kind of request."""

    function: str
    concurrency: int
    requests: int  # in a round


SCENARIOS = (
    Scenario("echo", 1, 100),
    Scenario("echo", 8, 200),
    Scenario("get_task", 1, 40),
    Scenario("get_task", 8, 80),
    Scenario("create_task", 1, 40),
    Scenario("create_task", 8, 80),
    Scenario("transfer", 1, 40),
)
WRITES = ("create_task", "transfer")  # the JavaScript Worker has none
ACCOUNTS = ("bench-a", "bench-b")
BALANCE = 1_000_000

CPU_CLIENTS = 8
CPU_AIMS = {"echo": "at most 0.85", "get_task": "at most 0.75", "create_task": "at most 1.2"}


@dataclass
class Measured:
    """One peer in one scenario."""

    rounds: list[load.Round] = field(default_factory=list)
    cpu_seconds: float = 0.0
    broken: int = 0

    def percentile(self, share: float) -> float:
        """A latency in milliseconds, over all rounds."""
        latencies = sorted(latency for one in self.rounds for latency in one.latencies)
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000

    @property
    def rate(self) -> float:
        """The median round's requests per second."""
        return statistics.median(one.rate for one in self.rounds)

    @property
    def cpu_ms(self) -> float:
        """Processor milliseconds of workerd a request."""
        return self.cpu_seconds * 1000 / sum(len(one.latencies) for one in self.rounds)


def has(name: str, function: str) -> bool:
    """Whether a peer can be asked for it."""
    return name != BASE or function not in WRITES


Call = tuple[str, list[Any], bytes]  # path, arguments, what the answer must contain


class Broken(Exception):  # noqa: N818 - what has happened to a peer
    """A peer whose workerd ended again and again."""


async def ask(name: str, server: Server, call: Call, scenario: Scenario, cell: Measured) -> None:
    """One round of one peer. What breaks down under the load is started again, and that is said in the report."""
    path, arguments, expected = call
    for _ in range(RESTARTS):
        before = server.cpu_seconds()
        try:
            one = await load.run(
                server.ask_port, path, arguments, scenario.requests, scenario.concurrency, expected, server.token()
            )
        except* (OSError, EOFError, load.WrongAnswerError) as group:
            cell.broken += 1
            await asyncio.sleep(1)  # the last words are on their way
            tell(f"{name}, {scenario}: {group.exceptions[0]!r}")
            tell("\n".join(server.log_text().splitlines()[-15:]))
            await asyncio.to_thread(restart, server)
            await load.run(server.ask_port, path, arguments, 20, 2, expected, server.token())
        else:
            cell.cpu_seconds += server.cpu_seconds() - before
            cell.rounds.append(one)
            return
    raise Broken(f"{name} did not survive {scenario}")


def restart(server: Server) -> None:
    """Start wrangler anew."""
    server.stop()
    server.start()
    server.find_direct()


async def compare(
    servers: dict[str, Server], tasks: dict[str, str], rounds: int
) -> dict[tuple[Scenario, str], Measured]:
    """Ask all servers in turns, each round in another order, after a warm-up that is not counted."""
    calls: dict[tuple[str, str], Call] = {}
    for name, server in servers.items():
        calls[name, "echo"] = ("/rpc/echo", ["hello"], b'"hello"')
        calls[name, "get_task"] = ("/rpc/get_task", [tasks[name]], tasks[name].encode())
        if has(name, "create_task"):
            calls[name, "create_task"] = ("/rpc/create_task", ["measure twice"], b'"measure twice"')
            calls[name, "transfer"] = ("/rpc/transfer", [*ACCOUNTS, 1], b'"bench-a"')
        for (whose, _), (path, arguments, expected) in calls.items():
            if whose == name:
                await load.run(server.ask_port, path, arguments, 40, 2, expected, server.token())
    table = {(scenario, name): Measured() for scenario in SCENARIOS for name in servers}
    names = list(servers)
    for number in range(rounds):
        tell(f"  round {number + 1} of {rounds}")
        order = names[number % len(names) :] + names[: number % len(names)]
        for scenario in SCENARIOS:
            for name in order:
                if not has(name, scenario.function):
                    continue
                try:
                    await ask(name, servers[name], calls[name, scenario.function], scenario, table[scenario, name])
                except Broken as broken:
                    if name in (BASE, PRODUCT):
                        raise
                    tell(str(broken))
    return table


def report(table: dict[tuple[Scenario, str], Measured], names: list[str]) -> None:
    """Print one table."""
    print(f"{'call':<9} {'clients':>7}  {'peer':<11} {'req/s':>7}  {'ratio (min-max of rounds)':<26}", end="")
    print(f" {'p50 ms':>7} {'p99 ms':>7} {'cpu ms':>7} {'ratio':>6}")
    for scenario in SCENARIOS:
        base = table[scenario, BASE if has(BASE, scenario.function) else PRODUCT]
        for name in names:
            cell = table[scenario, name]
            if not has(name, scenario.function):
                continue
            if len(cell.rounds) != len(base.rounds):
                print(f"{scenario.function:<9} {scenario.concurrency:>7}  {name:<11} broke down {cell.broken} times")
                continue
            ratios = [one.rate / other.rate for one, other in zip(cell.rounds, base.rounds, strict=True)]
            ratio = f"{statistics.median(ratios):.2f}  ({min(ratios):.2f}-{max(ratios):.2f})"
            print(
                f"{scenario.function:<9} {scenario.concurrency:>7}  {name:<11} {cell.rate:>7.0f}  {ratio:<26}", end=""
            )
            print(f" {cell.percentile(0.5):>7.1f} {cell.percentile(0.99):>7.1f}", end="")
            print(f" {cell.cpu_ms:>7.2f} {cell.cpu_ms / base.cpu_ms:>6.2f}", end="")
            print(f"  (broke down in {cell.broken} further rounds)" if cell.broken else "")


def to_records(
    table: dict[tuple[Scenario, str], Measured], counts: dict[str, tuple[str, str, str]], names: list[str]
) -> list[Record]:
    """Ratios of rates within a round, and the counts. A peer that broke down for good has no ratios."""
    measured = []
    for scenario in SCENARIOS:
        what = f"{scenario.function} in workerd, {scenario.concurrency} client{'s' if scenario.concurrency > 1 else ''}"
        for product in (PRODUCT, NO_LOG):
            for peer in (BASE, FASTAPI):
                own, other = table[scenario, product], table.get((scenario, peer))
                if peer not in names or other is None or not other.rounds or len(own.rounds) != len(other.rounds):
                    continue
                ratios = [one.rate / two.rate for one, two in zip(own.rounds, other.rounds, strict=True)]
                behind = f"{own.rate:.0f} a second beside {other.rate:.0f}"
                behind += f"; {own.cpu_ms / other.cpu_ms:.2f} times the processor time"
                name = product if product == PRODUCT else f"{PRODUCT} {product}"
                measured.append(over_rounds(what, ratios, TIMES, product=name, peer=peer, behind=behind))
                if (product, peer, scenario.concurrency) == (PRODUCT, FASTAPI, CPU_CLIENTS):
                    spent, aim = own.cpu_ms / other.cpu_ms, CPU_AIMS.get(scenario.function, "")
                    measured.append(Record(f"processor time of {what}", spent, TIMES, peer=peer, aim=aim))
    for function, found in counts.items():
        for at, unit in enumerate(COUNTED):
            aim = f"exactly {AIMS[function][at]}" if function in AIMS else ""
            measured.append(Record(f"{function}, caches warm", float(found[at]), unit, aim=aim))
    return measured


async def round_trips(server: Server) -> tuple[str, dict[str, tuple[str, str, str]]]:
    """Return a new task's id, and what Server-Timing says about one call of each function, once all is warm."""
    client = load.Client(server.ask_port, server.token())

    async def call(function: str, *arguments: Any) -> load.Answer:
        answer = await client.call("POST", f"/rpc/{function}", arguments)
        if answer.status != 200:
            raise RuntimeError(f"{function} answered {answer.status}: {answer.body[:300]!r}")
        return answer

    task_id = ""
    for account in ACCOUNTS:
        await call("open_account", account, BALANCE)
    counts = {}
    for _ in range(2):  # the first calls look tables up; the second ones count
        created = await call("create_task", "measure twice")
        task_id = str(created.json()["result"]["id"])
        answers = {
            "echo": await call("echo", "hello"),
            "get_task": await call("get_task", task_id),
            "create_task": created,
            "toggle_task": await call("toggle_task", task_id),
            "transfer": await call("transfer", *ACCOUNTS, 1),
        }
        counts = {name: counted(answer.headers.get("server-timing", "")) for name, answer in answers.items()}
    client.close()
    return task_id, counts


def counted(header: str) -> tuple[str, str, str]:
    """Coordinator calls, statements and attempts from a Server-Timing header."""
    patterns = (r'coord;[^,]*desc="(\d+) calls', r'db;[^,]*desc="(\d+) statements', r'attempts;desc="(\d+)"')
    found = [re.search(pattern, header) for pattern in patterns]
    calls, statements, attempts = (match[1] if match else "?" for match in found)
    return calls, statements, attempts


async def another_database(stage: Stage, database: str) -> str:
    """Make one with the product's schema beside the first one, and return its URL."""
    await create_database(database, "alone")
    url = urlsplit(database)._replace(path="/alone").geturl()
    await execute(url, stage.checkout.root / "sql" / "init.sql")
    return url


async def prepare_peers(database: str) -> None:
    """Make the plain tables that FastAPI writes to."""
    await execute(database, PEERS / "tables.sql")
    connection = await asyncpg.connect(database)
    rows = [(name, BALANCE) for name in ACCOUNTS]
    await connection.executemany("INSERT INTO accounts (id, balance) VALUES ($1, $2)", rows)
    await connection.close()


def measure(stage: Stage, revision: str | None, rounds: int) -> list[Record]:
    """Start everything, compare, print."""
    tell("Starting PostgreSQL and the Workers ...")
    database = stage.database()
    asyncio.run(prepare_peers(database))
    folders: dict[str, Callable[[], Path]] = {
        PRODUCT: lambda: stage.product(revision),
        NO_LOG: lambda: stage.product(revision, log=False),
        BASE: stage.js_peer,
        FASTAPI: stage.fastapi_peer,
    }
    alone = asyncio.run(another_database(stage, database))  # of one database, one coordinator is in charge
    servers = {
        name: stage.server(make(), alone if name == NO_LOG else database, python=name != BASE)
        for name, make in folders.items()
    }
    missing: dict[str, Problem] = {}
    with ThreadPoolExecutor() as pool:
        starting = {name: pool.submit(server.start) for name, server in servers.items()}
        for name, start in starting.items():
            try:
                start.result()
                servers[name].find_direct()
            except Problem as problem:
                if name != FASTAPI:
                    raise
                missing[name] = problem
                del servers[name]
    task_id, counts = asyncio.run(round_trips(servers[PRODUCT]))
    before = conditions(stage.checkout, revision)
    tasks = dict.fromkeys(servers, task_id) | {NO_LOG: asyncio.run(round_trips(servers[NO_LOG]))[0]}
    table = asyncio.run(compare(servers, tasks, rounds))
    print(before)
    behind = "at workerd's own port" if all(one.direct_port for one in servers.values()) else "through wrangler's proxy"
    print(f"{rounds} rounds, {behind}; ratios are to the {BASE} Worker in the same round, of writes to")
    print(f"{PRODUCT}; cpu is that of workerd\n")
    report(table, [name for name in (BASE, PRODUCT, NO_LOG, FASTAPI) if name in servers])
    for name, problem in missing.items():
        print(f"{name} was not measured: {problem}")
    print(f"\nRound trips of {PRODUCT} (Server-Timing): coordinator calls, statements, attempts")
    for name, (calls, statements, attempts) in counts.items():
        print(f"  {name:<12} {calls:>2} {statements:>2} {attempts:>2}")
    return to_records(table, counts, list(servers))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", metavar="REVISION", help="measure this revision instead of the working tree")
    parser.add_argument("--rounds", type=int, default=4)
    records.add_option(parser)
    arguments = parser.parse_args()
    try:
        with Stage.opened() as stage:
            records.write(arguments.records, measure(stage, arguments.commit, arguments.rounds))
    except Problem as problem:
        raise SystemExit(f"{problem}\n{problem.detail}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
