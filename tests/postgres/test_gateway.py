"""The whole gateway in one process over a real PostgreSQL: what a caller sees, and what is left in the database."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from kontract import Context, HttpResp, backend, perms
from kontract.core import limits
from kontract.server.database import AsyncpgDatabase
from support.api import Api, apis, check_error
from support.sessions import ENVIRONMENT, bearer

# --- functions that misbehave, beside those of the demo --------------------------------------------------------------

ran: list[str] = []


@backend(perm=perms.RW_)
async def explode(ctx: Context, name: str) -> None:
    await ctx.storage.accounts.set(name, {"balance": 1})
    secret = "s3cret detail"
    raise RuntimeError(secret)


@backend(perm=perms.RW_)
async def plan_actions(ctx: Context, name: str, fail: bool = False) -> None:  # noqa: FBT001, FBT002
    ctx.after_commit(lambda: ran.append(name))
    account = await ctx.storage.accounts.get(name)
    await ctx.storage.accounts.set(name, {"balance": (account.balance if account else 0) + 1})
    if fail:
        raise RuntimeError(name)


@backend(perm=perms.R__)
async def write_without_leave(ctx: Context) -> None:
    await ctx.storage.accounts.set("x", {"balance": 1})


@backend(perm=perms.R__)
async def unencodable(ctx: Context) -> object:
    return object()


@backend(perm=perms.RW_)
async def other_status(ctx: Context, name: str) -> HttpResp:
    await ctx.storage.accounts.insert(name, {"balance": 5})
    return HttpResp.created({"name": name}, f"/accounts/{name}")


@backend(perm=perms.RW_)
async def read_own_writes(ctx: Context) -> list:
    accounts = ctx.storage.accounts
    await accounts.insert("own-a", {"balance": 1})
    await accounts.insert("own-b", {"balance": 2})
    await accounts.update("own-a", balance=3)
    await accounts.delete("own-b")
    rows = [row.balance async for row in accounts.query({"balance": 3})]
    return [rows, await accounts.count({"balance": 2}), (await accounts.pop()).id, await accounts.get("own-a")]


@backend(perm=perms.RW_)
async def bump(ctx: Context, name: str) -> int:
    account = await ctx.storage.accounts.get(name)
    await ctx.storage.accounts.update(name, balance=account.balance + 1)
    return account.balance + 1


@backend(perm=perms.R__)
async def no_such_table(ctx: Context) -> None:
    await ctx.storage.nowhere.get("x")


@backend(perm=perms.RW_)
async def close_all(ctx: Context) -> int:
    closed = 0
    async for account in ctx.storage.accounts.query({"balance": 1}, order_by="balance"):
        await ctx.storage.accounts.update(account.id, balance=0)
        closed += 1
    return closed


@backend(perm=perms.R__)
async def next_page(ctx: Context, after: str) -> list[str]:
    found = ctx.storage.accounts.query({"balance": 1}, order_by="balance", limit=2, after=after)
    return [account.id async for account in found]


@backend(perm=perms.RW_)
async def collect(ctx: Context, names: list[str]) -> list[str]:
    names.append("one more")
    await ctx.storage.accounts.get("hot")
    await asyncio.sleep(0.01)
    await ctx.storage.accounts.set("hot", {"balance": 1})
    return names


@backend(perm=perms.RW_)
async def put_account(ctx: Context, name: str, value: dict) -> None:
    await ctx.storage["anything"].set(name, value)


@backend(perm=perms.RW_)
async def wait_for_elsewhere(ctx: Context) -> None:
    await ctx.storage.accounts.set("w", {"balance": 1})
    raise TimeoutError("elsewhere")


HERE = [explode, plan_actions, write_without_leave, unencodable, other_status, read_own_writes, bump, no_such_table]
HERE += [close_all, next_page, collect, put_account, wait_for_elsewhere]


@pytest.fixture
async def make_api(postgres):
    async with apis(postgres, HERE) as make:
        yield make


@pytest.fixture
def api(make_api) -> Api:
    return make_api()


# --- the demo --------------------------------------------------------------------------------------------------------


async def test_tasks(api):
    """Every function on tasks does what its name says."""
    first, second = await api.result("create_task", "one"), await api.result("create_task", "two")
    assert first == {"id": first["id"], "title": "one", "done": False, "created_by": "developer"}
    assert await api.result("get_task", first["id"]) == first
    assert await api.result("toggle_task", first["id"]) == first | {"done": True}
    assert (await api.result("rename_task", second["id"], "zwei"))["title"] == "zwei"
    assert [task["title"] for task in await api.result("list_tasks")] == ["one", "zwei"]
    assert [task["title"] for task in await api.result("list_tasks", True)] == ["one"]
    assert [task["title"] for task in await api.result("list_tasks", None, 1)] == ["one"]
    assert [task["title"] for task in await api.result("list_tasks", None, 50, first["id"])] == ["zwei"]
    assert await api.result("delete_task", first["id"]) is True
    assert await api.result("delete_task", first["id"]) is False
    await api.error(404, "NOT_FOUND", "get_task", first["id"])
    await api.error(404, "NOT_FOUND", "rename_task", first["id"], "x")


async def test_accounts(api):
    """Every function on accounts, and its refusals."""
    assert await api.result("open_account", "a", 10) == {"id": "a", "balance": 10}
    await api.result("open_account", "b")
    await api.error(409, "ALREADY_EXISTS", "open_account", "a", 1)
    assert await api.result("transfer", "a", "b", 4) == {"a": 6, "b": 4}
    assert (await api.result("balance", "a"), await api.result("total")) == (6, 10)
    before = await api.database()
    await api.error(400, "INVALID_REQUEST", "transfer", "a", "b", 7)
    await api.error(400, "INVALID_REQUEST", "transfer", "a", "a", 1)
    await api.error(404, "NOT_FOUND", "transfer", "a", "nobody", 1)
    await api.error(400, "INVALID_REQUEST", "transfer", "a", "b", 0)
    await api.error(400, "INVALID_REQUEST", "open_account", "", 1)
    assert await api.database() == before


async def test_the_cost_of_calls(api):
    """A read is one coordinator call and one query, a blind write two and one, a change three and two.

    A session that this process does not know yet begins first: a blind write costs it one call more.
    """
    task = await api.result("create_task", "x")
    ann = bearer(user="ann")
    for function, args, cost in [
        ("create_task", ["y"], (3, 1)),
        ("create_task", ["y"], (2, 1)),
        ("get_task", [task["id"]], (1, 1)),
        ("rename_task", [task["id"], "z"], (3, 2)),
    ]:
        assert (await api.rpc(function, *args, **ann)).status == 200
        assert (api.log[-1]["coord_calls"], api.log[-1]["db_statements"]) == cost


async def test_tables_stay_known_after_a_conflict(api):
    """A call that lost to another one says nothing of where tables are: hot rows would pay a look-up each time."""
    await api.result("open_account", "hot", 0)
    await asyncio.gather(*(api.rpc("bump", "hot") for _ in range(8)))
    assert max(line["attempts"] for line in api.log if line["event"] == "request") > 1, "nobody lost"
    await api.rpc("bump", "hot")
    assert (api.log[-1]["coord_calls"], api.log[-1]["db_statements"]) == (3, 2)


async def test_a_writing_call_tells_its_txid(api):
    """It grows with every commit; a read has none."""
    first = await api.rpc("open_account", "a", 1)
    second = await api.rpc("open_account", "b", 1)
    assert 0 < int(first.headers["X-Kontract-Txid"]) < int(second.headers["X-Kontract-Txid"])
    assert "X-Kontract-Txid" not in (await api.rpc("total")).headers


async def test_a_function_reads_its_own_writes(api):
    """get, query, count and pop see what the function has done so far; what comes to nothing writes nothing."""
    assert await api.result("read_own_writes") == [[3], 0, "own-a", None]
    assert (await api.database())[0] == []


async def test_a_query_goes_on_while_its_rows_are_changed(api, monkeypatch):
    """A loop that changes what it iterates over must not end silently at the end of a page."""
    monkeypatch.setattr(limits, "QUERY_ROWS", 3)
    for n in range(8):
        await api.result("open_account", f"a{n}", 1)
    assert await api.result("close_all") == 8


async def test_a_page_after_a_row_that_does_not_match_any_more(api):
    """The last row of the page before may have changed meanwhile: the next page is not empty for that."""
    for name in "abcd":
        await api.result("open_account", name, 1)
    await api.result("open_account", "bank", 5)
    await api.result("transfer", "b", "bank", 1)
    assert await api.result("next_page", "b") == ["a", "c"], "b now stands before all of them"
    await api.error(400, "INVALID_REQUEST", "next_page", "nobody")


async def test_every_attempt_gets_the_arguments_as_they_were_sent(api):
    """A handler that changes an argument and loses must not find its own change when it runs again."""
    answers = await asyncio.gather(*(api.rpc("collect", []) for _ in range(4)))
    assert {answer.body for answer in answers} == {b'{"result":["one more"]}'}


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_what_is_not_there(api):
    """Functions, paths and methods."""
    await api.error(404, "NOT_FOUND", "nothing")
    for path in ("/rpc/", "/rpc/a/b", "/rpc/%00", "/rpc/" + "x" * 200, "/", "/elsewhere"):
        check_error(await api.send("POST", path), 404, "NOT_FOUND")
    for method in ("GET", "PUT", "DELETE"):
        response = await api.send(method, "/rpc/total")
        check_error(response, 405, "METHOD_NOT_ALLOWED")
        assert response.headers["Allow"] == "POST, OPTIONS"
    check_error(await api.send("POST", "/health"), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1,]", b"nope", b"\xff", b'["\xff"]', b'"\\ud800"', b'["a\\u0000"]', b"[NaN]", b"[1e999]", b"[" * 100_000],
)
async def test_bodies_that_are_no_json(api, body):
    """Hostile bytes are the caller's fault, never a 500."""
    check_error(await api.send("POST", "/rpc/create_task", body), 400, "INVALID_REQUEST")


