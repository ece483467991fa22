"""A call that is repeated with its Idempotency-Key gets the answer of the first, whatever that one did."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kontract import Context, HttpResp, InvalidRequestError, NotFoundError, backend, perms
from kontract.core import limits
from support.api import apis, check_error

ran: list[str] = []
go_on = asyncio.Event()


@backend(perm=perms.RW_)
async def give(ctx: Context, name: str) -> str:
    await ctx.storage.accounts.insert(name, {"balance": 1})
    return name


@backend(perm=perms.RW_)
async def take(ctx: Context) -> str | None:
    ran.append("take")
    found = await ctx.storage.accounts.shift()
    return found.id if found else None


@backend(perm=perms.R__)
async def look(ctx: Context) -> int:
    return await ctx.storage.accounts.count()


@backend(perm=0)
async def toss(_ctx: Context) -> int:
    ran.append("toss")
    return len(ran)


@backend(perm=perms.RW_)
async def find(ctx: Context, name: str) -> HttpResp:
    found = await ctx.storage.accounts.get(name)
    return HttpResp(200 if found else 404, {"found": found is not None})


@backend(perm=perms.RW_)
async def spend(ctx: Context, name: str, amount: int) -> int:
    account = await ctx.storage.accounts.get(name)
    if account is None:
        raise NotFoundError(f"no account {name}")
    if account.balance < amount:
        raise InvalidRequestError(f"{name} holds {account.balance}")
    await ctx.storage.accounts.update(name, balance=account.balance - amount)
    return account.balance - amount


@backend(perm=0)
async def same(_ctx: Context, value: Any) -> Any:
    return value


@backend(perm=perms.RW_)
async def fragile(ctx: Context) -> str:
    ran.append("fragile")
    if len(ran) == 1:
        await go_on.wait()
        raise NotFoundError("the first run fails")
    await ctx.storage.accounts.set("a", {"balance": 1})
    return "second run"


@backend(perm=perms.RW_)
async def set_up_once(ctx: Context) -> str:
    if await ctx.storage.accounts.count():
        return "was there"  # writes nothing, so it never meets the fence of the call that did
    await ctx.storage.accounts.insert("a", {"balance": 30})
    return "made"


@backend(perm=perms.RW_)
async def write_much(ctx: Context, name: str, size: int, answered: int) -> str:
    await ctx.storage["anything"].set(name, {"text": "x" * size})
    return "y" * answered


@pytest.fixture
async def make_api(postgres):
    ran.clear()
    go_on.clear()
    async with apis(postgres, [give, take, look, toss, find, spend, fragile, same, set_up_once, write_much]) as make:
        yield make


@pytest.fixture
def api(make_api):
    return make_api()


def answer(response):
    return response.status, json.loads(response.body), response.headers.get("Idempotency-Replayed")


# --- calls that wrote nothing ----------------------------------------------------------------------------------------


async def test_a_queue_that_was_empty_stays_empty_for_the_same_key(api):
    """The first call took nothing, so its repetition takes nothing."""
    assert answer(await api.rpc("take", idempotency_key="k")) == (200, {"result": None}, None)
    await api.result("give", "a")
    assert answer(await api.rpc("take", idempotency_key="k")) == (200, {"result": None}, "true")
    assert await api.result("look") == 1
    assert answer(await api.rpc("take", idempotency_key="other")) == (200, {"result": "a"}, None)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_function_that_only_reads_is_remembered_too(make_api, restarts):
    """Also by a coordinator that has lost its journal."""
    api = make_api()
    first = await api.rpc("look", idempotency_key="k")
    await api.result("give", "a")
    if restarts:
        api = make_api()
    again = await api.rpc("look", idempotency_key="k")
    assert (again.status, again.body) == (200, first.body) == (200, b'{"result":0}')
    assert await api.result("look") == 1


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_function_without_any_right_to_tables_is_remembered_too(make_api, restarts):
    api = make_api()
    assert answer(await api.rpc("toss", idempotency_key="k")) == (200, {"result": 1}, None)
    if restarts:
        api = make_api()
    assert answer(await api.rpc("toss", idempotency_key="k")) == (200, {"result": 1}, "true")


async def test_an_answer_with_an_error_status_is_an_answer(api):
    """The function returned it, so its transaction has committed."""
    assert answer(await api.rpc("find", "a", idempotency_key="k"))[0] == 404
    await api.result("give", "a")
    assert answer(await api.rpc("find", "a", idempotency_key="k")) == (404, {"result": {"found": False}}, "true")


async def test_repetitions_at_once_of_a_call_that_writes_nothing(api):
    answers = await asyncio.gather(*(api.rpc("toss", idempotency_key="k") for _ in range(10)))
    assert len({one.body for one in answers}) == 1
    assert sum("Idempotency-Replayed" not in one.headers for one in answers) == 1


async def test_without_a_key_nothing_is_written_for_a_call_that_writes_nothing(api):
    before = await api.database()
    await api.result("take")
    await api.result("look")
    assert await api.database() == before


async def test_a_key_that_a_client_made_for_one_call_ends_with_it(api):
    """It applies once. A run that wrote nothing leaves nothing: nobody has seen its answer and asks again."""
    before = await api.database()
    assert answer(await api.rpc("take", idempotency_key="auto-1")) == (200, {"result": None}, None)
    await api.rpc("look", idempotency_key="auto-2")
    assert api.log[-1]["db_statements"] <= 2
    assert await api.database() == before
    await api.result("give", "a")
    assert answer(await api.rpc("take", idempotency_key="auto-1")) == (200, {"result": "a"}, None)
    assert answer(await api.rpc("take", idempotency_key="auto-1")) == (200, {"result": "a"}, "true")


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_a_call_that_raised_is_not_remembered(api):
    """Nothing of it was kept, so the same key may be tried again, and then counts."""
    check_error(await api.rpc("spend", "a", 1, idempotency_key="k"), 404, "NOT_FOUND")
    await api.result("give", "a")
    assert answer(await api.rpc("spend", "a", 1, idempotency_key="k")) == (200, {"result": 0}, None)
    assert answer(await api.rpc("spend", "a", 1, idempotency_key="k")) == (200, {"result": 0}, "true")


async def test_a_run_that_fails_beside_one_that_commits_gets_its_answer(api):
    """Two runs of one call at the same time are one call: what the second one met is of no interest to anybody."""
    first = asyncio.ensure_future(api.rpc("fragile", idempotency_key="k"))
    while not ran:
        await asyncio.sleep(0.001)
    second = await api.rpc("fragile", idempotency_key="k")
    go_on.set()
    assert answer(second) == (200, {"result": "second run"}, None)
    assert answer(await first) == (200, {"result": "second run"}, "true")


async def test_a_run_that_fails_alone_fails(api):
    go_on.set()
    check_error(await api.rpc("fragile", idempotency_key="k"), 404, "NOT_FOUND")


# --- other arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_another_body_under_the_same_key_is_refused(make_api, restarts):
    """Its caller must not take the answer of another call for its own."""
    api = make_api()
    await api.result("give", "a")
    first = await api.rpc("spend", "a", 1, idempotency_key="k")
    if restarts:
        api = make_api()
    said = check_error(await api.rpc("spend", "a", 2, idempotency_key="k"), 422, "KEY_REUSED")
    assert "new key" in said["message"]
    same = await api.send("POST", "/rpc/spend", b' [ "a" ,1 ] ', idempotency_key="k")
    assert (same.status, same.body) == (200, first.body)


async def test_a_number_and_a_text_of_its_digits_are_two_bodies(api):
    """Also where a function takes either."""
    first = await api.rpc("same", 1.5, idempotency_key="k")
    assert json.loads(first.body)["result"] == 1.5
    for other in ("1.5", 1.25, 15):
        check_error(await api.rpc("same", other, idempotency_key="k"), 422, "KEY_REUSED")
    for other in (b"[1.50]", b'["1.5"]'):
        check_error(await api.send("POST", "/rpc/same", other, idempotency_key="k"), 422, "KEY_REUSED")
    again = await api.send("POST", "/call/same", b'{"value": 1.5}', idempotency_key="k")
    assert (again.status, again.body) == (200, first.body)


async def test_results_of_the_release_before_have_no_digest(api):
    """They are answered as they were."""
    await api.result("give", "a")
    first = await api.rpc("spend", "a", 1, idempotency_key="k")
    journal = api.platform._shell("tenant-1")._journal
    for record in journal._records.values():
        if record.result is not None:
            envelope = json.loads(record.result)
            del envelope["digest"]
            record.result = json.dumps(envelope)
    again = await api.rpc("spend", "a", 2, idempotency_key="k")
    assert (again.status, again.body) == (200, first.body)


# --- without the journal ---------------------------------------------------------------------------------------------


async def test_a_handler_that_would_fail_now_is_not_asked(make_api):
    """The fence is asked before the function runs: one that raises would never meet it."""
    api = make_api()
    await api.result("give", "a")
    first = await api.rpc("spend", "a", 1, idempotency_key="k")
    again = await make_api().rpc("spend", "a", 1, idempotency_key="k")
    assert answer(again) == (200, {"result": 0}, "true")
    assert again.headers["X-Kontract-Txid"] == first.headers["X-Kontract-Txid"]


async def test_a_handler_that_writes_nothing_now_is_not_asked(make_api):
    assert answer(await make_api().rpc("set_up_once", idempotency_key="k")) == (200, {"result": "made"}, None)
    assert answer(await make_api().rpc("set_up_once", idempotency_key="k")) == (200, {"result": "made"}, "true")


async def test_an_old_schema_keeps_the_promise_without_the_answer(make_api):
    """`trxs` as the deployment document has it: nothing runs twice, but the first answer is not known any more."""
    api = make_api()
    await api.sql.execute("ALTER TABLE trxs DROP COLUMN result")
    await api.result("give", "a")
    first = await api.rpc("spend", "a", 1, idempotency_key="k")
    assert answer(await api.rpc("spend", "a", 1, idempotency_key="k")) == (200, {"result": 0}, "true")
    assert first.status == (await api.rpc("take", idempotency_key="empty")).status == 200
    new = make_api()
    check_error(await new.rpc("spend", "a", 1, idempotency_key="k"), 409, "ALREADY_APPLIED")
    check_error(await new.rpc("take", idempotency_key="empty"), 409, "ALREADY_APPLIED")


async def test_fences_of_runs_that_were_aborted_are_passed(make_api):
    """A call may have been tried more often than one statement asks for."""
    api = make_api()
    await api.result("give", "a")
    await api.rpc("spend", "a", 1, idempotency_key="k")
    sid = await api.sql.fetchval("SELECT sid FROM trxs WHERE result IS NOT NULL")
    call = sid.partition("/")[0]
    await api.sql.execute("UPDATE trxs SET sid = $1 WHERE sid = $2", f"{call}/17", sid)
    for number in range(1, 17):
        await api.sql.execute("INSERT INTO trxs VALUES ($1, 'tenant-1', -1)", f"{call}/{number}")
    assert answer(await make_api().rpc("spend", "a", 1, idempotency_key="k")) == (200, {"result": 0}, "true")


async def test_what_it_costs(make_api, monkeypatch):
    """One statement more for a call with a key, while the coordinator's memory is younger than the fences may be."""
    api = make_api()

    async def statements(*call, **headers) -> tuple[int, int]:
        await api.rpc(*call, **headers)
        line = [line for line in api.log if line["event"] == "request"][-1]
        return line["coord_calls"], line["db_statements"]

    await api.result("give", "a")
    assert await statements("spend", "a", 0) == (3, 2)
    assert await statements("spend", "a", 0, idempotency_key="k1") == (3, 3)
    assert await statements("spend", "a", 0, idempotency_key="k1") == (1, 0)
    api.platform._shell("tenant-1")._coordinator.since -= limits.FENCE_RETENTION_MS
    assert await statements("spend", "a", 0, idempotency_key="k2") == (3, 2)
    assert await statements("spend", "a", 0, idempotency_key="k2") == (1, 0)
    assert await statements("look") == await statements("look", idempotency_key="auto-1") == (1, 1)
    assert await statements("look", idempotency_key="k3") == (3, 2)


# --- size ------------------------------------------------------------------------------------------------------------


async def test_the_answer_that_is_kept_counts(api):
    """It goes to the coordinator, its journal and PostgreSQL, as written rows do."""
    await api.sql.execute(
        "INSERT INTO storage (id, ptr, owner, permissions) VALUES ('anything', 'tbl_accounts_9b27e4', 'tenant-1', 7)"
    )
    half = limits.WRITE_SET_BYTES // 2
    assert (await api.rpc("write_much", "a", half, half + 1000)).status == 200
    said = check_error(await api.rpc("write_much", "b", half, half, idempotency_key="k"), 413, "PAYLOAD_TOO_LARGE")
    assert "Idempotency-Key" in said["message"]
    assert (await api.rpc("write_much", "b", half, half - 1000, idempotency_key="k")).status == 200
