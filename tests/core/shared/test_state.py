"""Shared values: one contract for what keeps them in memory and for what keeps them in SQLite."""

from __future__ import annotations

import random
import sqlite3
import types
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from kontract.cloudflare.shared import SqliteRows
from kontract.core import limits
from kontract.core.shared.state import (
    DictRows,
    SharedDelete,
    SharedGet,
    SharedIncr,
    SharedRefused,
    SharedSet,
    SharedState,
    SharedValue,
    decode_answer,
    decode_request,
    encode,
)

NOW = 1_800_000_000_000


class JavaScriptNull:
    """What JavaScript's null is in Python: not None, and true or false as it likes."""

    def __bool__(self) -> bool:
        return False


class Sql:
    """``ctx.storage.sql`` over Python's SQLite. ``null`` is what it answers for NULL."""

    def __init__(self, path: str = ":memory:", null: Any = None) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.null = null

    def exec(self, statement: str, *params: Any) -> Any:
        rows = [[self.null if v is None else v for v in row] for row in self.connection.execute(statement, params)]
        return types.SimpleNamespace(raw=lambda: types.SimpleNamespace(toArray=lambda: rows))


@pytest.fixture(params=["dict", "sqlite", "sqlite, null is an object"])
def rows(request):
    if request.param == "dict":
        yield DictRows()
        return
    sql = Sql(null=None if request.param == "sqlite" else JavaScriptNull())
    yield SqliteRows(sql)
    sql.connection.close()


@pytest.fixture
def state(rows) -> SharedState:
    return SharedState(rows)


def value(answer: Any) -> Any:
    assert isinstance(answer, SharedValue), answer
    return msgspec.json.decode(answer.value)


def put(state: SharedState, key: str, it: Any, ttl_ms: int | None = None, now: int = NOW) -> Any:
    return value(state.handle(SharedSet(key, Raw(msgspec.json.encode(it)), ttl_ms), now))


def get(state: SharedState, key: str, now: int = NOW) -> Any:
    return value(state.handle(SharedGet(key), now))


@pytest.mark.parametrize(
    "it", ["text", "", 0, -1, 2**53, 1.5, True, False, [], {}, {"a": [1, {"b": None}]}, "ä\n\x00😀"]
)
def test_what_is_kept_is_given_back(state, it):
    """JSON of any shape, as it was."""
    assert put(state, "k", it) == it
    assert get(state, "k") == it
    assert put(state, "k", "another") == get(state, "k") == "another"


def test_nothing(state):
    """A key that is not there, was deleted, or was never anything."""
    assert get(state, "k") is None
    assert value(state.handle(SharedDelete("k"), NOW)) is None
    put(state, "k", 1)
    assert value(state.handle(SharedDelete("k"), NOW)) == 1
    assert get(state, "k") is None
    assert value(state.handle(SharedDelete("k"), NOW)) is None


def test_a_value_ends_when_its_time_has_come(state):
    """To the millisecond; what has no time to live stays, also when it once had one."""
    put(state, "k", 1, ttl_ms=1000)
    for later, there in ((0, True), (999, True), (1000, False), (5000, False)):
        assert (get(state, "k", NOW + later) is not None) is there
    answer = state.handle(SharedGet("k"), NOW + 400)
    assert answer.ttl_ms == 600
    assert value(state.handle(SharedDelete("k"), NOW + 2000)) is None, "what has ended was not there to be deleted"
    put(state, "k", 1, ttl_ms=1000)
    put(state, "k", 2)
    assert get(state, "k", NOW + 10**12) == 2
    assert state.handle(SharedGet("k"), NOW).ttl_ms is None


def test_counting(state):
    """From nothing; the time to live is that of the first, and then it begins anew."""

    def incr(by: int = 1, ttl_ms: int | None = None, now: int = NOW) -> Any:
        return state.handle(SharedIncr("n", by, ttl_ms), now)

    assert [value(incr()), value(incr(5)), value(incr(-10)), value(incr(0))] == [1, 6, -4, -4]
    assert incr().ttl_ms is None
    state.handle(SharedDelete("n"), NOW)
    assert incr(1, 1000).ttl_ms == 1000
    assert incr(1, 5000, NOW + 400).ttl_ms == 600
    assert value(incr(1, 5000, NOW + 999)) == 3
    again = incr(1, 5000, NOW + 1000)
    assert (value(again), again.ttl_ms) == (1, 5000)


@pytest.mark.parametrize("it", ["1", 1.0, True, [1], {"n": 1}])
def test_what_cannot_be_counted(state, it):
    """Refused with a reason, and left as it is."""
    put(state, "n", it)
    refused = state.handle(SharedIncr("n"), NOW)
    assert isinstance(refused, SharedRefused)
    assert "is not a whole number" in refused.reason
    assert get(state, "n") == it


