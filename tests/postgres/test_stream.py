"""Change streams through the whole gateway, over a real database: what is sent, to whom, and what follows a break."""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace
from typing import Annotated

import pytest
from msgspec import Raw, Struct

from kontract import Context, backend, perm, perms, primkey, table
from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits
from kontract.core.messages import EndSession, Finish, Prepare, Write
from kontract.core.statements import ApplyPlan
from kontract.core.transaction.store import SqlStore
from kontract.core.types import TableKind, TablePointer
from kontract.gateway.http import Request
from kontract.ports import CoordinatorUnavailableError, RuntimeAdapter
from kontract.server.database import AsyncpgDatabase
from kontract.server.journal import MemoryJournal
from kontract.server.runtime import SingleProcess
from support.api import apis, check_error
from support.listening import Listener, listen, talk
from support.sessions import ENVIRONMENT, OWNER, bearer

SESSION = "s-listener"


@table("diary", rows="own")
class Entry(Struct):
    id: Annotated[str, primkey]
    text: str
    mood: Annotated[str, perm(perms._W_)] = ""


@table("vault", stream=False)
class Secret(Struct):
    id: Annotated[str, primkey]
    text: str = ""


@backend(perm=perms.RW_)
async def write_entry(ctx: Context, name: str, text: str) -> None:
    await ctx.storage.diary.set(name, Entry(name, text, "hidden mood"))


@backend(perm=perms.RW_)
async def move_all(ctx: Context, names: list[str], balance: int) -> None:
    for name in names:
        await ctx.storage.accounts.update(name, balance=balance)


HERE = [write_entry, move_all]


@pytest.fixture
async def make_api(postgres):
    async with apis(postgres, HERE, [Entry, Secret]) as make:
        yield make


@pytest.fixture
async def api(make_api):
    one = make_api()
    for name in ("diary", "vault"):
        await one.sql.execute(
            f"""CREATE TABLE tbl_{name}_1 (id TEXT NOT NULL, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL,
                  _deleted_txid BIGINT, _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid));
                CREATE UNIQUE INDEX ON tbl_{name}_1 (id) WHERE _deleted_txid IS NULL;
                INSERT INTO storage (id, ptr, owner) VALUES ('{name}', 'tbl_{name}_1', 'tenant-1')"""
        )
    return one


def kinds(changes: list[dict]) -> list[tuple]:
    return [(change["type"], change["table"], change["id"]) for change in changes]


async def test_changes_come_in_order_whole_and_as_functions_return_rows(api):
    """Insert, update and delete; the last change of a transaction, and it alone, has an id."""
    response, listener = await listen(api)
    assert response.headers["Content-Type"] == "text/event-stream"
    ready = listener.events[0]
    assert (ready["event"], ready["data"]) == ("ready", {"tables": ["accounts", "tasks"], "denied": []})
    for name in ("a", "b"):
        await api.result("open_account", name, 10)
    await api.result("transfer", "a", "b", 3)
    task = await api.result("create_task", "x")
    await api.result("delete_task", task["id"])
    changes = (await listener.until(lambda one: len(one.changes) >= 6 and one)).changes
    assert kinds(changes) == [
        ("insert", "accounts", "a"),
        ("insert", "accounts", "b"),
        ("update", "accounts", "a"),
        ("update", "accounts", "b"),
        ("insert", "tasks", task["id"]),
        ("delete", "tasks", task["id"]),
    ]
    assert changes[2] | {"txid": 0} == {
        "type": "update", "table": "accounts", "id": "a", "txid": 0,
        "data": {"id": "a", "balance": 7}, "oldData": {"id": "a", "balance": 10},
    }  # fmt: skip
    assert changes[4]["data"] == task
    assert (changes[5]["data"], changes[5]["oldData"]) == (None, task)
    ids = [event["id"] for event in listener.events if not event["event"]]
    assert [i is not None for i in ids] == [True, True, False, True, True, True]
    assert [int(i.rpartition("-")[2]) for i in ids if i] == sorted({change["txid"] for change in changes})


