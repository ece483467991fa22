"""Several processes behind one port: started together, replaced when they die, stopped together."""

from __future__ import annotations

import asyncio
import os
import signal

import asyncpg
import httpx
import pytest

from kontract.cli.toolchain.processes import free_port, is_running
from support.serving import new_server
from support.sessions import bearer_for


@pytest.fixture
def pair(checkout, postgres, reaper, tmp_path):
    """A server of two processes, with numbers on a port of its own."""
    port, url = free_port(), postgres.create_database()
    postgres.run(url, (checkout.root / "sql" / "coordination.sql").read_text(encoding="utf-8"))
    server = new_server(
        checkout,
        url,
        tmp_path / "pair",
        reaper,
        arguments=["--workers", "2"],
        KONTRACT_METRICS=str(port),
        KONTRACT_COORDINATION="postgres",
    )
    server.metrics_port = port
    try:
        server.start()
        server.wait_for("serving", 2)
        yield server
    finally:
        server.stop()


def children(server) -> list[int]:
    """The processes that answer."""
    return [line["pid"] for line in server.events("serving")]


async def numbers(server) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as operator:
        return (await operator.get(f"http://127.0.0.1:{server.metrics_port}/metrics")).text


async def health(server) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as stranger:
        return (await stranger.get(f"{server.url}/health")).status_code


async def test_both_answer_and_their_numbers_are_told_together(pair):
    """New connections go to one or the other; the sum of what they say is what was asked."""
    before = answered(await numbers(pair))
    for _ in range(40):
        assert await health(pair) == 200
    after = answered(await numbers(pair))
    assert set(after) == {"1", "2"}
    assert sum(after.values()) - sum(before.values()) == 40


def answered(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line.startswith("kontract_requests_total{")]
    lines += [f'kontract_requests_total{{worker="{number}"}} 0' for number in "12" if f'worker="{number}"' in text]
    counts: dict[str, float] = {}
    for line in lines:
        worker = line.partition('worker="')[2].partition('"')[0]
        counts[worker] = counts.get(worker, 0) + float(line.rpartition(" ")[2])
    return counts


@pytest.mark.long
async def test_what_one_writes_the_other_reads(pair):
    """With one token, on connections of their own: transfers in both, and no money is made or lost."""

    async def call(function: str, *args):
        async with httpx.AsyncClient(headers=bearer_for(pair), trust_env=False, timeout=60) as one:
            answer = await one.post(f"{pair.url}/rpc/{function}", json=list(args))
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    await asyncio.gather(*(call("open_account", name, 100) for name in "abcd"))
    await asyncio.gather(*(call("transfer", *"abcda"[n % 4 : n % 4 + 2], 1) for n in range(40)))
    assert await asyncio.gather(*(call("total") for _ in range(8))) == [400] * 8
    assert await asyncio.gather(*(call("balance", name) for name in "abcd")) == [100] * 4


async def test_one_that_dies_is_replaced(pair):
    """The other one answers meanwhile."""
    first, second = children(pair)
    os.kill(first, signal.SIGKILL)
    [died] = await asyncio.to_thread(pair.wait_for, "worker_died")
    assert died["code"] == -signal.SIGKILL
    lines = await asyncio.to_thread(pair.wait_for, "serving", 3)
    assert lines[-1]["worker"] == died["worker"]
    assert await health(pair) == 200
    assert is_running(second)


async def test_they_stop_with_their_parent(pair):
    """On SIGTERM, with exit code 0, and none is left."""
    pids = children(pair)
    pair.send(signal.SIGTERM)
    assert await asyncio.to_thread(pair.wait) == 0
    assert not any(is_running(pid) for pid in pids)
    assert len(pair.events("stopped")) == 2
    assert pair.events("worker_died") == []


async def test_they_do_not_outlive_a_parent_that_was_killed(pair):
    """The line to it ends, and they stop as if they had been told to."""
    pids = children(pair)
    os.kill(pair.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while any(is_running(pid) for pid in pids):
            await asyncio.sleep(0.05)
    # Other servers of this run are elsewhere in the same PostgreSQL; and it needs a moment to notice.
    theirs = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kontract'"
    )
    connection = await asyncpg.connect(pair.database_url)
    async with asyncio.timeout(60):
        while await connection.fetchval(theirs):
            await asyncio.sleep(0.05)
    await connection.close()
