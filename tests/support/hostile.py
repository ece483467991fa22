"""Hostile requests, made from a seed: valid ones that were bent, and what no client of good will sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(frozen=True)
class Sent:
    """One request. ``token``: "good", "none" or the text of the header."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    token: str = "good"


class Text(str):
    """JSON text that is written as it is, valid or not."""

    __slots__ = ()


CALLS: dict[str, list[Any]] = {
    "create_task": ["a title"],
    "get_task": ["some-id"],
    "list_tasks": [None, 5, None],
    "toggle_task": ["some-id"],
    "rename_task": ["some-id", "a title"],
    "delete_task": ["some-id"],
    "open_account": ["acc", 5],
    "transfer": ["acc", "other", 1],
    "balance": ["acc"],
    "echo": [{"a": [1, 2.5, None, True, "x"]}],
    "put": ["odds", "key", {"n": 1, "note": "x", "anything": {"a": [1]}}],
    "put_odd": [{"id": "odd", "n": 1, "note": None}],
    "change": ["odds", "key", {"n": 2}],
    "find": ["odds", {"n": 1, "anything": {"a": [1]}}, "n", 5, None],
    "ask": ["odds", "SELECT id, data->>'n' AS n FROM odds WHERE id = $1 ORDER BY id", ["key"]],
    "past": ["odds", "key"],
    "shared_get": ["key"],
    "shared_set": ["key", {"a": 1}, 5],
    "shared_delete": ["key"],
    "shared_incr": ["count", 1, 60],
}

AUTH: dict[str, Any] = {
    "anonymous": None,
    "register": {"name": "name", "password": "correct horse"},
    "login": {"name": "name", "password": "correct horse"},
    "link": {"name": "name", "password": "correct horse"},
    "refresh": {"refresh_token": "a.b.c"},
    "logout": None,
    "me": None,
}

SQL = [
    "SELECT * FROM odds", "SELECT count(*) FROM odds", "SELECT pg_sleep(10) FROM odds", "DELETE FROM odds",
    "SELECT 1 FROM odds; DROP TABLE odds", "SELECT id FROM odds WHERE data @> '{", "SELECT $2 FROM odds", "SELECT",
    "SELECT ((((((((((((((((((((1", "SELECT data->'a'->0->>'b' FROM odds", "SELECT 1/0 FROM odds",
    "WITH x AS (SELECT 1) SELECT * FROM x", "SELECT id FROM odds WHERE id ~ '(a+)+$'", "\x00", "/*" * 50, "--",
    "SELECT 'a' || chr(0) FROM odds", "SELECT id FROM odds WHERE id = $1::int", "SELECT x.y.z.w FROM odds",
    "SELECT to_number(id, '9') FROM odds", "SELECT 1e999999 FROM odds", "SELECT U&'\\D800' FROM odds", "éé" * 100,
    "SELECT id FROM storage", "SELECT id FROM odds UNION SELECT id FROM tasks", "SELECT E'\\", "SELECT $$ FROM odds",
]  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.1, -0.0,
    Text("1e308"), Text("1e309"), Text("-1e-400"), Text("1E400"), Text("9" * 4300), Text("9" * 4301),
    Text("0." + "1" * 5000),
    Text("NaN"), Text("Infinity"), Text("-Infinity"), Text("undefined"), Text("01"), Text("+1"), Text(".5"), Text("1."),
    Text("'x'"), Text('"\\ud800"'), Text('"\\udc00\\ud800"'), Text('"\\ud83d\\ude00"'), Text('"\\x41"'),
    Text('"\\u00"'),
    Text('"a\nb"'), Text('"\t"'), Text('"unterminated'), Text("[1,]"), Text("{,}"), Text('{"a":1,"a":2}'),
    Text('{"a":1,"\\u0061":2}'), Text('{"a":{"b":1,"b":1}}'), Text("{a:1}"), Text("/* x */ 1"),
    Text("[" * 40 + "]" * 40),
    Text("[" * 5000), Text('{"a":' * 40 + "1" + "}" * 40), Text("\ufeff1"), Text(""), Text("nul"), Text("truee"),
    "", " ", "\x00", "\x01too old", "a\x00b", "\u2028", "\u202e", "é", "e\u0301", "😀", "\x7f",
    "'; DROP TABLE tasks; --",
    "../../etc/passwd", "%00", "${jndi:ldap://x}", "<script>", "x" * 512, "x" * 513, "ä" * 300, "x" * 70_000, "odds",
    "__users", "__system", "tenant-2/odds", "_owner", "id", "pin", "by", "__class__", "__proto__", "constructor", "$1",
    [], {}, [[]], [{}], {"": 1}, {"id": "other"}, {"id": 5}, {"__proto__": {"a": 1}}, {"$where": "1"}, {"pin": "1234"},
    {"by": "me"}, {"n": {"$gt": 0}}, {"a": {"b": {"c": [1, [2, [3]]]}}}, [0] * 1000, {str(n): n for n in range(300)},
]  # fmt: skip