async def test_a_failed_call_is_no_event(api):
    """Neither what raised nor what lost."""
    _, listener = await listen(api)
    await api.result("open_account", "a", 10)
    await api.error(400, "INVALID_REQUEST", "transfer", "a", "a", 1)
    await api.error(409, "ALREADY_EXISTS", "open_account", "a", 10)
    await api.result("open_account", "z", 10)
    await listener.until(lambda one: len(one.changes) >= 2)
    assert [change["id"] for change in listener.changes] == ["a", "z"]


async def test_whoever_comes_back_gets_what_it_missed_and_nothing_twice(api):
    """Last-Event-ID, and ?since= likewise; from every position."""
    _, first = await listen(api)
    for n in range(5):
        await api.result("open_account", f"a{n}", n)
    await first.until(lambda one: len(one.changes) == 5)
    positions = [event["id"] for event in first.events]
    for seen, at in enumerate(positions):
        for given in ({"Last-Event-ID": at}, {}):
            query = "table=accounts" if given else f"table=accounts&since={at}"
            _, again = await listen(api, query, **given)
            expected = [f"a{n}" for n in range(seen, 5)]
            await again.until(lambda one, wanted=expected: len(one.changes) >= len(wanted))
            assert [change["id"] for change in again.changes] == expected
    await api.result("open_account", "later", 1)
    await again.until(lambda one: one.changes and one.changes[-1]["id"] == "later")


async def test_long_gaps_come_page_by_page(api, monkeypatch):
    """A client that was away for long is sent pages, then what happens now, without a hole between."""
    monkeypatch.setattr(limits, "EVENT_PAGE_TRANSACTIONS", 3)
    _, first = await listen(api, "table=accounts")
    start = first.last_id
    for n in range(20):
        await api.result("open_account", f"a{n}", n)

    _, again = await listen(api, f"table=accounts&since={start}")
    writing = asyncio.gather(*(api.result("open_account", f"b{n}", n) for n in range(10)))
    await again.until(lambda one: len(one.changes) >= 30)
    await writing
    txids = [change["txid"] for change in again.changes]
    assert txids == sorted(set(txids))
    assert len(again.changes) == 30


@pytest.mark.parametrize("position", ["g1-3", "x", "g0-0", "{now}9", "g1-99999999999999999999"])
async def test_a_position_of_another_log_is_told_to_start_over(api, position):
    """A reset, then the present; nothing that could be mistaken for the past."""
    await api.result("open_account", "a", 1)
    _, first = await listen(api, "table=accounts")
    _, listener = await listen(api, "table=accounts", **{"Last-Event-ID": position.replace("{now}", first.last_id)})
    assert [event["event"] for event in listener.events] == ["reset", "ready"]
    assert listener.last_id == first.last_id
    await api.result("open_account", "b", 1)
    await listener.until(lambda one: one.changes)
    assert kinds(listener.changes) == [("insert", "accounts", "b")]


async def test_a_position_that_is_too_old_is_told_to_start_over(api):
    """The log keeps 10,000 transactions or an hour; before that there is a hole, and it says so."""
    await api.result("open_account", "a", 1)
    _, first = await listen(api, "table=accounts")
    old = first.last_id
    await api.result("open_account", "b", 1)
    await first.until(lambda one: one.changes)
    shell = api.platform._shells[OWNER]
    now = api.platform.clock.now() + limits.EVENT_LOG_MS + limits.LEASE_MS
    shell._run(lambda: shell._coordinator.tick(now))
    _, listener = await listen(api, "table=accounts", **{"Last-Event-ID": old})
    assert [event["event"] for event in listener.events] == ["reset", "ready"]
    _, current = await listen(api, "table=accounts", **{"Last-Event-ID": first.last_id})
    assert [event["event"] for event in current.events] == ["ready"], "the newest position is still one"


# --- who sees what ---------------------------------------------------------------------------------------------------