async def test_arguments_that_do_not_fit(api):
    """Missing, extra and of another type: the answer names the argument."""
    for args in ([], ["a", 1, 2], [1], ["a", "1"], ["a", -1], ["a", None], [{"id": "a"}]):
        body = await api.error(400, "INVALID_REQUEST", "open_account", *args)
        assert body["message"].startswith("open_account")
    assert (await api.send("POST", "/rpc/create_task", b'"one value is wrapped"')).status == 200
    assert (await api.send("POST", "/rpc/total", b"")).status == 200


async def test_bodies_that_are_too_large(api):
    """By the header before reading, by counting otherwise; one byte less than too much is read."""
    fits = b'["' + b"x" * (limits.BODY_BYTES - 4) + b'"]'
    check_error(await api.send("POST", "/rpc/create_task", fits), 400, "INVALID_REQUEST")  # title over 200
    check_error(await api.send("POST", "/rpc/create_task", fits + b" "), 413, "PAYLOAD_TOO_LARGE")
    big = await api.send("POST", "/rpc/create_task", b"[]", content_length=str(limits.BODY_BYTES + 1))
    check_error(big, 413, "PAYLOAD_TOO_LARGE")


async def test_a_handler_that_raises(api):
    """500 without a word of it; the log line has the traceback; the database has nothing."""
    before = await api.database()
    body = await api.error(500, "INTERNAL", "explode", "boom")
    assert "s3cret" not in json.dumps(body)
    assert (api.log[-1]["level"], api.log[-1]["request_id"]) == ("error", body["request_id"])
    assert "RuntimeError: s3cret detail" in api.log[-1]["exception"]
    assert await api.database() == before