BODIES = [
    b"", b" ", b"\x00", b"\xff", b"\xef\xbb\xbf[]", "[]".encode("utf-16"), b"[]" * 2, b"null", b"{}", b'"x"', b"5",
    b"[" * 100_000, b"{" * 100_000, b"]" * 1000, b'["' + b"x" * 100_000, b"[" + b"1," * 50_000 + b"1]",
    b'[{"' + b"k" * 30_000 + b'":[' + b"0," * 30_000 + b"0]}]", b"[]" * 33 + b'"' + b'\\"' * 100_000,
    b"[" + b'{"a":1},' * 10_000 + b"{}]", b'["\xed\xa0\x80"]', b'["\xc0\xaf"]', b"a=1&b=2", b"<xml/>",
    b"\x1f\x8b\x08\x00",
    b'[{"a":1}, {"a":1, "a":1}]', b"[1] [2]", b"[1]\n\x00", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
]  # fmt: skip

PATHS = [
    "/", "", "//", "/rpc", "/rpc/", "/rpc//", "//rpc/echo", "/rpc/../health", "/rpc/..%2fhealth", "/rpc/%2e%2e/health",
    "/rpc/./echo", "/rpc/echo/", "/rpc/echo%00", "/rpc/echo\x00", "/rpc/ec%68o", "/rpc/ECHO", "/rpc/echo;x", "/rpc/é",
    "/rpc/" + "a" * 128, "/rpc/" + "a" * 129, "/rpc/" + "a" * 10_000, "/rpc/__init__", "/rpc/a.b-c", "/RPC/echo",
    "/rpc\\echo", "/health/", "/health", "/ready", "/healthz", "/.env", "/.git/config", "/auth", "/auth/", "/auth/x",
    "/auth//login", "/auth/../rpc/echo", "/wp-admin", "/stream", "/stream/ticket", "/stream/", "/raystream/rpc",
    "/raystream/handshake", "/raystream/", "/.well-known/kontract", "/.well-known/", "/ui", "/rpc/echo?x=1", "*",
    "http://example.com/rpc/echo", "/%", "/%zz", "/\ud800", "/rpc/\u202e", "/ " + "x" * 100, "/rpc/echo\r\nX: y",
]  # fmt: skip

METHODS = ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "POST ", "X" * 100, ""]

HEADERS: dict[str, list[str]] = {
    "content-length": ["0", "-1", "9" * 30, "9" * 5000, "1e3", "\uff15", "5, 5", "", "x"],
    "content-type": ["text/plain", "application/xml", "x" * 5000, "multipart/form-data; boundary=x", "\x00"],
    "idempotency-key": ["", "a", "x" * 256, "a b", "a\r\nb", "é", "\x00", "same", "same", "same"],
    "x-request-id": ["ok", "", "x" * 65, "a\r\nX-Evil: 1", "<b>", "\ud800", "é"],
    "origin": ["null", "https://evil.example", "http://localhost", "\x00"],
    "transfer-encoding": ["chunked", "identity", "x"],
    "content-encoding": ["gzip", "br"],
    "x-forwarded-for": ["127.0.0.1", "x" * 1000],
    "cf-connecting-ip": ["127.0.0.1", "x", "::1"],
    "x-kontract-owner": ["tenant-2"],
    "x-http-method-override": ["DELETE"],
    "last-event-id": ["g1-1", "x" * 1000],
    "upgrade": ["websocket", "h2c"],
    "expect": ["100-continue"],
    "range": ["bytes=0-1"],
    "cookie": ["a=b; " * 100],
    "accept-encoding": ["gzip;q=x"],
    "if-none-match": ["*"],
}