async def test_each_sees_what_it_may(api):
    """Own rows to their owner alone; hidden fields to nobody; tables not for listening look like missing ones."""
    ann, bob = bearer(user="ann"), bearer(user="bob")
    query = "table=diary&table=vault&table=nothing"
    _, anns = await listen(api, query, **ann)
    _, bobs = await listen(api, query, **bob)
    assert anns.events[0]["data"] == {"tables": ["diary"], "denied": ["nothing", "vault"]}
    for user, row in (("ann", "a1"), ("bob", "b1"), ("ann", "a2")):
        assert (await api.rpc("write_entry", row, "text", **bearer(user=user))).status == 200
    await anns.until(lambda one: len(one.changes) == 2)
    await bobs.until(lambda one: len(one.changes) == 1)
    assert [change["id"] for change in anns.changes] == ["a1", "a2"]
    assert [change["id"] for change in bobs.changes] == ["b1"]
    assert anns.changes[0]["data"] == {"id": "a1", "text": "text"}
    assert "hidden mood" not in anns.text + bobs.text


async def test_another_tenant_hears_nothing(api):
    """Its tables are others."""
    _, other = await listen(api, "table=accounts", **bearer(owner="tenant-2"))
    assert other.events[0]["data"] == {"tables": [], "denied": ["accounts"]}


async def test_a_permission_that_is_taken_away_counts_while_the_stream_is_open(api, monkeypatch):
    """Looked at again within the time that a pointer is cached."""
    monkeypatch.setattr(limits, "POINTER_CACHE_MS", 0)
    _, listener = await listen(api)
    await api.result("open_account", "a", 1)
    await listener.until(lambda one: one.changes)
    await api.sql.execute("UPDATE storage SET permissions = 2 WHERE id = 'accounts'")
    await api.result("open_account", "b", 1)
    await api.result("create_task", "both have been looked at when this one arrives")
    await listener.until(lambda one: len(one.changes) == 2)
    await api.sql.execute("UPDATE storage SET permissions = 7 WHERE id = 'accounts'")
    await api.result("open_account", "c", 1)
    await listener.until(lambda one: len(one.changes) == 3)
    assert [(change["table"], change["type"]) for change in listener.changes] == [
        ("accounts", "insert"), ("tasks", "insert"), ("accounts", "insert"),
    ]  # fmt: skip
    assert [change["id"] for change in listener.changes][::2] == ["a", "c"]


async def test_ids_choose_rows(api):
    _, listener = await listen(api, "table=accounts&id=b&id=c")
    for name in "abcd":
        await api.result("open_account", name, 1)
    await api.result("move_all", ["a", "b", "d"], 5)
    await listener.until(lambda one: len(one.changes) == 3)
    assert kinds(listener.changes) == [
        ("insert", "accounts", "b"), ("insert", "accounts", "c"), ("update", "accounts", "b"),
    ]  # fmt: skip
    assert listener.events[-1]["id"], "the last change that is shown carries the position"


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("table=tasks", {"authorization": None}, 401, "UNAUTHORIZED"),
        ("table=tasks", {"authorization": "Bearer x"}, 401, "UNAUTHORIZED"),
        ("table=tasks&ticket=x", {"authorization": None}, 401, "UNAUTHORIZED"),
        ("", {}, 400, "INVALID_REQUEST"),
        ("table=", {}, 400, "INVALID_REQUEST"),
        ("table=a&other=1", {}, 400, "INVALID_REQUEST"),
        ("table=tasks", {"content_length": "5"}, 400, "INVALID_REQUEST"),
        ("table=tasks", {"transfer_encoding": "chunked"}, 400, "INVALID_REQUEST"),
        ("table=tasks", {"content_length": "5", "upgrade": "websocket"}, 400, "INVALID_REQUEST"),
        ("&".join(f"table=t{n}" for n in range(limits.STREAM_TABLES + 1)), {}, 400, "INVALID_REQUEST"),
        (f"table={'t' * (limits.STREAM_NAMES_BYTES + 1)}", {}, 400, "INVALID_REQUEST"),
    ],
)
async def test_what_is_refused_is_refused_with_a_status(api, query, headers, status, code):
    """Not with an event: EventSource must see it and stop."""
    response, _ = await listen(api, query, **headers)
    check_error(response, status, code)


