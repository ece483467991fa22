"""The test kit: what it promises to those who test their applications with it (docs/how-to/test-your-app.md)."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from kontract import (
    ConflictError,
    Context,
    HttpError,
    InternalError,
    UnauthorizedError,
    backend,
    middleware,
    perms,
)
from kontract.client import Client, Retries
from kontract.gateway.routes import Registry, Route
from kontract.server.database import Pool
from kontract.testing.app import URL, App
from kontract.testing.database import put_back
from support.sessions import SECRET

ran = []
signals = {}


@backend()
async def who(ctx: Context) -> list:
    """Say who calls, and where."""
    return [ctx.owner, ctx.user, sorted(ctx.ugroups), ctx.is_anonymous, ctx.env.get("GREETING")]


@backend(perm=perms.RW_)
async def fails(ctx: Context) -> None:
    """Write, and fail."""
    await ctx.storage.tasks.push({"title": "x"})
    raise ZeroDivisionError("in the function")


@backend(perm=perms.RW_)
async def slow(ctx: Context) -> None:
    """Write when the test says so."""
    signals["begun"].set()
    await signals["left"].wait()
    await ctx.storage.tasks.set("slow", {"title": "x"})


@backend(perm=perms.R__, name="wrapped")
async def _wrapped(ctx: Context) -> str:
    return "inside"


@backend(perm=perms.R__)
async def clock(ctx: Context) -> str:
    """Tell the time."""
    return ctx.now().isoformat()


@middleware(endpoints=["wrapped"])
async def around(ctx: Context, call_next):
    """Run around a function."""
    ran.append(ctx.route)
    return [await call_next()]


@pytest.fixture(scope="module")
def kontract_environment(kontract_environment):
    return {**kontract_environment, "GREETING": "hello"}


@pytest.fixture(scope="module")
def kontract_registry(kontract_registry):
    ours = {one.__name__: Route(one.__name__, __name__, one.__name__) for one in (who, fails, slow, clock)}
    ours["wrapped"] = Route("wrapped", __name__, "_wrapped", (f"{__name__}:around",))
    return Registry(kontract_registry._routes | ours, kontract_registry._structs)


async def test_callers_are_who_the_test_says(app, api):
    """A token of its own for each: tenant, user, groups and rights; variables are those of the fixture."""
    assert await api.who() == ["tenant-1", "developer", [], False, "hello"]
    ann = api.as_user("ann", groups=["admin", "staff"], owner="tenant-2")
    assert await ann.who() == ["tenant-2", "ann", ["admin", "staff"], False, "hello"]
    assert (await app.as_user("x", anonymous=True).who())[3] is True
    assert (await (await app.anonymous()).who())[3] is True
    with pytest.raises(UnauthorizedError):
        await app.without_token().who()


async def test_accounts_work_as_in_production(app):
    """Names, passwords and refresh tokens go the real way."""
    registered = await app.register("ann", "a good password")
    again = await app.login("ann", "a good password")

    assert (await again.me()).user == (await registered.me()).user
    app.clock.advance(hours(1))
    assert (await again.me()).anonymous is False, "the client has refreshed its token"
    await again.logout()
    with pytest.raises(UnauthorizedError):
        await again.me()


async def test_middleware_runs(app, api):
    ran.clear()
    assert await api.wrapped() == ["inside"]
    assert ran == ["wrapped"]


async def test_an_exception_of_the_function_is_shown_and_nothing_is_kept(app, api):
    """The caller is told nothing, as in production; whoever reads the failed test is."""
    with pytest.raises(InternalError) as raised:
        await api.fails()

    assert "ZeroDivisionError: in the function" in "".join(raised.value.__notes__)
    assert "ZeroDivisionError" not in (await api.response("fails")).text
    assert await app.rows("tasks") == []
    assert any(line["event"] == "request" and line["level"] == "error" for line in app.log)


async def test_a_raw_answer_has_status_headers_and_body(api):
    answer = await api.response("create_task", "Buy milk")
    assert (answer.status_code, answer.headers["X-Kontract-Txid"]) == (200, "1")
    assert answer.json()["result"]["title"] == "Buy milk"
    assert (await api.response("create_task")).json()["error"] == "INVALID_REQUEST"
    assert (await api.request("GET", "/auth/me")).json()["user"] == "developer"
    assert (await api.request("GET", "/health")).json()["status"] == "ok"


async def test_rows_are_read_as_they_are(app, api):
    """In the order of their insertion, newest version, without those that were deleted."""
    first, second, third = [await api.create_task(title) for title in ("a", "b", "c")]
    await api.rename_task(first["id"], "z")
    await api.delete_task(second["id"])

    assert await app.rows("tasks") == [{**first, "title": "z"}, third]
    with pytest.raises(LookupError, match="tenant-2"):
        await app.rows("tasks", owner="tenant-2")


async def test_another_transaction_can_come_first(app, api):
    """It commits after the function has run; the function runs again and sees what it wrote."""
    task = await api.create_task("a")

    with app.before_commit("toggle_task", lambda: api.rename_task(task["id"], "b")) as plan:
        answer = await api.response("toggle_task", task["id"])

    assert plan.happened == 1
    assert 'attempts;desc="2"' in answer.headers["Server-Timing"]
    assert answer.json()["result"]["title"] == "b"


async def test_the_same_function_can_come_first(app, api):
    task = await api.create_task("a")

    with app.before_commit("toggle_task", lambda: api.toggle_task(task["id"])):
        assert (await api.toggle_task(task["id"]))["done"] is False


async def test_a_lost_commit_is_repeated_and_the_last_one_reported(app, api):
    await api.open_account("a", 10)
    await api.open_account("b")

    with app.conflict("transfer", times=2):
        assert await api.transfer("a", "b", 1) == {"a": 9, "b": 1}
    with app.conflict("transfer", times=8), pytest.raises(ConflictError) as raised:
        await api.transfer("a", "b", 1)
    assert raised.value.details == {"function": "transfer", "table": "accounts", "key": "a", "attempts": 8}
    assert await api.balance("a") == 9


async def test_a_conflict_that_never_happened_is_told(app, api):
    """Or a test would pass that tests nothing."""
    with pytest.raises(AssertionError, match="toggle_task never reached its commit"), app.conflict("toggle_task"):
        await api.create_task("a")


async def test_time_can_be_moved_and_stopped(app, api):
    """Tokens and ids follow it; it goes forward only."""
    before = app.clock.now()
    app.clock.freeze()
    stopped = app.clock.now()
    await api.create_task("a")
    assert app.clock.now() == stopped
    app.clock.advance(1.5)
    assert app.clock.now() == stopped + 1500
    later = datetime.now(UTC) + timedelta(days=365)
    app.clock.freeze(later)
    assert app.clock.now() == round(later.timestamp() * 1000)
    with pytest.raises(UnauthorizedError):
        await api.list_tasks()
    [task] = [await app.as_user("ann").create_task("b")]
    assert int(task["id"].replace("-", "")[:12], 16) == app.clock.now()
    app.clock.resume()
    assert app.clock.now() >= round(later.timestamp() * 1000) > before
    for wrong in (lambda: app.clock.advance(-1), lambda: app.clock.freeze(datetime(2000, 1, 1, tzinfo=UTC))):
        with pytest.raises(ValueError, match="forward"):
            wrong()
    with pytest.raises(ValueError, match="time zone"):
        app.clock.freeze(datetime(2100, 1, 1))  # noqa: DTZ001


async def test_the_clock_of_a_function_is_moved_with_it(app, api):
    """Rules that depend on the time can be tested without waiting for it."""
    app.clock.freeze(moment := datetime(2040, 2, 29, 12, tzinfo=UTC))
    caller = app.as_user("ann")
    assert await caller.clock() == moment.isoformat()
    app.clock.advance(seconds=86_400)
    assert await app.as_user("ann").clock() == "2040-03-01T12:00:00+00:00"


async def test_changes_are_heard_from_the_moment_of_listening(api):
    await api.create_task("before")
    async with api.changes("tasks") as mine, api.as_user("bob").changes("tasks") as his:
        made = await api.create_task("a")
        await api.toggle_task(made["id"])
        heard = [await anext(mine), await anext(mine)]
        assert [await anext(his), await anext(his)] == heard

    assert [(event.type, event.data["done"]) for event in heard] == [("insert", False), ("update", True)]


async def test_a_stream_that_is_refused_says_why(app):
    with pytest.raises(UnauthorizedError):
        async with app.without_token().changes("tasks"):
            pass


async def test_a_change_that_never_comes_is_an_error(api, monkeypatch):
    async with api.changes("tasks") as changes:
        monkeypatch.setattr("kontract.testing.changes.PATIENCE_SECONDS", 0.1)
        with pytest.raises(TimeoutError, match="no change came"):
            await anext(changes)


async def test_what_a_caller_began_is_finished_before_the_test_ends(kontract_registry, kontract_database, app):
    """A call whose caller gave up does not reach into the next test."""
    async with App(
        kontract_registry,
        kontract_database,
        {"KONTRACT_SECRET": SECRET},
    ) as first:
        signals.update(begun=asyncio.Event(), left=asyncio.Event())
        call = asyncio.ensure_future(first.as_user().slow())
        await signals["begun"].wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        signals["left"].set()
    assert [row["id"] for row in await app.rows("tasks")] == ["slow"]


async def test_encrypted_calls_work_too(app, api):
    """The client's raystream goes through the same gateway."""
    token = api.tokens.token
    async with Client(URL, token, secure=True, http=app.http, retries=Retries.none()) as sealed:
        assert (await sealed.create_task("secret"))["title"] == "secret"
        with pytest.raises(HttpError):
            await sealed.get_task("nowhere")


