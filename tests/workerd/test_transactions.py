"""The transaction protocol through real workerd, a real Durable Object and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re

import asyncpg
import httpx
import pytest

from kontract.cli.toolchain.wrangler import DevServer
from support.sessions import bearer_for

names = itertools.count()


@pytest.fixture
async def api(worker: DevServer):
    async with httpx.AsyncClient(
        base_url=worker.url,
        headers=bearer_for(worker),
        timeout=60,
        limits=httpx.Limits(max_connections=100),
        trust_env=False,
    ) as client:
        yield client


async def rpc(api: httpx.AsyncClient, function: str, *args, **headers: str) -> httpx.Response:
    return await api.post(f"/rpc/{function}", json=list(args), headers=headers)


async def result(api: httpx.AsyncClient, function: str, *args):
    response = await rpc(api, function, *args)
    assert response.status_code == 200, response.text
    return response.json()["result"]


async def transfer(api: httpx.AsyncClient, src: str, dst: str, amount: int) -> httpx.Response:
    """Transfer. On a machine that is busy with other things a call may run out of its ten seconds: nothing of it is
    kept, and it is made again.
    """
    while (answer := await rpc(api, "transfer", src, dst, amount)).status_code == 504:
        assert answer.json()["error"] == "DEADLINE_EXCEEDED"
    return answer


def costs(response: httpx.Response) -> tuple[int, int, int]:
    """Coordinator calls, SQL statements and attempts of a call."""
    found = re.findall(r'desc="(\d+)', response.headers["server-timing"])
    return int(found[0]), int(found[1]), int(found[2])


async def live_versions(worker: DevServer, table: str) -> list[tuple[str, int]]:
    """Ids of which more than one version is live: there must never be one."""
    connection = await asyncpg.connect(worker.database_url)
    try:
        ptr = await connection.fetchval("SELECT ptr FROM storage WHERE id = $1", table)
        rows = await connection.fetch(
            f"SELECT id, count(*) FROM {ptr} WHERE _deleted_txid IS NULL GROUP BY id HAVING count(*) > 1"
        )
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


async def ten_accounts(api: httpx.AsyncClient) -> list[str]:
    tag = f"t{next(names)}"
    accounts = [f"{tag}-{n}" for n in range(10)]
    for account in accounts:
        await result(api, "open_account", account, 1000)
    return accounts


async def test_round_trips_of_a_read_and_of_a_blind_write(api):
    """A read costs one coordinator call and one query, a blind write two calls and one statement."""
    created = await rpc(api, "create_task", "count me")
    task = created.json()["result"]["id"]
    await rpc(api, "get_task", task)  # by now the pointer is cached
    assert costs(await rpc(api, "get_task", task)) == (1, 1, 1)
    assert costs(await rpc(api, "create_task", "and me")) == (2, 1, 1)
    assert costs(await rpc(api, "rename_task", task, "changed")) == (3, 2, 1)


async def test_a_write_is_seen_by_the_next_call(api):
    """Whoever was answered is seen by everybody who calls afterwards, with a txid that grows."""
    created = await rpc(api, "create_task", "first")
    task = created.json()["result"]
    renamed = await rpc(api, "rename_task", task["id"], "second")
    assert (await result(api, "get_task", task["id"]))["title"] == "second"
    assert int(renamed.headers["x-kontract-txid"]) > int(created.headers["x-kontract-txid"])


async def test_a_handler_that_raises_leaves_no_trace(api):
    """A transfer that fails after reading changes neither account."""
    accounts = await ten_accounts(api)
    response = await rpc(api, "transfer", accounts[0], accounts[1], 5000)
    assert response.status_code == 400
    assert await result(api, "balance", accounts[0]) == 1000


async def arriving(api: httpx.AsyncClient, src: str, dst: str, amount: int) -> httpx.Response:
    """A transfer as the clients make it: one that lost against others for ten seconds is called again.

    On a quiet machine that does not happen; how many attempts a call takes is counted, not how long.
    """
    for _ in range(20):
        answer = await transfer(api, src, dst, amount)
        if answer.status_code != 409:
            break
        assert answer.json()["details"]["attempts"] <= 10
    return answer


async def test_a_hundred_concurrent_transfers_keep_the_total(api, worker):
    """100 transfers at once between 10 accounts: all arrive, the total holds, no row is live twice."""
    accounts = await ten_accounts(api)
    before = await result(api, "total")
    dice = random.Random(7)
    pairs = [dice.sample(accounts, 2) for _ in range(100)]
    answers = await asyncio.gather(*(arriving(api, src, dst, dice.randint(1, 9)) for src, dst in pairs))
    assert [answer.text for answer in answers if answer.status_code >= 400] == []
    assert {answer.status_code for answer in answers} == {200}
    assert await result(api, "total") == before
    assert await live_versions(worker, "accounts") == []
    txids = [int(answer.headers["x-kontract-txid"]) for answer in answers]
    assert len(set(txids)) == 100


async def test_a_repeated_call_with_its_key_applies_once(api):
    """The same Idempotency-Key gives the first answer again and writes nothing."""
    accounts = await ten_accounts(api)
    key = {"Idempotency-Key": f"pay-{accounts[0]}"}
    first = await rpc(api, "transfer", accounts[0], accounts[1], 100, **key)
    again = await rpc(api, "transfer", accounts[0], accounts[1], 100, **key)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert await result(api, "balance", accounts[0]) == 900


async def test_32_clients_on_one_pair_of_rows_all_succeed_within_ten_attempts(api):
    """A hot key makes progress: whoever lost several times is served in order of arrival."""
    src, dst, *_ = await ten_accounts(api)

    async def five_in_a_row() -> list[httpx.Response]:
        return [await arriving(api, src, dst, 1) for _ in range(5)]

    answers = [answer for one in await asyncio.gather(*(five_in_a_row() for _ in range(32))) for answer in one]
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    assert max(costs(answer)[2] for answer in answers) <= 10
    assert await result(api, "balance", dst) == 1000 + 160


async def test_with_connections_cut_at_random_every_answer_is_true(api, worker):
    """PostgreSQL ends connections in the middle of statements: what was acknowledged is there, the total holds."""
    accounts = await ten_accounts(api)
    before = await result(api, "total")
    dice = random.Random(5)
    acknowledged: list[int] = []
    refused: list[httpx.Response] = []
    cutting = True
    admin = await asyncpg.connect(worker.database_url)

    async def cut() -> None:
        while cutting:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.3"
            )
            await asyncio.sleep(dice.uniform(0.01, 0.1))

    async def transfers() -> None:
        for number in range(300):
            if number >= 15 and refused:
                break  # some met a cut that could not be mended, which is what is to be seen
            src, dst = dice.sample(accounts, 2)
            answer = await rpc(api, "transfer", src, dst, dice.randint(1, 9))
            if answer.status_code == 200:
                acknowledged.append(int(answer.headers["x-kontract-txid"]))
            else:
                refused.append(answer)

    cutter = asyncio.create_task(cut())
    await asyncio.gather(*(transfers() for _ in range(8)))
    cutting = False
    await cutter
    assert await result(api, "total") == before
    fences = await admin.fetch("SELECT create_txid FROM trxs WHERE owner = 'tenant-1' AND sid NOT LIKE 'epoch/%'")
    await admin.close()
    assert set(acknowledged) <= {row[0] for row in fences}
    assert len(set(acknowledged)) == len(acknowledged)
    assert refused, "no connection was cut at a bad moment: the test has shown nothing"
    assert {answer.status_code for answer in refused} <= {409, 503}, [answer.text for answer in refused]
    assert await live_versions(worker, "accounts") == []


async def test_killed_in_the_middle_the_total_holds_and_no_acknowledged_transfer_is_lost(api, worker):
    """SIGKILL of wrangler and workerd during transfers, then a restart on the same state."""
    accounts = await ten_accounts(api)
    before = await result(api, "total")
    dice = random.Random(11)
    acknowledged: list[int] = []
    killed = asyncio.Event()

    async def keep_transferring() -> None:
        while not killed.is_set():
            src, dst = dice.sample(accounts, 2)
            try:
                answer = await rpc(api, "transfer", src, dst, dice.randint(1, 9))
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                acknowledged.append(int(answer.headers["x-kontract-txid"]))

    workers = [asyncio.create_task(keep_transferring()) for _ in range(10)]
    while len(acknowledged) < 30:
        await asyncio.sleep(0.02)
    await asyncio.to_thread(worker.kill)
    killed.set()
    await asyncio.gather(*workers)
    await asyncio.to_thread(worker.start)

    assert await result(api, "total") == before
    connection = await asyncpg.connect(worker.database_url)
    try:
        fences = await connection.fetch(
            "SELECT create_txid FROM trxs WHERE owner = 'tenant-1' AND sid NOT LIKE 'epoch/%'"
        )
    finally:
        await connection.close()
    committed = [row[0] for row in fences if row[0] > 0]
    assert set(acknowledged) <= set(committed)
    assert len(committed) == len(set(committed))
    moved = await rpc(api, "transfer", accounts[0], accounts[1], 1)
    assert moved.status_code == 200, moved.text
    assert int(moved.headers["x-kontract-txid"]) > max(committed)
    assert await live_versions(worker, "accounts") == []


async def test_every_request_leaves_one_json_log_line(api, worker):
    """The log line carries the request's id, function, owner, status and costs."""
    response = await rpc(api, "create_task", "log me", **{"X-Request-Id": "find-this-one"})
    assert response.headers["x-request-id"] == "find-this-one"
    for _ in range(50):
        lines = [line for line in worker.log_text().splitlines() if '"find-this-one"' in line]
        if lines:
            break
        await asyncio.sleep(0.1)
    line = json.loads(lines[0])
    assert (line["function"], line["owner"], line["status"], line["attempts"]) == ("create_task", "tenant-1", 200, 1)


async def test_rows_stand_in_the_order_of_their_commits(api, worker):
    """What pop and shift go by: many calls at once, whose statements end in another order than they were prepared."""
    made: dict[str, int] = {}

    async def create(title: str) -> None:
        answer = await rpc(api, "create_task", title)
        assert answer.status_code == 200, answer.text
        made[answer.json()["result"]["id"]] = int(answer.headers["x-kontract-txid"])

    for each in range(4):
        await asyncio.gather(*(create(f"order {each} {number}") for number in range(40)))
    connection = await asyncpg.connect(worker.database_url)
    try:
        rows = await connection.fetch(
            "SELECT id FROM tbl_tasks_5f0c1d WHERE id = ANY ($1) AND _deleted_txid IS NULL ORDER BY _order", list(made)
        )
    finally:
        await connection.close()
    txids = [made[row["id"]] for row in rows]
    assert len(txids) == 160
    assert txids == sorted(txids)