async def test_a_ticket_opens_a_stream_and_nothing_else(api):
    """For EventSource, which sends no header: made with a token, good for a minute and for streams alone."""
    made = await api.send("POST", "/stream/ticket")
    ticket = json.loads(made.body)["ticket"]
    assert made.status == 201
    response, listener = await listen(api, f"table=tasks&ticket={ticket}", authorization=None)
    assert response.status == 200
    check_error(await api.rpc("list_tasks", authorization=f"Bearer {ticket}"), 401, "UNAUTHORIZED")
    check_error(await api.send("POST", "/stream/ticket", authorization=None), 401, "UNAUTHORIZED")
    await api.result("create_task", "x")
    await listener.until(lambda one: one.changes)


async def test_the_end_of_a_session_ends_its_streams_and_no_others(api):
    """At once, wherever they are open; a new one is refused."""
    mine = bearer(user="ann", sid=SESSION)
    _, ended = await listen(api, "table=tasks", **mine)
    _, other = await listen(api, "table=tasks")
    await api.platform.coordinator(OWNER).ask(EndSession(SESSION, api.platform.clock.now() + 60_000))
    await ended.until(lambda one: one.closed)
    assert ended.events[-1] == {"event": "end", "id": None, "data": {"reason": "session"}}
    assert not other.closed
    refused, _ = await listen(api, "table=tasks", **mine)
    check_error(refused, 401, "UNAUTHORIZED")


async def test_a_stream_ends_with_its_token(api):
    """It does not outlive what it was opened with."""
    _, listener = await listen(api, "table=tasks", **bearer(seconds=2))
    await listener.until(lambda one: one.closed)
    assert listener.events[-1]["data"] == {"reason": "expired"}


async def test_one_user_has_so_many_streams(api, monkeypatch):
    """The next is refused until one is closed; another user's is not."""
    monkeypatch.setattr(limits, "STREAMS_PER_USER", 2)
    _, first = await listen(api, "table=tasks")
    await listen(api, "table=tasks")
    refused, _ = await listen(api, "table=tasks")
    check_error(refused, 429, "RATE_LIMITED")
    assert (await listen(api, "table=tasks", **bearer(user="ann")))[0].status == 200
    first.task.cancel()
    await first.until(lambda one: one.closed)
    assert (await listen(api, "table=tasks"))[0].status == 200


# --- over a WebSocket ------------------------------------------------------------------------------------------------


async def test_a_websocket_carries_the_same_and_changes_its_tables(api):
    """Each message is one text; a new choice goes on where the old one was, and loses nothing between."""
    response, talker = await talk(api, "table=accounts")
    assert response.status == 101
    assert talker.messages[0] == {
        "event": "ready",
        "id": talker.messages[0]["id"],
        "tables": ["accounts"],
        "denied": [],
    }
    await api.result("open_account", "a", 1)
    await talker.until(lambda one: one.named[-1] == "change")
    first = talker.messages[-1]
    assert (first["change"]["id"], first["id"].endswith(f"-{first['change']['txid']}")) == ("a", True)

    talker.say({"subscribe": ["tasks", "vault"], "unsubscribe": ["accounts"]})
    await talker.until(lambda one: one.named[-1] == "ready")
    assert talker.messages[-1]["tables"] == ["tasks"]
    assert talker.messages[-1]["denied"] == ["vault"]
    assert talker.messages[-1]["id"] == first["id"]
    await api.result("open_account", "b", 1)
    await api.result("create_task", "x")
    await talker.until(lambda one: one.named[-1] == "change")
    assert talker.messages[-1]["change"]["table"] == "tasks"
    assert talker.named == ["ready", "change", "ready", "change"]

    talker.hang_up()
    async with asyncio.timeout(10):
        await talker.task
    assert len(api.platform._shells[OWNER].hub) == 0