TOKENS = [
    "none",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer a.b.c",
    "Basic eA==",
    "Bearer " + "x" * 5000,
    "",
    "\x00",
    "é",
]


def hostile(seed: int, count: int) -> Iterator[Sent]:
    """``count`` requests; the same seed always gives the same."""
    dice = Random(seed)
    for _ in range(count):
        yield _one(dice)


def _one(dice: Random) -> Sent:
    body: Any
    kind = dice.random()
    if kind < 0.70:
        function = dice.choice(list(CALLS))
        path, body = f"/rpc/{function}", _bent(dice, CALLS[function])
    elif kind < 0.85:
        way = dice.choice(list(AUTH))
        path, body = f"/auth/{way}", _bent(dice, AUTH[way])
    else:
        path, body = dice.choice(PATHS), _bent(dice, ["x"])
    text = dice.choice(BODIES) if dice.random() < 0.1 else _write(dice, body).encode(errors="surrogatepass")
    if dice.random() < 0.15:
        text = _mangled(dice, text)
    headers = {}
    while dice.random() < 0.3:
        name = dice.choice(list(HEADERS))
        headers[name] = dice.choice(HEADERS[name])
    method = "GET" if path.endswith("/me") else "POST"
    if dice.random() < 0.1:
        method = dice.choice(METHODS)
    token = dice.choice(TOKENS) if dice.random() < 0.15 else "good"
    return Sent(method, path, text, headers, token)


def _bent(dice: Random, value: Any) -> Any:
    """A copy with some of its parts replaced, doubled, removed or packed into others."""
    if dice.random() < 0.25:
        return value
    while True:
        value = _replaced(dice, value)
        if dice.random() < 0.6:
            return value


def _replaced(dice: Random, value: Any) -> Any:
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        match dice.randrange(8):
            case 0:
                return [*value[:at], *value[at + 1 :]]
            case 1:
                return [*value, dice.choice(VALUES)]
            case _:
                return [*value[:at], _replaced(dice, value[at]), *value[at + 1 :]]
    if isinstance(value, dict) and value and dice.random() < 0.8:
        name = dice.choice(list(value))
        match dice.randrange(6):
            case 0:
                return {key: item for key, item in value.items() if key != name}
            case 1:
                new = dice.choice([item for item in VALUES if type(item) is str])
                return value | {new: dice.choice(VALUES)}
            case _:
                return value | {name: _replaced(dice, value[name])}
    if isinstance(value, str) and value.startswith("SELECT"):
        return dice.choice(SQL)
    return dice.choice([[value], {"a": value}, *[dice.choice(VALUES) for _ in range(6)]])


def _write(dice: Random, value: Any) -> str:
    """JSON, with spaces where they may be and letters spelt in either way."""
    space = dice.choice(["", "", "", " ", "\n", "\t\r"])
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, dict):
        items = [f"{_write(dice, str(key))}{space}:{_write(dice, item)}" for key, item in value.items()]
        if items and dice.random() < 0.03:
            items.append(items[0])
        return f"{{{space}{','.join(items)}}}{space}"
    if isinstance(value, list):
        return f"[{space}{','.join(_write(dice, item) for item in value)}]{space}"
    return json.dumps(value, ensure_ascii=dice.random() < 0.5)


def _mangled(dice: Random, text: bytes) -> bytes:
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(text) + 1)
        match dice.randrange(4):
            case 0:
                text = text[:at] + bytes([dice.randrange(256)]) + text[at + 1 :]
            case 1:
                text = text[:at] + bytes([dice.randrange(256)]) + text[at:]
            case 2:
                text = text[:at]
            case _:
                text = text[:at] + text[at + dice.randint(1, 4) :]
    return text
