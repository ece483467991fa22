"""`kontract serve` beside FastAPI with asyncpg on uvicorn and a small Node http server with `pg`, in one run.

One process each, on one PostgreSQL, each in a database of its own, asked in turns, each round in another order. Ratios
are taken within a round. `kontract serve` runs twice: with its coordinators in memory, and in PostgreSQL. FastAPI, too:
its transfers lock their rows, or are SERIALIZABLE and run again when PostgreSQL refuses them. Every server writes one
line a request to a file; --quiet switches that off for all. PostgreSQL waits for the disk at each commit; --volatile
switches that off, which leaves what processors have to do.

--starts measures how long a server takes to start with the demo alone and with 1,000 functions more.
--scale measures `create_task` on 1, 2 and 3 nodes (coordinators in PostgreSQL), for 1 owner and for 30.

The load is made by wrk, which has to be installed. The packages of the peers come from the lock files in bench/peers/
and are kept in .kontract/: uv installs FastAPI into a folder of its own, so the project's environment has none of it.

Run: .venv/bin/python bench/serve.py [--rounds N] [--seconds N] [--quiet] [--volatile] [--scale | --starts]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import load
import records
import servers
import wrk
from records import TIMES, Record, over_rounds
from servers import Server
from stage import Stage, conditions, tell

from kontract.cli.toolchain.postgres import Cluster
from kontract.cli.toolchain.problem import Problem

MEMORY, SHARED, FASTAPI, NODE = "Kontract, memory", "Kontract, postgres", "FastAPI", "Node"
SERIAL = "FastAPI, serial"  # its transfers are SERIALIZABLE and run again; else it is FASTAPI
PRODUCT = (MEMORY, SHARED)
TRANSFER, ZIPF = "transfer", "transfer, Zipf 1.5"
TRANSFERS = (TRANSFER, ZIPF)
FUNCTIONS = ("echo", "get_task", "create_task", *TRANSFERS)
ZIPF_EXPONENT = 1.5
CONNECTIONS = (1, 16)
ROWS = 500  # tasks to read and accounts to transfer between: calls at the same time seldom meet
BALANCE = 1_000_000
OWNERS = (1, 30)
NODES = (1, 2, 3)
SCALE_CONNECTIONS = 30
STARTED = (0, 1000)

TASKS, ACCOUNTS = "tbl_tasks_5f0c1d", "tbl_accounts_9b27e4"  # in sql/init.sql

VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# What holds money and tasks in the product's tables and in the plain ones.
SUMS = {
    True: f"SELECT sum((data->>'balance')::bigint) FROM {ACCOUNTS} WHERE _deleted_txid IS NULL",
    False: "SELECT sum(balance) FROM accounts",
}
COUNTS = {
    True: f"SELECT count(*) FROM {TASKS} WHERE _deleted_txid IS NULL",
    False: "SELECT count(*) FROM tasks",
}


@dataclass
class Cell:
    """One server in one scenario."""

    rounds: list[wrk.Round] = field(default_factory=list)
    cpu_seconds: float = 0.0
    database_seconds: float = 0.0
    spent: list[float] = field(default_factory=list)  # of the server, for a call, in each round

    @property
    def calls(self) -> int:
        """Calls in all rounds."""
        return sum(one.calls for one in self.rounds)

    def median(self, of: Callable[[wrk.Round], float]) -> float:
        """The median over the rounds."""
        return statistics.median(of(one) for one in self.rounds)

    def measure(
        self,
        asked: list[Server],
        cluster: Cluster,
        path: str,
        requests: Path,
        connections: int,
        seconds: int,
        *,
        may_refuse: bool = False,
    ) -> None:
        """Add a round. ``may_refuse``: some calls may lose too often against others, and are counted."""
        own, database = _cpu(asked), servers.database_cpu_seconds(cluster)
        one = wrk.run([server.port for server in asked], path, requests, connections, seconds)
        if not may_refuse and one.refused > one.calls // 100:
            raise Problem(f"{asked[0].name} refused {one.refused} of {one.calls} calls of {path}.", "Read its log.")
        spent = _cpu(asked) - own
        self.cpu_seconds += spent
        self.spent.append(spent / max(1, one.calls))
        self.database_seconds += servers.database_cpu_seconds(cluster) - database
        self.rounds.append(one)


def _cpu(asked: list[Server]) -> float:
    return sum(server.cpu_seconds() for server in asked)


@dataclass
class Peer:
    """A server, its database, and a file of requests for each function."""

    server: Server
    url: str
    product: bool
    requests: dict[str, Path] = field(default_factory=dict)
    created: int = 0

    async def prepare(self, folder: Path) -> None:
        """Fill its tables, see that each call answers as it must, and write the requests."""
        bearer = servers.token() if self.product else ""
        accounts = [f"account-{number}" for number in range(ROWS)]
        if self.product:
            answers = await _call_all(self.server.port, "create_task", [["read me"]] * ROWS, bearer)
            tasks = [answer["id"] for answer in answers]
            await _call_all(self.server.port, "open_account", [[name, BALANCE] for name in accounts], bearer)
        else:
            tasks = [f"task-{number}" for number in range(ROWS)]
            connection = await asyncpg.connect(self.url)
            rows = [(name, "read me", "bench") for name in tasks]
            await connection.executemany("INSERT INTO tasks (id, title, created_by) VALUES ($1, $2, $3)", rows)
            rows = [(name, BALANCE) for name in accounts]
            await connection.executemany("INSERT INTO accounts (id, balance) VALUES ($1, $2)", rows)
            await connection.close()
        chosen = random.Random(1)  # the same pairs for every server
        arguments: dict[str, list[list[Any]]] = {
            "echo": [["hello"]],
            "get_task": [[name] for name in tasks],
            "create_task": [["measure twice"]],
            TRANSFER: [[*chosen.sample(accounts, 2), 1] for _ in range(10 * ROWS)],
            ZIPF: [[*pair, 1] for pair in zipf_pairs(chosen, accounts, 10 * ROWS)],
        }
        await self._check(arguments, bearer)
        for name, calls in arguments.items():
            path = folder / f"{self.server.port}-{name}"
            self.requests[name] = wrk.write_requests(path, [(bearer, call) for call in calls])

    async def _check(self, arguments: dict[str, list[list[Any]]], bearer: str) -> None:
        names = ("echo", "get_task", "create_task", TRANSFER)
        got = [(await _call_all(self.server.port, name, [arguments[name][0]], bearer))[0] for name in names]
        echoed, read, created, moved = got
        src, dst, _ = arguments["transfer"][0]
        task = {"id": arguments["get_task"][0][0], "title": "read me", "done": False, "created_by": "bench"}
        right = echoed == "hello" and read == task and created["title"] == "measure twice"
        if not right or moved != {src: BALANCE - 1, dst: BALANCE + 1}:
            raise Problem(f"{self.server.name} answers something else than it must.", "See below.", json.dumps(got))
        self.created = 1

    async def audit(self) -> None:
        """No money was made or lost, and no answer was given for a task that is not there."""
        connection = await asyncpg.connect(self.url)
        money, tasks = await connection.fetchval(SUMS[self.product]), await connection.fetchval(COUNTS[self.product])
        await connection.close()
        if money != ROWS * BALANCE or tasks < ROWS + self.created:
            raise Problem(
                f"{self.server.name} holds {money} and {tasks} tasks, not {ROWS * BALANCE} and {ROWS + self.created}.",
                "Its figures are worth nothing.",
            )


def zipf_pairs(chosen: random.Random, accounts: list[str], count: int) -> list[list[str]]:
    """Pairs of different accounts of which the first is asked for most: the k-th with the weight k to the -1.5."""
    weights = [place**-ZIPF_EXPONENT for place in range(1, len(accounts) + 1)]
    pairs: list[list[str]] = []
    while len(pairs) < count:
        pair = chosen.choices(accounts, weights, k=2)
        if pair[0] != pair[1]:
            pairs.append(pair)
    return pairs


async def _call_all(port: int, function: str, calls: list[list[Any]], bearer: str) -> list[Any]:
    left, results = iter(calls), []

    async def some() -> None:
        client = load.Client(port, bearer)
        for call in left:
            answer = await client.call("POST", f"/rpc/{function}", call)
            if answer.status != 200:
                raise Problem(f"{function} answered {answer.status}.", "See below.", repr(answer.body[:500]))
            results.append(answer.json()["result"])
        client.close()

    await asyncio.gather(*(some() for _ in range(min(8, len(calls)))))
    return results


def start(stage: Stage, cluster: Cluster, *, quiet: bool) -> dict[str, Peer]:
    """Start and prepare all servers."""
    peers = {}
    for number, name in enumerate((MEMORY, SHARED, FASTAPI, SERIAL, NODE)):
        url = servers.new_database(stage, cluster, f"bench_{number}", product=name in PRODUCT)
        if name in PRODUCT:
            server = servers.kontract(stage, name, url, "memory" if name == MEMORY else "postgres", quiet=quiet)
        elif name == NODE:
            server = servers.node_http(stage, name, url, quiet=quiet)
        else:
            isolation = "serializable" if name == SERIAL else ""
            server = servers.fastapi(stage, name, url, quiet=quiet, isolation=isolation)
        peers[name] = Peer(server, url, name in PRODUCT)
        asyncio.run(peers[name].prepare(stage.folder))
    return peers


def compare(
    stage: Stage, cluster: Cluster, rounds: int, seconds: int, connections: Sequence[int], *, quiet: bool
) -> list[Record]:
    """Measure all servers in turns, and print."""
    tell("Starting the servers ...")
    peers = start(stage, cluster, quiet=quiet)
    memory = {name: peer.server.resident_mib() for name, peer in peers.items()}
    names = list(peers)
    cells = {
        (function, count, name): Cell()
        for function in FUNCTIONS
        for count in connections
        for name in names
        if name != SERIAL or function in TRANSFERS
    }
    for peer in peers.values():
        for function in FUNCTIONS:
            peer.created += _created(function, wrk.run([peer.server.port], *_asked(peer, function), 8, 1))
    before = conditions(stage.checkout, None, wrk.version())
    for number in range(rounds):
        tell(f"  round {number + 1} of {rounds}")
        order = names[number % len(names) :] + names[: number % len(names)]
        for function in FUNCTIONS:
            for count in connections:
                for name in order:
                    if (function, count, name) not in cells:
                        continue
                    cell, peer = cells[function, count, name], peers[name]
                    asked = _asked(peer, function)
                    cell.measure([peer.server], cluster, *asked, count, seconds, may_refuse=function == ZIPF)
                    peer.created += _created(function, cell.rounds[-1])
    for peer in peers.values():
        asyncio.run(peer.audit())
    print(before)
    lines = f"{waits(cluster)}; {'no log lines' if quiet else 'one log line a request, to a file'}"
    busiest = max(one.load_cpu / one.seconds for cell in cells.values() for one in cell.rounds)
    print(f"{rounds} rounds of {seconds} s; {lines}; wrk used at most {100 * busiest:.0f} % of a processor\n")
    report(cells, names, connections)
    print("\nresident memory, MiB: before the load, after it")
    for name, peer in peers.items():
        print(f"  {name:<18} {memory[name]:>4.0f} {peer.server.resident_mib():>4.0f}")
    return [
        *to_records(cells),
        *(
            Record("resident memory after the load", peer.server.resident_mib(), "MiB", product=name)
            for name, peer in peers.items()
        ),
    ]


# What is aimed at with AIMED connections and coordinators in memory: rates, and processor time of the server.
AIMED = 16
AIMS = {
    ("echo", FASTAPI): "at least 2",
    ("get_task", FASTAPI): "at least 1.8",
    ("create_task", FASTAPI): "at least 1.3",
    (TRANSFER, SERIAL): "at least 1.2",
    (ZIPF, SERIAL): "at least 3",
}
CPU_AIMS = {"echo": "at most 0.55", "get_task": "at most 0.6", "create_task": "at most 0.95"}


def to_records(cells: dict[tuple[str, int, str], Cell]) -> list[Record]:
    """Ratios of rates within a round."""
    measured = []
    for (function, count, name), cell in cells.items():
        for peer in (FASTAPI, SERIAL, NODE) if name in PRODUCT else ():
            if (function, count, peer) not in cells:
                continue
            other = cells[function, count, peer]
            rates = [one.rate / two.rate for one, two in zip(cell.rounds, other.rounds, strict=True)]
            cpu = _of_thousand(cell.cpu_seconds, cell) / max(1e-9, _of_thousand(other.cpu_seconds, other))
            behind = f"{cell.median(_rate):.0f} a second beside {other.median(_rate):.0f}; "
            behind += f"{cpu:.2f} times the processor time"
            what = f"{function} on CPython, {count} connection{'s' if count > 1 else ''}"
            aimed = count == AIMED and name == MEMORY
            aim = AIMS.get((function, peer), "") if aimed else ""
            measured.append(over_rounds(what, rates, TIMES, product=name, peer=peer, aim=aim, behind=behind))
            if aimed and peer == FASTAPI and function in CPU_AIMS:
                spent = [one / two for one, two in zip(cell.spent, other.spent, strict=True)]
                what = f"processor time of {function} on CPython, {count} connections"
                aim = CPU_AIMS[function]
                measured.append(over_rounds(what, spent, TIMES, product=name, peer=peer, aim=aim))
    return measured


def _rate(one: wrk.Round) -> float:
    return one.rate


def _asked(peer: Peer, function: str) -> tuple[str, Path]:
    return f"/rpc/{TRANSFER if function in TRANSFERS else function}", peer.requests[function]


def _created(function: str, one: wrk.Round) -> int:
    return one.calls - one.refused if function == "create_task" else 0


def report(cells: dict[tuple[str, int, str], Cell], names: list[str], connections: Sequence[int]) -> None:
    """Print one table. Processor seconds are of 1,000 calls."""
    print(
        f"{'call':<18} {'conns':>5}  {'server':<18} {'a second':>8}  {'x FastAPI (min-max)':<19} {'x Node':>6} ", end=""
    )
    print(f"{'p50 ms':>7} {'p99 ms':>7}  {'cpu s':>6} {'x FastAPI':>9} {'x Node':>6}  {'database cpu s':>14}")
    for function in FUNCTIONS:
        for count in connections:
            for name in names:
                if (function, count, name) not in cells:
                    continue
                cell = cells[function, count, name]
                rates = {peer: ratios(cell, cells[function, count, peer]) for peer in (FASTAPI, NODE)}
                own = _of_thousand(cell.cpu_seconds, cell)
                other = {peer: cells[function, count, peer] for peer in (FASTAPI, NODE)}
                cpu = {peer: own / _of_thousand(one.cpu_seconds, one) for peer, one in other.items()}
                low, middle, high = rates[FASTAPI]
                spread = f"{middle:.2f} ({low:.2f}-{high:.2f})"
                refused = sum(one.refused for one in cell.rounds)
                print(f"{function:<18} {count:>5}  {name:<18} {cell.median(lambda one: one.rate):>8.0f}  ", end="")
                print(f"{spread:<19} {rates[NODE][1]:>6.2f} ", end="")
                print(f"{cell.median(lambda one: one.p50):>7.2f} {cell.median(lambda one: one.p99):>7.2f}  ", end="")
                print(f"{own:>6.3f} {cpu[FASTAPI]:>9.2f} {cpu[NODE]:>6.2f}  ", end="")
                print(f"{_of_thousand(cell.database_seconds, cell):>14.3f}", end="")
                print(f"  ({refused} refused)" if refused else "")


def waits(cluster: Cluster) -> str:
    """Whether commits wait for the disk."""
    return "PostgreSQL without fsync" if cluster.settings else "PostgreSQL with fsync"


def ratios(cell: Cell, base: Cell) -> tuple[float, float, float]:
    """Least, median and greatest ratio of rates in the same round."""
    found = [one.rate / other.rate for one, other in zip(cell.rounds, base.rounds, strict=True)]
    return min(found), statistics.median(found), max(found)


def _of_thousand(seconds: float, cell: Cell) -> float:
    return seconds * 1000 / cell.calls


# --- many nodes -------------------------------------------------------------------------------------------------------


async def add_owners(url: str, schema: str, owners: list[str]) -> None:
    """Give each owner a table of tasks of its own: what sql/init.sql does for the first one."""
    begins = (schema.index(f"CREATE TABLE IF NOT EXISTS {name}") for name in (TASKS, ACCOUNTS))
    tables = schema[slice(*begins)]
    connection = await asyncpg.connect(url)
    for number, owner in enumerate(owners):
        ptr = f"tbl_tasks_{number:06d}"
        await connection.execute(tables.replace(TASKS, ptr))
        await connection.execute("INSERT INTO storage (id, ptr, owner) VALUES ($1 || '/tasks', $2, $1)", owner, ptr)
    await connection.close()


def scale(stage: Stage, cluster: Cluster, rounds: int, seconds: int) -> list[Record]:
    """Measure `create_task` on several nodes, each time on new servers and a new database, and print."""
    schema = (stage.checkout.root / "sql" / "init.sql").read_text(encoding="utf-8")
    owners = [f"owner-{number}" for number in range(max(OWNERS))]
    requests = {
        count: wrk.write_requests(
            stage.folder / f"owners-{count}", [(servers.token(owner), ["measure twice"]) for owner in owners[:count]]
        )
        for count in OWNERS
    }
    cells = {(count, nodes): Cell() for count in OWNERS for nodes in NODES}
    before = conditions(stage.checkout, None, wrk.version())
    for number in range(rounds):
        tell(f"  round {number + 1} of {rounds}")
        for nodes in NODES if number % 2 == 0 else reversed(NODES):
            url = servers.new_database(stage, cluster, f"scale_{number}_{nodes}", product=True)
            asyncio.run(add_owners(url, schema, owners))
            running = [servers.kontract(stage, f"node {one}", url, "postgres") for one in range(nodes)]
            for count in OWNERS:
                wrk.run([one.port for one in running], "/rpc/create_task", requests[count], SCALE_CONNECTIONS, 2)
                cell = cells[count, nodes]
                cell.measure(running, cluster, "/rpc/create_task", requests[count], SCALE_CONNECTIONS, seconds)
            for one in running:
                one.stop()
    print(before)
    print(f"create_task; {rounds} rounds of {seconds} s, {SCALE_CONNECTIONS} connections in all; {waits(cluster)}\n")
    print("owners  nodes  a second  x one node (min-max)  p50 ms  p99 ms  cpu s  database cpu s (of 1,000 calls)")
    for (count, nodes), cell in cells.items():
        low, middle, high = ratios(cell, cells[count, NODES[0]])
        refused = sum(one.refused for one in cell.rounds)
        print(f"{count:>6} {nodes:>6} {cell.median(lambda one: one.rate):>9.0f}  ", end="")
        print(f"{f'{middle:.2f} ({low:.2f}-{high:.2f})':<20} {cell.median(lambda one: one.p50):>7.1f} ", end="")
        print(f"{cell.median(lambda one: one.p99):>7.1f}  {_of_thousand(cell.cpu_seconds, cell):>5.2f}  ", end="")
        print(f"{_of_thousand(cell.database_seconds, cell):>14.2f}", f" ({refused} refused)" if refused else "", sep="")
    return [
        over_rounds(
            f"create_task on {nodes} nodes, {count} owner{'s' if count > 1 else ''}",
            [one.rate / other.rate for one, other in zip(cell.rounds, cells[count, NODES[0]].rounds, strict=True)],
            TIMES,
            product=SHARED,
            peer="one node",
            behind=f"{cell.median(_rate):.0f} a second beside {cells[count, NODES[0]].median(_rate):.0f}",
        )
        for (count, nodes), cell in cells.items()
        if nodes != NODES[0]
    ]


# --- starting ---------------------------------------------------------------------------------------------------------


def starts(stage: Stage, cluster: Cluster, rounds: int) -> list[Record]:
    """Start the server with few functions and with many, in turns, and print what that takes."""
    before = conditions(stage.checkout, None, wrk.version())
    url = servers.new_database(stage, cluster, "starts", product=True)
    roots = {count: servers.large_application(stage, count) for count in STARTED}
    seconds: dict[int, list[float]] = {count: [] for count in STARTED}
    memory: dict[int, list[float]] = {count: [] for count in STARTED}
    for _ in range(rounds):
        for count, root in roots.items():
            server = servers.kontract(stage, f"{count} functions", url, "postgres", root=root)
            seconds[count].append(server.start_seconds)
            memory[count].append(server.resident_mib())
            server.stop()
    print(before)
    print(f"{rounds} starts each: seconds from the command to the first answer of /health, resident memory then\n")
    print("functions besides the demo's  seconds (min-max)   MiB")
    for count in STARTED:
        low, middle, high = min(seconds[count]), statistics.median(seconds[count]), max(seconds[count])
        print(f"{count:>28}  {middle:.2f} ({low:.2f}-{high:.2f}) {statistics.median(memory[count]):>6.0f}")
    return [
        over_rounds(
            f"start of `kontract serve` with {count:,} functions besides the demo's",
            seconds[count],
            "s",
            behind=f"{statistics.median(memory[count]):.0f} MiB then",
        )
        for count in STARTED
    ]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=2, help="of load in a round, for each server and call")
    parser.add_argument(
        "--connections", type=int, action="append", choices=CONNECTIONS, help="only so many; may be repeated"
    )
    parser.add_argument("--quiet", action="store_true", help="no log lines, in any server")
    parser.add_argument("--volatile", action="store_true", help="PostgreSQL without fsync: nothing waits for the disk")
    parser.add_argument("--scale", action="store_true", help="1, 2 and 3 nodes instead")
    parser.add_argument("--starts", action="store_true", help="starting with few functions and with many instead")
    records.add_option(parser)
    arguments = parser.parse_args()
    try:
        wrk.program()
        with Stage.opened() as stage:
            cluster = stage.cluster(VOLATILE if arguments.volatile else {})
            if arguments.starts:
                measured = starts(stage, cluster, arguments.rounds)
            elif arguments.scale:
                measured = scale(stage, cluster, arguments.rounds, arguments.seconds)
            else:
                measured = compare(
                    stage,
                    cluster,
                    arguments.rounds,
                    arguments.seconds,
                    arguments.connections or CONNECTIONS,
                    quiet=arguments.quiet,
                )
            records.write(arguments.records, measured)
    except Problem as problem:
        raise SystemExit(f"{problem}\n{problem.detail}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