@pytest.mark.parametrize("message", ["", "{", "[]", '{"subscribe": "tasks"}', '{"x": 1}', "[" * 100_000, "\ud800"])
async def test_what_a_client_says_wrong_is_said_and_changes_nothing(api, message):
    """The stream goes on."""
    _, talker = await talk(api, "table=accounts")
    talker.say(message)
    await talker.until(lambda one: one.named[-1] == "error")
    await api.result("open_account", "a", 1)
    await talker.until(lambda one: one.named[-1] == "change")


# --- slow and gone clients -------------------------------------------------------------------------------------------


async def test_changes_of_tables_are_throttled_and_made_together(api, monkeypatch):
    """100 of them without a pause open a few lines, not 100; what comes out is what was asked for last."""
    monkeypatch.setattr(limits, "STREAM_CHANGE_MS", 200)
    opened: list[list[str]] = []
    open_feed = api.platform.open_feed

    async def count(owner, subscription):
        opened.append(subscription.tables)
        return await open_feed(owner, subscription)

    monkeypatch.setattr(api.platform, "open_feed", count)
    _, talker = await talk(api, "table=tasks")
    for number in range(100):
        talker.say({"subscribe": ["accounts"]} if number % 2 else {"unsubscribe": ["accounts"]})
    talker.say({"subscribe": ["diary"]})
    last = ["accounts", "diary", "tasks"]
    await talker.until(lambda one: one.messages[-1].get("tables") == last)
    assert opened[-1] == last
    assert len(opened) <= 1 + limits.STREAM_CHANGES_AT_ONCE + 2
    task = await api.result("create_task", "still heard")
    await talker.until(lambda one: one.messages[-1]["event"] == "change")
    assert talker.messages[-1]["change"]["data"]["id"] == task["id"]
    talker.hang_up()
    await talker.task


async def test_a_client_that_leaves_while_its_change_waits_is_let_go(api, monkeypatch):
    monkeypatch.setattr(limits, "STREAM_CHANGE_MS", 3_600_000)
    monkeypatch.setattr(limits, "STREAM_CHANGES_AT_ONCE", 1)
    _, talker = await talk(api, "table=tasks")
    for _ in range(2):
        talker.say({"subscribe": ["accounts"]})
    await talker.until(lambda one: one.named == ["ready", "ready"])
    talker.hang_up()
    async with asyncio.timeout(10):
        await talker.task
    assert len(api.platform._shells[OWNER].hub) == 0


@pytest.mark.parametrize(("token", "phase"), [(0, 1 / 256), (127, 1 / 2), (255, 1)])
async def test_streams_that_begin_together_do_not_beat_together(api, monkeypatch, token, phase):
    """A thousand heartbeats in one moment let everybody else wait."""
    monkeypatch.setattr(limits, "STREAM_HEARTBEAT_MS", 1000)
    clock = SimpleNamespace(now=api.platform.clock.now, elapsed=api.platform.clock.elapsed)
    monkeypatch.setattr(api.platform, "random", SimpleNamespace(token=lambda size: bytes([token]) * size))
    began = clock.elapsed()
    _, listener = await listen(api, "table=tasks")
    opened = clock.elapsed()
    beats = []
    while len(beats) < 2:
        count = listener.text.count(": heartbeat")
        await listener.until(lambda one, count=count: one.text.count(": heartbeat") > count)
        beats.append(clock.elapsed())
    assert began + 1000 * phase <= beats[0]
    assert beats[1] - beats[0] > 600
    assert began - opened + 1000 <= beats[1] - began
    listener.task.cancel()


