"""Requests as they come over real connections: cut, slow, too large, too many, and from behind proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import asyncpg
import httpx
import pytest

from kontract.core import limits
from support import apps
from support.serving import running_server
from support.sessions import bearer_for

IN_USE = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'kontract'"""

IMPATIENT = Path(apps.__path__[0]) / "impatient.py"


@pytest.fixture(scope="module")
def server(checkout, postgres, reaper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    modules = [IMPATIENT.with_name("pausing.py")]
    variables = {"KONTRACT_POOL": "5", "KONTRACT_TRUSTED_PROXIES": "127.0.0.0/8, 10.0.0.0/8"}
    with running_server(checkout, postgres.create_database(), folder, reaper, modules=modules, **variables) as running:
        yield running


def head(server, path: str, *lines: str) -> bytes:
    """The head of a request, with a developer's token."""
    given = [f"POST {path} HTTP/1.1", "Host: localhost", *lines]
    given += [f"{name}: {value}" for name, value in bearer_for(server).items()]
    return "\r\n".join([*given, "", ""]).encode()


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


async def until(condition) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


def became(api: httpx.AsyncClient, name: str, what: str | None):
    """Whether the function that stopped under a name has ended so."""

    async def check() -> bool:
        found = (await api.post("/rpc/paused", json=[])).json()["result"]
        return name in found["names"] and found["ended"].get(name) == what

    return check


async def balance(server, account: str) -> int | None:
    connection = await asyncpg.connect(server.database_url)
    try:
        query = "SELECT (data->>'balance')::int FROM tbl_accounts_9b27e4 WHERE id = $1"
        return await connection.fetchval(query, account)
    finally:
        await connection.close()


async def test_a_caller_who_leaves_frees_its_request(server, client):
    """The function is cancelled where it waits; nothing is written, and the log says what happened."""
    api = client(server)
    body = b'["gone"]'
    with connect(server) as connection:
        connection.sendall(head(server, "/rpc/pause_and_write", f"Content-Length: {len(body)}") + body)
        await until(became(api, "gone", None))
    await until(became(api, "gone", "cancelled"))
    [line] = await asyncio.to_thread(server.wait_for, "client_gone")
    assert line["path"] == "/rpc/pause_and_write"
    assert await balance(server, "gone") is None


async def test_a_caller_who_leaves_does_not_undo_what_is_being_committed(server, client):
    """The statement waits on a lock when its caller is gone; it is carried out as soon as it can."""
    api = client(server)
    sql = await asyncpg.connect(server.database_url)
    try:
        async with sql.transaction():
            await sql.execute("LOCK TABLE tbl_accounts_9b27e4 IN EXCLUSIVE MODE")  # reads go on
            for path, body in (("/rpc/open_account", b'["kept", 7]'), ("/rpc/pause", b'["left"]')):
                with connect(server) as connection:
                    connection.sendall(head(server, path, f"Content-Length: {len(body)}") + body)
                    if path == "/rpc/pause":
                        await until(became(api, "left", None))
                    else:
                        await until(lambda: waits_for_lock(sql))
            # Whoever left later was noticed, so the one before was, too.
            await until(became(api, "left", "cancelled"))
    finally:
        await sql.close()

    async def is_kept() -> bool:
        return await balance(server, "kept") == 7

    async with asyncio.timeout(60):
        await until(is_kept)


async def waits_for_lock(sql: asyncpg.Connection) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tbl_accounts_9b27e4'::regclass"
    return await sql.fetchval(query) > 0


@pytest.mark.parametrize(
    ("framing", "part"),
    [
        ("Content-Length: 100", b'["cut", 1]'),
        ("Transfer-Encoding: chunked", b'a\r\n["cut", 1]\r\n'),
        ("Transfer-Encoding: chunked", b'14\r\n["cut", 1]'),
    ],
    ids=["length", "between chunks", "within a chunk"],
)
async def test_a_body_that_was_cut_off_is_not_taken_for_a_whole_one(server, client, framing, part):
    """What came would be a valid call."""
    api = client(server)
    count = len(server.events("request"))
    with connect(server) as connection:
        connection.sendall(head(server, "/rpc/open_account", framing) + part)
        await api.get("/health")
        connection.shutdown(socket.SHUT_WR)
        await asyncio.to_thread(connection.recv, 1)
    assert (await api.post("/rpc/open_account", json=["whole", 1], headers={"X-Request-Id": "after"})).status_code in (
        200,
        409,
    )
    assert await balance(server, "cut") is None
    statuses = {line["status"] for line in server.events("request")[count:] if line.get("function") == "open_account"}
    assert statuses <= {200, 400, 409}


async def test_a_body_that_does_not_come_is_not_waited_for(serve, client):
    """The caller is told so, and the connection is closed."""
    server = serve(modules=[IMPATIENT])
    assert (await client(server).post("/rpc/hurry", json=[])).status_code == 200
    with connect(server) as connection:
        connection.sendall(head(server, "/rpc/open_account", "Content-Length: 100") + b'["slow"')
        answer = await asyncio.to_thread(read_all, connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive within" in answer


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_the_largest_body_passes_and_one_byte_more_does_not(server, client, chunked):
    """With the whole of the answer, although the caller still sends."""
    api = client(server)

    async def send(size: int) -> httpx.Response:
        body = b'["' + b"x" * (size - 4) + b'"]'

        async def pieces():
            for start in range(0, len(body), 10_000):
                yield body[start : start + 10_000]

        return await api.post("/rpc/echo", content=pieces() if chunked else body)

    fits = await send(limits.BODY_BYTES)
    assert (fits.status_code, len(fits.json()["result"])) == (200, limits.BODY_BYTES - 4)
    over = await send(limits.BODY_BYTES + 1)
    assert (over.status_code, over.json()["error"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_200_calls_at_once_share_5_connections(server, client):
    """All are answered; the database never sees more connections than the pool may have."""
    api = client(server)
    sql = await asyncpg.connect(server.database_url)
    most = 0
    calls = [asyncio.create_task(api.post("/rpc/create_task", json=[f"task {n}"])) for n in range(200)]
    try:
        while not all(call.done() for call in calls):
            most = max(most, await sql.fetchval(IN_USE))
    finally:
        await sql.close()
    assert [call.result().status_code for call in calls] == [200] * 200
    assert len({call.result().json()["result"]["id"] for call in calls}) == 200
    assert 1 <= most <= 5


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (None, "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("nonsense", "127.0.0.1"),
    ],
)
async def test_the_callers_address_comes_from_trusted_proxies_alone(server, client, forwarded, address):
    """The loopback is trusted here: from the right, the first address that is no proxy."""
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    answer = await client(server).post("/rpc/client", json=[], headers=headers)
    assert answer.json()["result"] == address


async def test_a_stranger_cannot_choose_its_address(worker, client):
    """Without trusted proxies the header is nothing: sign-ups from one address are counted together."""
    api = client(worker)
    statuses = set()
    for number in range(limits.SIGN_UPS_PER_ADDRESS + 1):
        answer = await api.post("/auth/anonymous", headers={"X-Forwarded-For": f"203.0.{number // 250}.{number % 250}"})
        statuses.add(answer.status_code)
    assert statuses == {201, 429}


async def test_a_stream_that_nobody_reads_is_cut(server, client):
    """With what waits for it; the others go on."""
    api = client(server)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head(server, "/stream?table=tasks").replace(b"POST", b"GET"))
        assert b"event: ready" in await asyncio.to_thread(read_until, connection, b"event: ready")
        for _ in range(100):
            assert (await api.post("/rpc/flood", json=[1000])).status_code == 200
            if server.events("stream_cut"):
                break
        [cut] = server.events("stream_cut")
        assert cut["bytes"] < 4 * limits.STREAM_BACKLOG_BYTES
        await asyncio.to_thread(read_to_the_end, connection)


def read_to_the_end(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):  # reset: what was on its way is gone
        while connection.recv(65536):
            pass


def read_until(connection: socket.socket, text: bytes) -> bytes:
    data = b""
    while text not in data:
        data += connection.recv(4096)
    return data


async def test_headers_that_come_twice_are_one_with_commas(server):
    """As Workers join them: nothing is lost that a check would have looked at."""
    with connect(server) as connection:
        lines = ("Connection: close", "X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.2")
        connection.sendall(head(server, "/rpc/client", "Content-Length: 2", *lines) + b"[]")
        answer = await asyncio.to_thread(read_all, connection)
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["result"] == "203.0.113.2"


@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key", "X-Forwarded-For", "Content-Encoding"])
async def test_a_header_that_would_be_lost_is_refused(server, name):
    """A call without its key would be applied twice, one without its token be somebody else's; cookies are nobody's."""
    for header, status in ((name, b"400"), ("Cookie", b"200")):
        with connect(server) as connection:
            start = head(server, "/rpc/client", "Content-Length: 2", "Connection: close", f"{header}: LOST")
            if header == "Authorization":  # and no other one
                start = start.replace(b"authorization: Bearer", b"x-other: Bearer")
            connection.sendall(start.replace(b"LOST", b"a\xd7b") + b"[]")
            answer = await asyncio.to_thread(read_all, connection)
        assert answer.split()[1] == status, answer
    assert b"not ASCII" in answer or status == b"200"
