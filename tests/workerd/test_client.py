"""The Python client against the real runtime, in clear and through raystream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from msgspec import Struct

from kontract import ConflictError, ForbiddenError, NotFoundError, PayloadTooLargeError, UnauthorizedError
from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from kontract.client import Client, Retries, Tokens
from kontract.client.errors import CLASSES
from kontract.core.errors import Code
from kontract.core.model.perms import perms
from kontract.server import env_file
from support import apps, sessions
from support.loopback import Fault, Proxy, proxied
from support.postgres import Postgres
from support.scratch import product_checkout
from support.worker import running_worker

APP = Path(apps.__path__[0]) / "failing.py"
PASSWORD = "correct horse battery"

PATIENT = Retries(attempts=1000, seconds=600, longest_pause=0.5)
"""However busy the machine is."""

each_way = pytest.mark.parametrize("secure", [False, True], ids=["plain", "raystream"])


class Task(Struct):
    id: str
    title: str
    done: bool
    created_by: str


@pytest.fixture(scope="module")
def server(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevServer]:
    """The product's Worker with the functions of support/apps/failing.py."""
    setup.prepare(checkout)
    folder = tmp_path_factory.mktemp("clients")
    copy = product_checkout(checkout, folder / "checkout", modules=[APP])
    with running_worker(copy, postgres.create_database(), folder, reaper) as running:
        yield running


@pytest.fixture
async def proxy(server: DevServer) -> AsyncIterator[Proxy]:
    async with proxied(server.url) as running:
        yield running


@pytest.fixture
async def options() -> AsyncIterator[dict]:
    """Of clients that ask no proxy of this machine's, and wait as long as it takes."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield {"http": http, "timeout": 120, "retries": PATIENT}


def token(server: DevServer, **who) -> str:
    return sessions.token(secret(server), **who)


def secret(server: DevServer) -> str:
    assert server.env_file is not None
    return env_file.parse(server.env_file.read_text())["KONTRACT_SECRET"]


@pytest.fixture
def make(proxy: Proxy, server: DevServer, options: dict) -> Callable[..., Client]:
    def of(who: str | Tokens | None = None, **more) -> Client:
        return Client(proxy.url, who or token(server), **options | more)

    return of


@each_way
async def test_calls_and_results(make, secure):
    """What one types, and what comes back."""
    async with make(secure=secure) as api:
        task = await api.call("create_task", "x", type=Task)
        assert task == Task(task.id, "x", done=False, created_by="developer")
        assert await api.toggle_task(task.id) == {"id": task.id, "title": "x", "done": True, "created_by": "developer"}
        assert await api.delete_task(task.id) is True


@each_way
async def test_each_error_has_its_class(make, secure):
    """Raised by a function in workerd, caught here."""
    async with make(secure=secure, retries=Retries.none()) as api:
        for code in Code:
            with pytest.raises(CLASSES[code]) as caught:
                await api.fail(code.name, {"Retry-After": "7"})
            error = caught.value
            assert type(error) is CLASSES[code]
            assert (error.error_code, error.message, error.details) == (
                code,
                f"about {code.name}",
                {"asked": code.name},
            )
            assert error.retry_after == 7
            assert len(error.request_id) == 24


@each_way
async def test_the_gateways_own_errors(make, server, secure):
    """Those that no function raises."""
    async with make(secure=secure) as api:
        with pytest.raises(NotFoundError, match="nope"):
            await api.nope()
        with pytest.raises(PayloadTooLargeError, match="1048576"):
            await api.create_task("x" * 1024 * 1024)
    async with make("nonsense", secure=secure) as api:
        with pytest.raises(UnauthorizedError, match="not valid"):
            await api.list_tasks()
    async with make(token(server, perm=perms.R__), secure=secure) as api:
        with pytest.raises(CLASSES[Code.PERMISSION_DENIED]):
            await api.create_task("x")


@each_way
@pytest.mark.parametrize("fault", Fault)
async def test_a_write_whose_answer_is_lost_is_applied_once_and_answered(make, proxy, server, secure, fault):
    """Twice the connection is cut after the Worker has answered, and before that after nothing."""
    names = [f"{fault.name}-{secure}-{side}" for side in "ab"]
    async with make(secure=secure) as api:
        await api.open_account(names[0], 10)
        await api.open_account(names[1])
        proxy.faults += [("raystream/rpc" if secure else "transfer", fault)] * 2
        assert await api.transfer(*names, 3) == {names[0]: 7, names[1]: 3}
        assert proxy.faults == []
        assert [await api.balance(name) for name in names] == [7, 3]
    connection = await asyncpg.connect(server.database_url)
    versions = await connection.fetch(f"SELECT data FROM {await ptr(connection)} WHERE id = $1", names[0])
    await connection.close()
    assert len(versions) == 2


async def ptr(connection: asyncpg.Connection) -> str:
    return await connection.fetchval("SELECT ptr FROM storage WHERE id = 'accounts'")


@each_way
async def test_clients_in_contention_all_succeed(make, server, secure):
    """The function gives up at its first conflict, so that it is the clients who are persistent."""
    name = f"hot-{secure}"
    clients = [make(secure=secure) for _ in range(6)]
    await clients[0].open_account(name)
    logged = len(server.log_text())
    results = await asyncio.gather(*[api.bump(name) for api in clients for _ in range(4)])
    assert sorted(results) == list(range(1, 25))
    assert await clients[0].balance(name) == 24
    assert '"error":"CONFLICT"' in server.log_text()[logged:].replace(" ", "")


@each_way
async def test_sessions_from_beginning_to_end(proxy, options, secure):
    """Sign up, stay the same user, log in, log out."""
    name = f"ann-{secure}@example.com"
    async with await Client.anonymous(proxy.url, secure=secure, **options) as api:
        task = await api.create_task("mine")
        await api.link(name, PASSWORD)
        assert (await api.me()).user == task["created_by"]
        assert (await api.me()).anonymous is False
        with pytest.raises(ForbiddenError, match="already has an account"):
            await api.link("another", PASSWORD)
    async with await Client.login(proxy.url, name, PASSWORD, secure=secure, **options) as api:
        assert (await api.create_task("mine, too"))["created_by"] == task["created_by"]
        old = api.tokens
        await api.logout()
    async with Client(proxy.url, old, secure=secure, **options) as api:
        with pytest.raises(UnauthorizedError):
            await api.list_tasks()
    with pytest.raises(ConflictError, match="taken"):
        await Client.register(proxy.url, name, PASSWORD, **options)


@each_way
async def test_calls_at_once_refresh_once(proxy, options, server, secure):
    """With a token that has expired and a refresh token that is good."""
    kept = []
    async with await Client.anonymous(proxy.url, **options) as api:
        fresh = api.tokens
    expired = token(server, user=fresh.user, anonymous=True, seconds=-1)
    tokens = Tokens(expired, fresh.refresh_token)
    async with Client(proxy.url, tokens, secure=secure, on_tokens=kept.append, **options) as api:
        del proxy.seen[:]
        tasks = await asyncio.gather(*[api.create_task(str(n)) for n in range(10)])
        assert {task["created_by"] for task in tasks} == {fresh.user}
        assert proxy.targets().count("POST /auth/refresh") == 1
        assert kept == [api.tokens]