async def test_one_address_has_so_many_streams(api, monkeypatch):
    """Whoever the users are; 429 says so, and a place that was given back is free."""
    monkeypatch.setattr(limits, "STREAMS_PER_ADDRESS", 2)

    async def opens(user: str, client: str) -> int:
        request = Request("GET", "/stream", bearer(user=user), no_body, "table=tasks", client=client)
        response = await api.gateway.handle(request, api.platform)
        if response.stream is not None:
            tasks.append(asyncio.ensure_future(response.stream(Listener())))
            await asyncio.sleep(0)
        return response.status

    tasks: list[asyncio.Future] = []
    addresses = ["203.0.113.7", "203.0.113.7", "203.0.113.7", "203.0.113.8", "::ffff:203.0.113.7", ""]
    statuses = [await opens(f"u{n}", address) for n, address in enumerate(addresses)]
    assert statuses == [200, 200, 429, 200, 429, 200]
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert await opens("again", "203.0.113.7") == 200
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not api.gateway._deployment.holdings.streams


async def no_body(_: int) -> bytes:
    return b""


async def test_a_stream_that_is_refused_takes_no_place(api):
    """Else a client whose requests fail would lock its address out."""
    for _ in range(3):
        request = Request("GET", "/stream", bearer(), no_body, "table=tasks", client="203.0.113.7")
        broken = SimpleNamespace(**{name: getattr(api.platform, name) for name in RUNTIME})
        broken.open_feed = unavailable
        assert (await api.gateway.handle(request, broken)).status == 503
    assert not api.gateway._deployment.holdings.streams


RUNTIME = [name for name in vars(RuntimeAdapter) if not name.startswith("_")]
RUNTIME += [name for name in RuntimeAdapter.__annotations__ if name not in RUNTIME]


async def unavailable(*_: object) -> None:
    raise CoordinatorUnavailableError


async def test_a_client_that_does_not_read_is_cut_and_resumes(api, monkeypatch):
    """What waits for it is bounded; what it missed it gets when it comes back."""
    monkeypatch.setattr(limits, "STREAM_BACKLOG_BYTES", 2_000)
    _, slow = await listen(api, "table=tasks")
    await api.result("create_task", "first")
    await slow.until(lambda one: one.changes)
    slow.reading.clear()
    for n in range(20):
        await api.result("create_task", f"{n} {'x' * 150}")
    async with asyncio.timeout(10):
        await slow.task
    assert slow.closed
    assert len(api.platform._shells[OWNER].hub) == 0
    _, again = await listen(api, "table=tasks", **{"Last-Event-ID": slow.last_id})
    await again.until(lambda one: len(one.changes) == 20)


async def test_a_client_that_has_left_is_noticed_by_the_heartbeat(api, monkeypatch):
    """Silence is broken every so often, and what it costs to listen is given back."""
    monkeypatch.setattr(limits, "STREAM_HEARTBEAT_MS", 60)
    _, listener = await listen(api, "table=tasks")
    await listener.until(lambda one: one.text.count(": heartbeat\n\n") >= 2)
    listener.gone = True
    async with asyncio.timeout(10):
        await listener.task
    assert len(api.platform._shells[OWNER].hub) == 0


# --- crashes ---------------------------------------------------------------------------------------------------------


class Node:
    """A platform whose coordinator can be killed: its journal lives on, everything else does not."""

    def __init__(self, api) -> None:
        self.api = api
        self.journal = MemoryJournal()
        self.restart()

    def restart(self) -> None:
        platform = self.api.platform
        shell = CoordinatorShell(OWNER, self.journal, platform.open_database, platform.clock, platform.log)
        old = platform._shells.get(OWNER)
        platform._shells[OWNER] = shell
        if old is not None:
            old.hub.end_all("shutdown")