async def test_what_a_function_may_not_do(api):
    """Write without the bit, return what JSON cannot hold, use a table that is not there."""
    await api.error(403, "PERMISSION_DENIED", "write_without_leave")
    await api.error(500, "INTERNAL", "unencodable")
    assert "nowhere" in (await api.error(404, "NOT_FOUND", "no_such_table"))["message"]


async def test_without_a_token_nobody_is_let_in_and_nothing_is_told(api):
    """401 for a function that exists and for one that does not alike; headers name no tenant."""
    for function in ("total", "no_such_function"):
        response = await api.send("POST", f"/rpc/{function}", authorization=None, x_kontract_owner="tenant-1")
        assert check_error(response, 401, "UNAUTHORIZED")["message"].startswith("a token is required")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await api.send("GET", "/health", authorization=None)).status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"KONTRACT_SECRET": ""},
        {"KONTRACT_SECRET": "zz"},
        {"KONTRACT_SECRET_PREVIOUS": "zz"},
        {"KONTRACT_OWNER": "a b"},
    ],
)
async def test_a_wrong_configuration_says_what_to_do(make_api, change):
    """503 for everything, with the name of the variable and never its value."""
    body = check_error(await make_api(ENVIRONMENT | change).rpc("total"), 503, "UNAVAILABLE")
    assert next(iter(change)) in body["message"]
    assert "zz" not in body["message"]


