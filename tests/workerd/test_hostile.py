"""Bytes that no client of good will sends, on sockets to the real Worker: none of them does harm or meets a defect.

In front of the Worker stands the development server, and in front of a deployed one Cloudflare; what they refuse never
comes to the gateway, and how they say it is their affair. What does come must be answered as always, be one request and
not two, and leave no error of ours in the log.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import asyncpg
import pytest

from kontract.cli.toolchain.wrangler import DevServer
from support.hostile import Sent, hostile
from support.raw import Answer, Answered, exchange
from support.sessions import bearer_for

LEAKS = (b"Traceback", b"/session/")  # the second is where a Worker's modules are

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def head(worker: DevServer, path: str, headers: bytes = b"", method: str = "POST") -> bytes:
    """A request up to its body."""
    token = bearer_for(worker)["authorization"].encode()
    first = f"{method} {path} HTTP/1.1\r\n".encode()
    return first + b"Host: 127.0.0.1\r\nAuthorization: " + token + b"\r\n" + headers + b"\r\n"


def argument(title: str) -> bytes:
    return json.dumps([title]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def titles(worker: DevServer, like: str) -> list[str]:
    """What was written: the database knows."""

    async def read() -> list[str]:
        connection = await asyncpg.connect(worker.database_url)
        try:
            rows = await connection.fetch(
                "SELECT data->>'title' FROM tbl_tasks_5f0c1d WHERE data->>'title' LIKE $1 ORDER BY 1", like
            )
        finally:
            await connection.close()
        return [row[0] for row in rows]

    return asyncio.run(read())


def defects(worker: DevServer) -> set[str]:
    """The ids of requests that were logged as errors of ours."""
    found = set()
    for line in worker.log_text().splitlines():
        if line.startswith('{"level":"error"'):
            with_id = json.loads(line)
            found.add(f"{with_id.get('request_id')}: {with_id.get('reason')} {with_id.get('exception', '')[-300:]}")
    return {one for one in found if "does not answer" not in one}  # a busy machine


@pytest.fixture(autouse=True)
def unharmed(worker: DevServer):
    """After each test: the Worker answers as before, to everybody the right thing, and has nothing to complain of."""
    before = defects(worker)
    yield
    for _ in range(3):
        said = exchange(worker.port, head(worker, "/health", b"Connection: close\r\n", "GET"))
        assert [json.loads(answer.body)["status"] for answer in said.answers] == ["ok"]
    body = argument("good will")
    sent = b"Connection: close\r\nContent-Length: %d\r\n" % len(body)
    said = exchange(worker.port, head(worker, "/rpc/create_task", sent) + body)
    assert json.loads(said.answers[0].body)["result"]["title"] == "good will"
    assert defects(worker) - before == set()


def check(said: Answered) -> list[str]:
    """What is wrong with answers."""
    wrong = [f"{leak!r} in {answer.body!r:.300}" for answer in said.answers for leak in LEAKS if leak in answer.body]
    for answer in said.answers:
        if answer.is_ours:
            wrong += _form(answer)
    return wrong


def _form(answer: Answer) -> list[str]:
    if answer.status == 500:
        return [f"500: {answer.body!r:.300}"]
    if answer.status >= 400 and answer.body:
        body = json.loads(answer.body)
        if not {"error", "message", "request_id"} <= set(body) <= {"error", "message", "request_id", "details"}:
            return [f"an error without its form: {answer.body!r:.300}"]
    return []


# --- where one request ends and the next begins ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("two lengths", b"Content-Length: {n}\r\nContent-Length: {more}\r\n"),
        ("two lengths in one", b"Content-Length: {n}, {more}\r\n"),
        ("a negative length", b"Content-Length: -{n}\r\n"),
        ("a length with a sign", b"Content-Length: +{n}\r\n"),
        ("a hexadecimal length", b"Content-Length: 0x{n}\r\n"),
        ("a length beyond all numbers", b"Content-Length: 99999999999999999999{n}\r\n"),
        ("a length with a space before its colon", b"Content-Length : {n}\r\n"),
        (
            "a length in the folded line of another header",
            b"X-A: b\r\n Content-Length: {more}\r\nContent-Length: {n}\r\n",
        ),
        ("a folded encoding", b"Transfer-Encoding:\r\n chunked\r\nContent-Length: {n}\r\n"),
        ("an encoding that is none", b"Transfer-Encoding: xchunked\r\n"),
        ("an encoding with a space before its colon", b"Transfer-Encoding : chunked\r\nContent-Length: {n}\r\n"),
        ("an encoding after a vertical tab", b"Transfer-Encoding: \x0bchunked\r\nContent-Length: {n}\r\n"),
    ],
)
def test_a_length_that_can_be_read_in_two_ways_is_refused(worker, name, headers):
    """400 before anything is done: two servers in a row must not disagree on where the next request begins."""
    body = argument(f"refused {name}")
    inner = argument(f"smuggled {name}")
    second = head(worker, "/rpc/create_task", b"Content-Length: %d\r\n" % len(inner)) + inner
    sizes = {b"{n}": len(body), b"{more}": len(body) + len(second)}
    for field, size in sizes.items():
        headers = headers.replace(field, b"%d" % size)
    said = exchange(worker.port, head(worker, "/rpc/create_task", headers) + body + second, ends=True)
    assert [answer.status for answer in said.answers] == [400]
    assert check(said) == []
    assert titles(worker, f"% {name}") == []


@pytest.mark.parametrize("first", ["length", "encoding"])
def test_with_both_a_length_and_chunks_nothing_is_smuggled(worker, first):
    """RFC 9112, 6.3: chunks win and the connection is closed, or the request is refused. What follows is not done."""
    inner = argument(f"smuggled behind {first}")
    second = head(worker, "/rpc/create_task", b"Content-Length: %d\r\n" % len(inner)) + inner
    if first == "length":  # whoever believes the length takes the second request for a part of the body
        body = chunk(argument("outer")) + b"0\r\n\r\n"
        headers = b"Content-Length: %d\r\n" % (len(body) + len(second)) + CHUNKED
    else:  # whoever believes the length sees the second request begin within a chunk
        body = chunk(argument("outer")) + b"0\r\n\r\n"
        headers = CHUNKED + b"Content-Length: 3\r\n"
    said = exchange(worker.port, head(worker, "/rpc/create_task", headers) + body + second)
    assert len(said.answers) == 1
    assert said.status in (200, 400)
    assert check(said) == []
    assert titles(worker, "smuggled behind %") == []


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n[]\r\n0\r\n\r\n",
        b"-1\r\n",
        b"5\r\n[]",
        b"ffffffffffffffffffff\r\n[]",
        b"2\r\n[]0\r\n\r\n",
        b"",
        b"2\r\n",
    ],
)
def test_chunks_that_are_none_are_nobodys_defect(worker, body):
    """Broken or cut off in the middle: the call is not made, and the log has no traceback of it."""
    said = exchange(worker.port, head(worker, "/rpc/total", CHUNKED) + body, ends=True)
    assert 200 not in [answer.status for answer in said.answers]
    assert check(said) == []


def test_a_body_that_ends_early_is_not_taken_for_a_whole_one(worker):
    """Its beginning would be valid by itself; the caller has left in the middle of something longer."""
    body = argument("half of it")
    said = exchange(worker.port, head(worker, "/rpc/create_task", b"Content-Length: 500\r\n") + body, ends=True)
    assert 200 not in [answer.status for answer in said.answers]
    assert titles(worker, "half of it") == []


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"X-A: a\x00b",
        b"X-A: a\rb",
        b"X A: 1",
        b": 1",
        b"X-A",
        b"X-\xe9: 1",
        b"\x00: 1",
        b"X-A: 1\r\n\tfolded",
        b"X\x7f: 1",
    ],
)
def test_headers_that_are_none_are_refused(worker, line):
    """400, and the function is not called."""
    body = argument("by a bad header")
    sent = line + b"\r\nContent-Length: %d\r\nConnection: close\r\n" % len(body)
    said = exchange(worker.port, head(worker, "/rpc/create_task", sent) + body, ends=True)
    assert [answer.status for answer in said.answers] == [400]
    assert check(said) == []
    assert titles(worker, "by a bad header") == []


@pytest.mark.parametrize("value", [b"\xff\xfe", b"\xc3\xa9", "😀".encode(), b"a" * 60_000, b"\x01", b"\t a \t"])
def test_headers_of_any_bytes_are_values(worker, value):
    """Odd ones are no reason to fail: the call is answered, or refused, but never a defect."""
    for name in (b"X-Request-Id", b"Idempotency-Key", b"Authorization", b"Origin", b"Content-Type", b"Cookie"):
        sent = name + b": " + value + b"\r\nContent-Length: 2\r\nConnection: close\r\n"
        said = exchange(worker.port, head(worker, "/rpc/total", sent) + b"[]")
        assert said.status in (200, 400, 401, 431), (name, said)
        assert check(said) == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/rpc%2ftotal", 404), ("/rpc/%2e%2e%2fhealth", 404), ("/rpc/total%00", 404), ("/rpc/total%2f", 404),
        ("/rpc/%74otal", 404), ("/rpc//total", 404), ("//rpc/total", 404), ("/rpc/total/", 404), ("/rpc/TOTAL", 404),
        ("/rpc/total;a=b", 404), ("/rpc/total%0d%0aX-A:b", 404), ("/rpc/%ff%fe", 404), ("/rpc/%u0074otal", 404),
        ("/rpc/%", 404), ("/rpc/" + "a" * 4000, 404), ("/" + "a/" * 4000, 404), ("/rpc/total?" + "a=b&" * 2000, 200),
        # A URL is read as browsers read it before anybody sees its path.
        ("/auth/../rpc/./total", 200), ("/rpc/x/%2e%2e/total", 200), ("/rpc\\total", 200), ("/rpc/total#/health", 200),
    ],
)  # fmt: skip
def test_a_path_is_one_thing_or_nothing(worker, path, status):
    """Encoded slashes, dots, NUL and long ones do not lead to a function by a back door, nor to a file of the disk."""
    said = exchange(worker.port, head(worker, path, b"Content-Length: 2\r\nConnection: close\r\n") + b"[]")
    assert said.status == status
    assert check(said) == []


@pytest.mark.parametrize("path", ["/rpc/\x00", "/\x01", "/rpc/a b", "/" + "a" * 70_000, "/" + "a" * 700_000, ""])
def test_paths_that_are_none_are_refused(worker, path):
    """4xx, however long; or the connection is cut while they are still being sent, and the answer with it."""
    said = exchange(worker.port, head(worker, path, b"Content-Length: 2\r\nConnection: close\r\n") + b"[]", ends=True)
    assert said.status == 0 or 400 <= said.status < 500
    assert check(said) == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "REPORT"])
def test_another_method_is_told_the_right_one(worker, method):
    """405 with Allow, and nothing is done."""
    body = argument(f"by {method}")
    sent = b"Content-Length: %d\r\nConnection: close\r\n" % len(body)
    if method == "HEAD":  # its answer has the headers of a body, and none
        sent, body = b"Connection: close\r\n", b""
    said = exchange(worker.port, head(worker, "/rpc/create_task", sent, method) + body)
    assert said.status == 405
    assert said.answers[0].headers["allow"] == "POST, OPTIONS"
    assert check(said) == []
    assert titles(worker, f"by {method}") == []


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n", b"\x00" * 100, b"GET\r\n\r\n", b"GET /health HTTP/9.9\r\n\r\n", b"BREW /health HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://[::1/health HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"A" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_of_ours(worker, data):
    """Other protocols and garbage: refused or cut off by whoever is in front, and everybody else is served on."""
    assert check(exchange(worker.port, data, ends=True)) == []


# --- everything at once ----------------------------------------------------------------------------------------------


def written(worker: DevServer, sent: Sent) -> tuple[bytes, bool]:
    """A hostile request as bytes, and whether its end can be told only by the end of the connection."""
    lines = [f"{sent.method} {sent.path or '/'} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    fields = dict(sent.headers)
    if sent.token != "none":
        good = bearer_for(worker, anonymous=True)["authorization"]
        fields["authorization"] = good if sent.token == "good" else sent.token
    framed = bool({"content-length", "transfer-encoding"} & set(fields))
    if not framed:
        fields["content-length"] = str(len(sent.body))
    lines += [f"{name}: {value}" for name, value in fields.items()]
    odd = framed or any(letter in sent.path + sent.method for letter in " \r\n\x00") or not sent.method
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + sent.body, odd


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(4))
def test_fifty_hostile_requests(worker, seed):
    """Valid calls that were bent, broken JSON, odd heads: each answered or cut off, none a defect of ours."""
    statuses: Counter[int] = Counter()
    for number, sent in enumerate(hostile(1000 + seed, 50)):
        data, ends = written(worker, sent)
        said = exchange(worker.port, data, ends=ends)
        assert check(said) == [], f"seed {seed}, request {number}: {sent!r:.1500}"
        statuses.update(answer.status for answer in said.answers if answer.is_ours)
    print(seed, dict(sorted(statuses.items())))
    assert min(statuses) < 300, "they get as far as answers"
    assert {400, 404} <= set(statuses)
