"""Headers with bytes that servers read in different ways: refused where the gateway reads them, wherever it runs."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from support.raw import exchange
from support.sessions import bearer_for

TITLE = "by a header of any bytes"

READ = [b"Authorization", b"Idempotency-Key", b"X-Forwarded-For", b"Content-Type", b"Origin", b"X-Request-Id"]


def call(worker, *lines: bytes, bearer: bool = True):
    """Call create_task with more lines in the head."""
    body = json.dumps([TITLE]).encode()
    token = b"Authorization: " + bearer_for(worker)["authorization"].encode()
    first = [b"POST /rpc/create_task HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *([token] if bearer else [])]
    return exchange(worker.port, b"\r\n".join([*first, b"Content-Length: %d" % len(body), *lines, b"", body]))


async def written(worker) -> int:
    connection = await asyncpg.connect(worker.database_url)
    try:
        return await connection.fetchval("SELECT count(*) FROM tbl_tasks_5f0c1d WHERE data->>'title' = $1", TITLE)
    finally:
        await connection.close()


@pytest.mark.parametrize("value", [b"key-caf\xe9-0123456789", b"key-caf\xc3\xa9-0123456789", b"\xff", b"a\x80b"])
async def test_they_are_refused_with_the_name_of_the_header(worker, value):
    """400, and the function is not called: one server drops such a header, the next takes it for a key."""
    before = await written(worker)
    for name in READ:
        said = await asyncio.to_thread(call, worker, name + b": " + value, bearer=name != b"Authorization")
        assert said.status == 400, name
        answer = json.loads(said.answers[0].body)
        assert answer["error"] == "INVALID_REQUEST"
        assert name.decode().lower() in answer["message"]
    assert await written(worker) == before


async def test_those_that_nobody_reads_are_nobodys_business(worker):
    """A cookie of somebody else's, or a name with an accent, is no reason to refuse."""
    said = await asyncio.to_thread(call, worker, b"X-Name: J\xf6rg", b"Cookie: a=\xc3\xa9", b"X-Tab: a\tb")
    assert said.status == 200


async def test_two_keys_are_none(worker):
    """Nobody can tell which of them counts: neither the one nor the other, on no platform."""
    before = await written(worker)
    lines = (b"Idempotency-Key: key-one-0123456789", b"Idempotency-Key: key-two-0123456789")
    said = await asyncio.to_thread(call, worker, *lines)
    assert said.status == 400
    assert await written(worker) == before


async def test_two_tokens_are_none(worker):
    token = b"Authorization: " + bearer_for(worker)["authorization"].encode()
    said = await asyncio.to_thread(call, worker, token)
    assert said.status in (400, 401)