async def test_a_database_that_does_not_answer(make_api):
    """503, and no detail of where it should be."""
    api = make_api()
    api.platform.open_database = lambda: AsyncpgDatabase("postgresql://u:p4ss@127.0.0.1:1/nowhere")
    body = await api.error(503, "UNAVAILABLE", "total")
    assert "127.0.0.1" not in body["message"]
    assert (await api.send("GET", "/ready")).status == 503
    assert (await api.send("GET", "/health")).status == 200


async def test_other_answers_than_200(api):
    """HttpResp chooses status and headers, and the transaction commits all the same."""
    response = await api.rpc("other_status", "made")
    assert (response.status, response.headers["Location"]) == (201, "/accounts/made")
    assert json.loads(response.body) == {"result": {"name": "made"}}
    assert await api.result("balance", "made") == 5


async def test_health_and_ready(api):
    """The first for the load balancer, the second asks the database."""
    for path in ("/health", "/ready"):
        response = await api.send("GET", path)
        assert json.loads(response.body) == {"status": "ok", "routes": 11 + len(HERE)}


# --- concurrency -----------------------------------------------------------------------------------------------------


async def test_a_hundred_transfers_at_once_keep_the_total(api):
    """All succeed, money is moved and never made, no row is live twice, every txid is used once."""
    accounts = [f"acc{n}" for n in range(10)]
    for account in accounts:
        await api.result("open_account", account, 1_000)
    dice = random.Random(3)
    answers = await asyncio.gather(
        *(api.rpc("transfer", *dice.sample(accounts, 2), dice.randint(1, 9)) for _ in range(100))
    )
    assert {answer.status for answer in answers} == {200}
    assert await api.result("total") == 10_000
    assert len({answer.headers["X-Kontract-Txid"] for answer in answers}) == 100
    live = await api.sql.fetch("SELECT id FROM tbl_accounts_9b27e4 WHERE _deleted_txid IS NULL")
    assert sorted(row[0] for row in live) == sorted(accounts)


async def test_thirty_two_clients_and_one_counter(api):
    """Nobody starves: every increment counts, within 10 attempts each."""
    await api.result("open_account", "hot", 0)
    before = len(api.log)
    answers = await asyncio.gather(*(api.rpc("bump", "hot") for _ in range(32)))
    assert [answer.status for answer in answers] == [200] * 32
    assert sorted(json.loads(answer.body)["result"] for answer in answers) == list(range(1, 33))
    assert max(line["attempts"] for line in api.log[before:] if line["event"] == "request") <= 10


async def test_readers_see_whole_transfers_only(api):
    """A sum taken at any moment is the same."""
    for account in ("p", "q"):
        await api.result("open_account", account, 500)

    async def move() -> None:
        for n in range(15):
            await api.result("transfer", *(("p", "q") if n % 2 else ("q", "p")), n + 1)

    async def look() -> list[int]:
        return [await api.result("total") for _ in range(15)]

    _, *sums = await asyncio.gather(move(), look(), look())
    assert {total for seen in sums for total in seen} == {1_000}


# --- idempotent calls and actions ------------------------------------------------------------------------------------


