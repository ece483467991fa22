"""Several nodes over one PostgreSQL act as one: what one has answered, all others know."""

from __future__ import annotations

import asyncio
import json
import random
import time

import pytest
from msgspec import Raw

from kontract.coordination import replica as replicas
from kontract.core import limits
from kontract.core.messages import CheckSession, Finish, Prepare, Prepared, Status, Write
from kontract.core.protocol.machine import Machine
from kontract.server.system import SystemClock
from support.nodes import cluster_of, repeat_a_call_whose_entry_was_kept
from support.sessions import OWNER, bearer


@pytest.fixture
async def cluster(postgres):
    async with cluster_of(postgres, 3) as cluster:
        yield cluster


async def test_what_one_node_has_answered_the_next_one_shows(cluster):
    one, two, three = cluster.nodes
    for number in range(10):
        writer, reader = random.Random(number).sample(cluster.nodes, 2)
        task = await writer.result("create_task", f"task {number}")
        assert (await reader.result("get_task", task["id"]))["title"] == f"task {number}"
    assert len(await three.result("list_tasks")) == 10
    assert len({node.platform.node.name for node in (one, two, three)}) == 3


async def test_transfers_over_all_nodes_keep_the_total(cluster):
    for name in "abcd":
        await cluster.nodes[0].result("open_account", name, 100)
    dice = random.Random(1)

    async def transfer(number: int) -> int:
        src, dst = dice.sample("abcd", 2)
        response = await cluster.nodes[number % 3].rpc("transfer", src, dst, 1)
        return response.status

    statuses = await asyncio.gather(*(transfer(number) for number in range(60)))
    assert set(statuses) == {200}
    assert {await node.result("total") for node in cluster.nodes} == {400}
    rows = await cluster.sql.fetch(
        "SELECT data->>'balance' AS balance FROM tbl_accounts_9b27e4 WHERE _deleted_txid IS NULL"
    )
    assert sum(float(row["balance"]) for row in rows) == 400


async def test_a_repeated_call_is_answered_by_any_node(cluster, monkeypatch):
    """Also when the log has been trimmed behind a checkpoint: results of idempotent calls are kept."""
    await repeat_a_call_whose_entry_was_kept(cluster, monkeypatch)


async def test_a_session_that_one_node_ended_is_refused_by_all(cluster):
    one, two, _ = cluster.nodes
    made = json.loads((await one.send("POST", "/auth/anonymous")).body)
    bearer = {"authorization": f"Bearer {made['token']}"}
    assert (await two.rpc("list_tasks", **bearer)).status == 200
    assert (await one.send("POST", "/auth/logout", **bearer)).status in (200, 204)
    assert (await two.rpc("list_tasks", **bearer)).status == 401


async def test_what_touches_no_table_is_refused_by_all_nodes_before_it_answers(cluster):
    """A node that has not met the session asks; one that has asked a moment ago asks again after that."""
    one, two, three = cluster.nodes
    made = json.loads((await one.send("POST", "/auth/anonymous")).body)
    bearer = {"authorization": f"Bearer {made['token']}"}
    assert (await two.send("GET", "/openapi.json", **bearer)).status == 200
    assert (await one.send("POST", "/auth/logout", **bearer)).status == 204
    for node in (one, three):
        assert (await node.send("GET", "/openapi.json", **bearer)).status == 401
        assert (await node.send("POST", "/stream/ticket", **bearer)).status == 401
    assert (await two.send("GET", "/openapi.json", **bearer)).status == 200, "its last answer is younger"
    two.platform.clock = Later()
    assert (await two.send("GET", "/openapi.json", **bearer)).status == 401


class Later(SystemClock):
    """As much later as a node believes its last answer."""

    def elapsed(self) -> float:
        return super().elapsed() + limits.SESSION_TRUST_MS


async def test_shared_values_are_shared(cluster):
    one, two, _ = cluster.nodes
    stubs = [node.platform.shared("tenant-1") for node in (one, two)]
    from kontract.core.shared.state import SharedIncr

    answers = await asyncio.gather(*(stubs[number % 2].shared(SharedIncr("n", 1)) for number in range(40)))
    assert sorted(json.loads(bytes(answer.value)) for answer in answers) == list(range(1, 41))


async def test_a_transaction_of_a_node_that_died_is_settled_by_another(cluster):
    """The fence decides: here nothing was applied, so it never will be."""
    one, two, _ = cluster.nodes
    await one.result("open_account", "a", 100)
    await one.result("open_account", "b", 100)
    ptr = "tbl_accounts_9b27e4"
    prepared = await one.platform.coordinator(OWNER).ask(
        Prepare("dead/1", [Write("accounts", ptr, "a", None, Raw(b'{"balance":5}'))])
    )
    assert isinstance(prepared, Prepared)
    await cluster.leave(one)
    await two.result("transfer", "a", "b", 1)  # waits for the outcome
    assert await two.result("balance", "a") == 99
    fence = await cluster.sql.fetchval("SELECT create_txid FROM trxs WHERE sid = $1", prepared.sid)
    assert fence == -prepared.txid
    status = await two.platform.coordinator(OWNER).ask(Status())
    assert status.prepared == 0
    # A late report of the dead one changes nothing.
    answer = await two.platform.coordinator(OWNER).ask(Finish(prepared.txid, prepared.epoch, False))
    assert type(answer).__name__ in ("Aborted", "InDoubt")