def test_counters_stay_exact(state):
    """Below 2**53 in either direction: every language reads them alike."""
    top = limits.SHARED_INTEGER - 1
    assert value(state.handle(SharedIncr("n", top), NOW)) == top
    assert isinstance(state.handle(SharedIncr("n", 1), NOW), SharedRefused)
    assert value(state.handle(SharedIncr("n", -2 * top), NOW)) == -top
    assert isinstance(state.handle(SharedIncr("n", -1), NOW), SharedRefused)
    assert get(state, "n") == -top


def test_there_is_room_for_so_many(state, rows, monkeypatch):
    """At the limit what is there can be changed; one more is refused, until something goes or ends."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 3)
    for key in ("a", "b"):
        put(state, key, 1)
    state.handle(SharedIncr("c", 1, 1000), NOW)
    for refused in (state.handle(SharedSet("d", Raw(b"1")), NOW), state.handle(SharedIncr("d"), NOW)):
        assert isinstance(refused, SharedRefused)
        assert "there are already 3 shared values" in refused.reason
    assert (put(state, "a", 2), value(state.handle(SharedIncr("c"), NOW)), rows.count()) == (2, 2, 3)
    state.handle(SharedDelete("a"), NOW)
    assert put(state, "d", 1) == 1
    assert isinstance(state.handle(SharedIncr("e"), NOW + 999), SharedRefused)
    assert value(state.handle(SharedIncr("e"), NOW + 1000)) == 1, "what has ended makes room at once"
    assert (rows.count(), get(state, "c", NOW + 1000)) == (3, None)


def test_what_has_ended_is_removed_now_and_then(state, rows):
    """With any request, once in SHARED_EXPIRY_MS; nothing else is."""
    get(state, "x")
    for n in range(5):
        put(state, f"k{n}", n, ttl_ms=1000 if n < 3 else None)
    get(state, "x", NOW + limits.SHARED_EXPIRY_MS - 1)
    assert rows.count() == 5
    get(state, "x", NOW + limits.SHARED_EXPIRY_MS)
    assert rows.count() == 2
    assert [get(state, f"k{n}", NOW + limits.SHARED_EXPIRY_MS) for n in range(5)] == [None, None, None, 3, 4]


def test_random_requests_mean_the_same_everywhere(rows, monkeypatch):
    """A thousand of them against the simplest model there is."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 6)
    dice, state, model, now = random.Random(7), SharedState(rows), {}, NOW
    for _ in range(1000):
        now += dice.randrange(200)
        model = {key: kept for key, kept in model.items() if kept[1] is None or kept[1] > now}
        key, ttl = f"k{dice.randrange(9)}", dice.choice([None, 100, 5000])
        known, full = model.get(key), key not in model and len(model) >= 6
        match dice.choice(["get", "set", "delete", "incr"]):
            case "get":
                assert get(state, key, now) == (known[0] if known else None)
            case "set":
                it = dice.choice([1, "x", [1]])
                answer = state.handle(SharedSet(key, Raw(msgspec.json.encode(it)), ttl), now)
                assert isinstance(answer, SharedRefused) is full
                if not full:
                    model[key] = (it, None if ttl is None else now + ttl)
            case "delete":
                assert value(state.handle(SharedDelete(key), now)) == (known[0] if known else None)
                model.pop(key, None)
            case "incr":
                answer = state.handle(SharedIncr(key, 2, ttl), now)
                countable = known is None or type(known[0]) is int
                assert isinstance(answer, SharedRefused) is (full or not countable)
                if not full and countable:
                    until = known[1] if known else None if ttl is None else now + ttl
                    model[key] = ((known[0] if known else 0) + 2, until)
                    assert (value(answer), answer.ttl_ms) == (model[key][0], None if until is None else until - now)


def test_sqlite_counts_what_was_there_before(tmp_path):
    """An object that starts again finds its values, and knows how many there are."""
    path = str(tmp_path / "object")
    first = Sql(path, JavaScriptNull())
    put(SharedState(SqliteRows(first)), "a", 1)
    put(SharedState(SqliteRows(first)), "b", 2, ttl_ms=1000)
    first.connection.close()
    second = Sql(path, JavaScriptNull())
    rows = SqliteRows(second)
    assert (rows.count(), rows.get("a"), rows.get("b")) == (2, ("1", None), ("2", NOW + 1000))
    second.connection.close()


def test_messages_travel_as_they_are():
    """Between the worker and the object everything is text."""
    requests = [SharedGet("k"), SharedSet("k", Raw(b'{"a":1}'), 5), SharedDelete("k"), SharedIncr("k", -3, 7)]
    assert [decode_request(encode(request)) for request in requests] == requests
    answers = [SharedValue(), SharedValue(Raw(b"1"), 5), SharedRefused("why")]
    assert [decode_answer(encode(answer)) for answer in answers] == answers