async def test_a_crash_between_apply_and_finish_publishes_after_resolution(api):
    """Nobody reports the commit; the fence says so, and then listeners hear of it, in its place and once.

    A later transaction that has finished meanwhile waits for it: it is told after it, also by the next life.
    """
    platform = SingleProcess(api.platform.open_database, ENVIRONMENT)
    platform.log = api.platform.log
    api.platform = platform
    node = Node(api)
    await api.result("open_account", "a", 1)
    _, listener = await listen(api, "table=accounts")
    before = listener.last_id

    # A worker that dies after its apply: prepared and applied, but never finished.
    shell = platform._shells[OWNER]
    write = Write("accounts", "tbl_accounts_9b27e4", "dead", 0, Raw(b'{"balance":5}'), owner="ann")
    prepared = await shell.ask(Prepare("dead", [write], user="ann"))
    lost = await shell.ask(
        Prepare("never", [Write("accounts", "tbl_accounts_9b27e4", "never", 0, Raw(b'{"balance":5}'), owner="ann")])
    )
    store = SqlStore(platform.open_database())
    pointer = TablePointer("accounts", "tbl_accounts_9b27e4", TableKind.VERSIONED, 7)
    await store.apply(ApplyPlan(prepared.sid, OWNER, "ann", prepared.txid, prepared.epoch, [(pointer, [write])]))
    await store.aclose()
    later = asyncio.ensure_future(api.result("open_account", "later", 1))
    while not any(record.phase == "committed" and record.txid > lost.txid for record in node.journal.committed(0, 99)):
        await asyncio.sleep(0.01)
        if later.done():
            break

    node.restart()
    await listener.until(lambda one: one.closed)
    _, again = await listen(api, "table=accounts", **{"Last-Event-ID": listener.last_id})
    await later
    await again.until(lambda one: len(one.changes) + len(listener.changes) >= 2)
    seen = [change["id"] for change in listener.changes + again.changes]
    assert seen == ["dead", "later"], "what was aborted is never told"
    assert before is not None
    txids = [change["txid"] for change in listener.changes + again.changes]
    assert txids == sorted(txids)
    assert txids[0] == prepared.txid


async def test_a_stream_without_a_database_is_refused_with_a_sentence(make_api):
    api = make_api()
    api.platform.open_database = lambda: AsyncpgDatabase("postgresql://u:p4ss@127.0.0.1:1/nowhere")
    response, _ = await listen(api)
    check_error(response, 503, "UNAVAILABLE")


CUTS = 1_000


@pytest.mark.long
async def test_a_client_that_is_cut_a_thousand_times_sees_every_event_once_and_in_order(api, monkeypatch):
    """Cut after any number of bytes, also in the middle of a transaction; it keeps what it knows by ids alone.

    What it has of a transaction whose last event, the one with the id, never came, it throws away: it comes again.
    """
    monkeypatch.setattr(limits, "EVENT_PAGE_TRANSACTIONS", 5)
    monkeypatch.setattr(limits, "STREAMS_PER_USER", 10_000)
    dice = random.Random(5)
    names = [f"n{n}" for n in range(6)]
    for name in names:
        await api.result("open_account", name, 0)
    _, first = await listen(api, "table=accounts")
    last_id = first.last_id
    first.task.cancel()
    acknowledged: list[int] = []
    going = True

    async def write(worker: int) -> None:
        while going:
            chosen = dice.sample(names, dice.randint(1, 3))
            response = await api.rpc("move_all", chosen, worker)
            if response.status == 200:
                acknowledged.append(int(response.headers["X-Kontract-Txid"]))
            await asyncio.sleep(0.002)

    writers = [asyncio.ensure_future(write(worker)) for worker in range(3)]
    seen: list[tuple[int, str]] = []
    pending: list[tuple[int, str]] = []
    for _ in range(CUTS):
        _, listener = await listen(api, "table=accounts", **{"Last-Event-ID": last_id})
        assert listener.events[0]["event"] == "ready", listener.events[0]
        wanted = dice.choice((0, 0, 1, 2, 5))
        await listener.until(lambda one, wanted=wanted: len(one.changes) >= wanted)
        cut = dice.randint(0, len(listener.events))
        listener.task.cancel()
        pending = []
        for event in listener.events[1 : cut + 1]:
            pending.append((event["data"]["txid"], event["data"]["id"]))
            if event["id"]:
                seen += pending
                pending, last_id = [], event["id"]
    going = False
    await asyncio.gather(*writers)
    _, listener = await listen(api, "table=accounts", **{"Last-Event-ID": last_id})
    await listener.until(lambda one: one.changes and one.changes[-1]["txid"] == max(acknowledged))
    seen += [(change["txid"], change["id"]) for change in listener.changes]

    assert len(seen) == len(set(seen))
    assert [txid for txid, _ in seen] == sorted(txid for txid, _ in seen)
    assert sorted({txid for txid, _ in seen}) == sorted(acknowledged)
    rows = await api.sql.fetch("SELECT id, _txid FROM tbl_accounts_9b27e4 WHERE _txid = ANY($1)", acknowledged)
    assert sorted((row[1], row[0]) for row in rows) == sorted(seen)
    assert len(acknowledged) > 200, "too little happened to show anything"