# --- the database between tests --------------------------------------------------------------------------------------


async def test_the_database_is_put_back_to_what_the_migrations_made(kontract_server):
    """Rows of the schema itself come back as they were, whatever a test did, foreign keys or not."""
    url = kontract_server.create("put_back")
    connection = await asyncpg.connect(url)
    try:
        before = await contents(connection)
        assert before["storage"], "the schema has rows of its own"
        await connection.execute(
            """
            UPDATE storage SET permissions = 0;
            DELETE FROM storage WHERE id = 'tasks';
            INSERT INTO trxs VALUES ('a', 'tenant-1', 1);
            INSERT INTO tbl_tasks_5f0c1d (id, _txid, _owner) SELECT n::text, n, 'x' FROM generate_series(1, 30000) n;
            CREATE TABLE parent (id int PRIMARY KEY);
            CREATE TABLE child (id int GENERATED ALWAYS AS IDENTITY, parent int REFERENCES parent);
            INSERT INTO parent VALUES (1);
            INSERT INTO child (parent) VALUES (1);
            """
        )
        assert await connection.fetchval("SELECT pg_relation_size('tbl_tasks_5f0c1d')") > 2**20

        await put_back(connection)

        assert await contents(connection) == {**before, "parent": [], "child": []}
        assert await connection.fetchval("SELECT pg_relation_size('tbl_tasks_5f0c1d')") == 0
    finally:
        await connection.close()


async def contents(connection):
    names = await connection.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200")
    return {
        row[0]: sorted(json.dumps([str(v) for v in one]) for one in await connection.fetch(f'SELECT * FROM "{row[0]}"'))
        for row in names
    }


async def test_a_test_costs_few_statements(kontract_registry, kontract_database, kontract_environment, monkeypatch):
    """What a test with one write asks the database: the same each time, and little. Counted, since machines differ."""
    run, asked = Pool.run, []

    async def counted(self, statement):
        asked.append(statement.text)
        return await run(self, statement)

    monkeypatch.setattr(Pool, "run", counted)
    counts = []
    for _ in range(5):
        asked.clear()
        async with App(kontract_registry, kontract_database, kontract_environment) as app:
            await app.as_user().create_task("x")
        counts.append(len(asked))
    assert len(set(counts)) == 1, counts
    assert counts[0] <= 12, counts


def hours(number):
    return number * 3600