async def test_a_repeated_call_with_its_key(api):
    """Applied once, answered twice with the same; another key, function or nothing is another call."""
    await api.result("open_account", "a", 100)
    await api.result("open_account", "b", 0)
    first = await api.rpc("transfer", "a", "b", 10, idempotency_key="k")
    again = await api.rpc("transfer", "a", "b", 10, idempotency_key="k")
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["X-Kontract-Txid"] == first.headers["X-Kontract-Txid"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await api.result("balance", "a") == 90
    await api.rpc("transfer", "a", "b", 10, idempotency_key="other")
    assert await api.result("balance", "a") == 80
    check_error(await api.rpc("total", idempotency_key="ä"), 400, "INVALID_REQUEST")


async def test_ten_repetitions_at_once(api):
    """Retries of an impatient client meet the first call under way: one transfer, ten equal answers."""
    await api.result("open_account", "a", 100)
    await api.result("open_account", "b", 0)
    answers = await asyncio.gather(*(api.rpc("transfer", "a", "b", 10, idempotency_key="k") for _ in range(10)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, b'{"result":{"a":90,"b":10}}')}
    assert await api.result("balance", "a") == 90


async def test_a_repeated_call_after_the_journal_was_lost(make_api):
    """A new process has an empty journal: the fence says that the call was applied, and what it answered."""
    old = make_api()
    await old.result("open_account", "a", 100)
    await old.result("open_account", "b", 0)
    first = await old.rpc("transfer", "a", "b", 100, idempotency_key="k")
    assert first.status == 200
    new = make_api()
    again = await new.rpc("transfer", "a", "b", 100, idempotency_key="k")
    assert (again.status, again.body) == (200, first.body)
    assert await new.result("balance", "a") == 0
    # The old process is superseded: it reads what it knows, and commits nothing.
    check_error(await old.rpc("transfer", "b", "a", 1), 503, "FENCED")
    assert await new.result("balance", "a") == 0


async def test_actions_after_the_commit_run_once(api):
    """Not for attempts that lost, not for functions that raised."""
    ran.clear()
    await api.error(500, "INTERNAL", "plan_actions", "failed", True)
    assert ran == []
    answers = await asyncio.gather(*(api.rpc("plan_actions", "once") for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert max(line.get("attempts", 0) for line in api.log) > 1, "no attempt lost: the test shows nothing"
    assert ran == ["once"] * 8
    assert await api.result("balance", "once") == 8


async def own_table(api) -> None:
    """A table of the user's own making, with rules of its own."""
    await api.sql.execute(
        """CREATE TABLE tbl_own_1 (id TEXT NOT NULL, data JSONB NOT NULL DEFAULT '{}', _txid BIGINT NOT NULL,
             _deleted_txid BIGINT, _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid),
             CONSTRAINT not_negative CHECK ((data->>'n')::numeric >= 0));
           CREATE UNIQUE INDEX tbl_own_1_live ON tbl_own_1 (id) WHERE _deleted_txid IS NULL;
           CREATE UNIQUE INDEX one_of_a_mail ON tbl_own_1 ((data->>'mail')) WHERE _deleted_txid IS NULL;
           CREATE INDEX by_age ON tbl_own_1 (((data->>'age')::int));
           CREATE INDEX by_text ON tbl_own_1 ((data->>'text'));
           INSERT INTO storage (id, ptr, owner) VALUES ('anything', 'tbl_own_1', 'tenant-1')"""
    )


@pytest.mark.parametrize(
    ("value", "status", "code", "says"),
    [
        ({"n": -1}, 400, "INVALID_REQUEST", "constraint 'not_negative' of the database refuses these values"),
        ({"mail": "a@b"}, 409, "ALREADY_EXISTS", "constraint 'one_of_a_mail' of the database"),
        ({"age": "old"}, 400, "INVALID_REQUEST", "cannot take these values"),
        ({"text": "x7" * 4}, 413, "PAYLOAD_TOO_LARGE", "too large for an index"),
    ],
)
async def test_what_a_rule_of_the_database_refuses_is_said_at_once(api, value, status, code, says):
    """A constraint or index of the user's own is no conflict: one attempt, a sentence, and nothing is written."""
    await own_table(api)
    await api.result("put_account", "first", {"n": 1, "mail": "a@b", "age": 3})
    if "text" in value:  # random, so that it cannot be compressed to fit
        value = {"text": random.Random(1).randbytes(6000).hex()}
    refused = await api.rpc("put_account", "second", value)
    assert says in check_error(refused, status, code)["message"]
    assert api.log[-1]["attempts"] == 1
    assert "tbl_own" not in refused.body.decode()
    assert await api.sql.fetchval("SELECT count(*) FROM tbl_own_1") == 1
    # The refused call leaves nothing behind that others would have to wait for.
    await api.result("put_account", "second", {"n": 1, "mail": "c@d"})


async def test_a_timeout_of_something_the_function_waited_for_is_its_own_error(api):
    """Only the end of the call's own time is a 504; another TimeoutError is a defect like any other."""
    await api.error(500, "INTERNAL", "wait_for_elsewhere")
    assert "TimeoutError: elsewhere" in api.log[-1]["exception"]
    assert await api.database() == ([], [])


async def test_a_row_of_storage_that_points_to_something_else_does_not_stop_the_owner(api):
    """A first start asks all tables for their txids; one that holds no versions is none of its business."""
    await api.sql.execute(
        """CREATE TABLE tbl_odd (id TEXT PRIMARY KEY); CREATE VIEW tbl_view AS SELECT 1 AS _txid;
           INSERT INTO storage (id, ptr, owner) VALUES ('odd', 'tbl_odd', 'tenant-1'), ('v', 'tbl_view', 'tenant-1')"""
    )
    assert await api.result("create_task", "x")
    assert (await api.rpc("no_such_table")).status == 404