STORED = (7, 4, 2, 0)
ALLOWED = (perms.RWX, perms.R__, perms._W_, perms.__getattr__("__X"))


async def test_nobody_hears_what_they_may_not_read(api, monkeypatch):
    """Every combination of the token's bits, the table's bits, whose row it is and what kind of table, by rules of its
    own; then the table's bits change while all streams are open, and every cell again.
    """
    monkeypatch.setattr(limits, "POINTER_CACHE_MS", 0)
    shell = api.platform._shell(OWNER)
    tables = {"tasks": "tbl_tasks_5f0c1d", "diary": "tbl_diary_1", "vault": "tbl_vault_1"}
    users = ("ann", "bob")

    async def publish(table: str, row: str, owner: str) -> None:
        """A commit whose rows nobody wrote: what is heard comes from the record alone."""
        data = Raw(b'{"title":"t","text":"t","mood":"hidden mood"}')
        prepared = await shell.ask(Prepare(row, [Write(table, tables[table], row, 0, data, owner=owner)], user=owner))
        await shell.ask(Finish(prepared.txid, prepared.epoch, applied=True))

    async def store(bits: int) -> None:
        await api.sql.execute("UPDATE storage SET permissions = $1 WHERE id IN ('tasks', 'diary', 'vault')", bits)

    cells = 0
    for bits in STORED:
        await store(7)
        query = "&".join(f"table={table}" for table in [*tables, "accounts"])
        streams = {
            (user, allowed): (await listen(api, query, **bearer(user=user, perm=allowed)))[1]
            for user in users
            for allowed in ALLOWED
        }
        for phase, now in (("open", 7), ("changed", bits)):
            await store(now)
            for name in tables:
                for owner in users:
                    await publish(name, f"{phase}-{bits}-{name}-{owner}", owner)
            await publish_end(shell, f"{phase}-{bits}")
            for (user, allowed), listener in streams.items():
                if allowed & 4:
                    await listener.until(lambda one, end=f"{phase}-{bits}": any(c["id"] == end for c in one.changes))
                heard = {change["id"] for change in listener.changes}
                for name in tables:
                    for owner in users:
                        may = bool(allowed & 4 and now & 4) and name != "vault" and (name == "tasks" or owner == user)
                        assert (f"{phase}-{bits}-{name}-{owner}" in heard) is may, (user, allowed, now, name, owner)
                        cells += 1
                assert "hidden mood" not in listener.text
        for listener in streams.values():
            listener.task.cancel()
    assert cells == len(STORED) * 2 * len(users) * len(ALLOWED) * len(tables) * len(users)


async def publish_end(shell, row: str) -> None:
    """What every stream that may read hears last."""
    write = Write("accounts", "tbl_accounts_9b27e4", row, 0, Raw(b'{"balance":1}'), owner="ann")
    prepared = await shell.ask(Prepare(row, [write]))
    await shell.ask(Finish(prepared.txid, prepared.epoch, applied=True))