async def test_messages_cost_one_statement_each(cluster):
    """A begin reads the log once, prepare and finish append to it once; callers at the same moment share them."""
    one, _, _ = cluster.nodes
    ann = bearer(user="ann")
    await one.result("create_task", "warm", **ann)
    counted = []
    run = one.pool.run

    async def counting(statement):
        counted.append(
            statement.text.strip().split()[0] + " " + ("log" if "coordination" in statement.text else "data")
        )
        return await run(statement)

    one.pool.run = counting
    await one.result("create_task", "counted", **ann)
    assert counted == ["WITH log", "WITH data", "WITH log"]
    counted.clear()
    await one.result("list_tasks")
    assert len([line for line in counted if line == "SELECT log"]) == 1
    counted.clear()
    await asyncio.gather(*(one.platform.coordinator(OWNER).ask(CheckSession("s")) for _ in range(50)))
    assert counted == ["SELECT log"]


async def test_without_its_tables_the_log_says_what_to_do(postgres):
    async with cluster_of(postgres, 1) as cluster:
        await cluster.sql.execute("DROP TABLE coordination, coordination_log, coordination_checkpoints")
        response = await cluster.nodes[0].rpc("list_tasks")
        assert response.status == 503
        assert "--coordination" in cluster.nodes[0].events("request")[-1]["exception"]


async def test_nodes_that_start_a_tenant_at_the_same_moment_all_answer(postgres):
    """All of them raise the epoch; one does, and the others find that it is done."""
    for _ in range(5):
        async with cluster_of(postgres, 4) as cluster:
            answers = await asyncio.gather(*(node.rpc("list_tasks") for node in cluster.nodes for _ in range(3)))
            assert [answer.status for answer in answers] == [200] * 12


async def order_of_tasks(cluster) -> list[int]:
    """The txids of the tasks in the order of their insertion, if no two have one place."""
    rows = await cluster.sql.fetch("SELECT _txid, _order FROM tbl_tasks_5f0c1d ORDER BY _order, id")
    assert len({row["_order"] for row in rows}) == len(rows)
    return [row["_txid"] for row in rows]


async def test_rows_stand_in_the_order_of_their_commits_whichever_node_made_them(cluster):
    for each in range(4):
        await asyncio.gather(
            *(cluster.nodes[number % 3].result("create_task", f"{each} {number}") for number in range(30))
        )
    txids = await order_of_tasks(cluster)
    assert len(txids) == 120
    assert txids == sorted(txids)


async def test_a_node_that_finds_a_checkpoint_without_numbers_takes_the_owner_over(cluster, monkeypatch):
    """A node of the release before has written it, while others go on: all of them know the same numbers afterwards."""
    monkeypatch.setattr(replicas, "CHECKPOINT_ENTRIES", 5)
    dump = Machine.dump

    def of_the_release_before(self) -> bytes:
        state = json.loads(dump(self))
        del state["coordinator"]["order"]
        return json.dumps(state).encode()

    monkeypatch.setattr(Machine, "dump", of_the_release_before)

    async def create(each: int) -> None:
        nodes = cluster.nodes
        await asyncio.gather(*(nodes[n % len(nodes)].result("create_task", f"{each} {n}") for n in range(12)))

    await create(0)
    epochs = [node.platform.node.replica(OWNER).machine.coordinator.epoch for node in cluster.nodes]
    for each in (1, 2):
        await cluster.join()
        await create(each)
    created = 36
    for _ in range(20):
        coordinators = [node.platform.node.replica(OWNER).machine.coordinator for node in cluster.nodes]
        if all(coordinator.knows_row_order for coordinator in coordinators):
            break
        # A node that was slow has gone on from such a checkpoint itself: it takes over with its next call.
        for node in cluster.nodes:
            await node.result("create_task", f"again {created}")
            created += 1
    assert all(coordinator.knows_row_order for coordinator in coordinators)
    assert all(coordinator.epoch > max(epochs) for coordinator in coordinators)
    txids = await order_of_tasks(cluster)
    assert len(txids) == created
    assert txids == sorted(txids)


async def test_a_read_only_database_is_said_at_once(cluster):
    """The log of several nodes cannot be written either: a call must not wait for it until its time is over."""
    one, two, _ = cluster.nodes
    await one.result("create_task", "before")
    database = cluster.url.rpartition("/")[2]
    await cluster.sql.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    for node in cluster.nodes:
        node.pool._renewed_at = time.monotonic()  # sessions that are opened from now on are read-only
    for node in (one, two, one):
        started = time.monotonic()
        refused = await node.rpc("create_task", "meanwhile")
        assert refused.status == 503
        assert "the database accepts no writes now" in json.loads(refused.body)["message"]
        assert time.monotonic() - started < 4
        assert (await node.send("GET", "/ready")).status == 503
    assert len(await one.result("list_tasks")) == 1
    await cluster.sql.execute("SET default_transaction_read_only = off")
    await cluster.sql.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = off")
    for node in cluster.nodes:
        assert (await node.send("GET", "/ready")).status == 200
        await node.result("create_task", "after")
    assert len(await two.result("list_tasks")) == 4
