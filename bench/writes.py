"""Writes and reads of one owner in workerd, in turns: rates and latencies at 1, 8 and 32 clients.

`create_task` is a blind write of a new row, which conflicts with nothing; `get_task` reads one row. All writes of an
owner go through one Durable Object. Last, 32 clients transfer between the same two rows: nothing conflicts more.

Run: .venv/bin/python bench/writes.py [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
from collections.abc import Sequence

import load
import records
from records import TIMES, Record, over_rounds
from stage import Server, Stage, conditions, tell

CLIENTS = (1, 8, 32)
REQUESTS = {1: 40, 8: 120, 32: 240}


async def measure(server: Server, rounds: int, all_clients: Sequence[int]) -> list[Record]:
    """Measure and print."""
    token = server.token()
    client = load.Client(server.ask_port, token)
    task = (await client.call("POST", "/rpc/create_task", ["read"])).json()["result"]["id"]
    kinds = {"create_task": (["a task"], b"a task"), "get_task": ([task], task.encode())}
    found: dict[tuple[str, int], list[load.Round]] = {}
    for _ in range(rounds):
        for clients in all_clients:
            for function, (arguments, expected) in kinds.items():
                one = await load.run(
                    server.ask_port, f"/rpc/{function}", arguments, REQUESTS[clients], clients, expected, token
                )
                found.setdefault((function, clients), []).append(one)
    measured_all = []
    print("clients  function     a second  p50 ms  p99 ms  beside get_task")
    for clients in all_clients:
        reads = found["get_task", clients]
        for function in kinds:
            measured = found[function, clients]
            ratios = [one.rate / read.rate for one, read in zip(measured, reads, strict=True)]
            ratio = statistics.median(ratios)
            latencies = sorted(1000 * latency for one in measured for latency in one.latencies)
            p50, p99 = (latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
            rate = statistics.median(one.rate for one in measured)
            print(f"{clients:7d}  {function:11s}  {rate:8.0f}  {p50:6.0f}  {p99:6.0f}  {ratio:.2f}")
            if function == "create_task":
                behind = f"{rate:.0f} a second; p50 {p50:.0f} ms, p99 {p99:.0f} ms"
                scenario = f"create_task of one owner, {clients} client{'s' if clients > 1 else ''}"
                measured_all.append(over_rounds(scenario, ratios, TIMES, peer="its own get_task", behind=behind))
    client.close()
    return [*measured_all, *await hot(server, token)]


async def hot(server: Server, token: str) -> list[Record]:
    """32 clients, five transfers each, between two rows."""
    client = load.Client(server.ask_port, token)
    for account in ("hot-a", "hot-b"):
        await client.call("POST", "/rpc/open_account", [account, 1000])
    attempts: list[int] = []

    async def five() -> None:
        mine = load.Client(server.ask_port, token)
        done = 0
        while done < 5:
            answer = await mine.call("POST", "/rpc/transfer", ["hot-a", "hot-b", 1])
            if answer.status == 200:
                done += 1
                attempts.append(int(re.findall(r'desc="(\d+)', answer.headers["server-timing"])[2]))
        mine.close()

    await asyncio.gather(*(five() for _ in range(32)))
    client.close()  # the server may have closed it while it was not used
    balance = (await client.call("POST", "/rpc/balance", ["hot-b"])).json()["result"]
    print(
        f"32 clients on two rows: {len(attempts)} transfers, {balance - 1000} arrived; attempts a call: "
        f"median {statistics.median(attempts):.0f}, most {max(attempts)}"
    )
    client.close()
    scenario, median = "32 clients on two rows", f"median {statistics.median(attempts):.0f}"
    return [
        Record(f"{scenario}: transfers that arrived", balance - 1000, "", aim=f"exactly {len(attempts)}"),
        Record(f"{scenario}: most attempts a call", max(attempts), "attempts", aim="at most 10", behind=median),
    ]


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, action="append", choices=CLIENTS, help="only so many; may be repeated")
    records.add_option(parser)
    options = parser.parse_args()
    with Stage.opened() as stage:
        database = stage.database()
        tell("Starting the Worker ...")
        server = stage.server(stage.product(None), database)
        server.start()
        server.find_direct()
        print(conditions(stage.checkout, None))
        records.write(options.records, asyncio.run(measure(server, options.rounds, options.clients or CLIENTS)))


if __name__ == "__main__":
    main()
