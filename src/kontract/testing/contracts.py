"""Contracts for your own TiKV client, key-value store or shared state, as plain functions.

Each is an async function that takes the object and raises AssertionError if something is wrong. With pytest:

    import pytest
    from kontract.testing import contracts

    @pytest.mark.parametrize("case", contracts.TIKV_CLIENT, ids=contracts.name)
    async def test_my_client(case):
        await case(MyClient("pd-1:2379"))

They use unique keys (and owners), so they may run against a cluster in use, any number of times. They leave a few
hundred small values behind.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from kontract.core import limits
from kontract.core.shared.state import (
    DictRows,
    SharedAnswer,
    SharedCount,
    SharedDelete,
    SharedGet,
    SharedIncr,
    SharedRefused,
    SharedRequest,
    SharedSet,
    SharedState,
    SharedValue,
)
from kontract.ports import DOStub, KVStore
from kontract.server.tikv import AtomicTiKVClient, TiKVClient

Nodes: TypeAlias = Sequence[Callable[[str], DOStub]]
"""A shared state as several nodes see it: each node is a function from an owner to its state. One node is enough."""

ODD_TEXTS = ("", " ", "a/b", "../a", "%00", "ä", "😀", "\x7f", '"', "\\", "x" * 400)

HOUR_MS = 3_600_000


def name(case: Callable[..., Any]) -> str:
    """Return the name of a case, for ``ids=`` of pytest."""
    return case.__name__


def _fresh() -> str:
    return f"contract-{secrets.token_hex(8)}/"


# --- TiKVClient ------------------------------------------------------------------------------------------------------


async def values_are_kept(client: TiKVClient) -> None:
    """A value exists unchanged as soon as ``put`` returns, only under its key, and is gone after ``delete``."""
    prefix = _fresh()
    texts = {prefix + text: f"value of {text!r}" for text in ODD_TEXTS}
    for key, value in texts.items():
        assert await client.get(key) is None, f"{key!r} is there before it was put"
        await client.put(key, value)
    for key, value in texts.items():
        assert await client.get(key) == value
    first = next(iter(texts))
    for value in ("", "another", "ä\n\x00😀", "x" * limits.SHARED_VALUE_BYTES):
        await client.put(first, value)
        assert await client.get(first) == value, "the last value that was put is the one to get, the empty one, too"
    for key in texts:
        await client.delete(key)
        assert await client.get(key) is None
        await client.delete(key)  # what is not there can be deleted


async def scans_are_ordered(client: TiKVClient) -> None:
    """``scan`` returns exactly the keys with a prefix, in order, up to the limit."""
    prefix = _fresh()
    keys = [f"{prefix}a/{n:03}" for n in range(300)]
    beside = [prefix, f"{prefix}a", f"{prefix}a.", f"{prefix}a0", f"{prefix}b"]
    for start in range(0, len(keys), 50):
        await asyncio.gather(*[client.put(key, key[-3:]) for key in keys[start : start + 50]])
    for key in beside:
        await client.put(key, "beside")
    found = await client.scan(f"{prefix}a/", 1000)
    assert [(pair.key, pair.value) for pair in found] == [(key, key[-3:]) for key in keys]
    for limit in (1, 150, 300):
        assert [pair.key for pair in await client.scan(f"{prefix}a/", limit)] == keys[:limit]
    assert [pair.key for pair in await client.scan(prefix, 1000)] == sorted([*keys, *beside], key=str.encode)
    assert list(await client.scan(prefix + "none", 10)) == []
    await asyncio.gather(*[client.delete(key) for key in [*keys, *beside]])
    assert list(await client.scan(prefix, 10)) == []


async def calls_may_overlap(client: TiKVClient) -> None:
    """A hundred tasks can use one client at once, and none gets another's answer."""
    prefix = _fresh()

    async def one(n: int) -> None:
        await client.put(f"{prefix}{n}", str(n))
        assert await client.get(f"{prefix}{n}") == str(n)
        await client.delete(f"{prefix}{n}")

    await asyncio.gather(*[one(n) for n in range(100)])


async def swaps_compare(client: AtomicTiKVClient) -> None:
    """``compare_and_swap`` changes a value only if it is as expected, and returns the previous one."""
    key = _fresh()
    assert await client.compare_and_swap(key, "nothing", "new") == (False, None)
    assert await client.get(key) is None
    assert await client.compare_and_swap(key, None, "") == (True, None)
    assert await client.compare_and_swap(key, None, "new") == (False, ""), "the empty text is a value"
    assert (await client.compare_and_swap(key, "", "new"))[0]
    assert await client.compare_and_swap(key, "old", "newer") == (False, "new")
    assert (await client.compare_and_swap(key, "new", "new"))[0]
    await client.put(key, "put")
    assert (await client.compare_and_swap(key, "put", "swapped", HOUR_MS / 1000))[0]
    assert await client.get(key) == "swapped"
    await client.delete(key)
    assert await client.compare_and_swap(key, "swapped", "new") == (False, None)


async def one_swap_wins(client: AtomicTiKVClient) -> None:
    """Of swaps that expect the same value, one succeeds; the others get what it wrote."""
    for expected in (None, "before"):
        key = _fresh()
        if expected is not None:
            await client.put(key, expected)
        answers = await asyncio.gather(*[client.compare_and_swap(key, expected, str(n)) for n in range(30)])
        winners = [n for n, (done, _) in enumerate(answers) if done]
        assert len(winners) == 1, f"{len(winners)} of 30 swaps succeeded"
        assert await client.get(key) == str(winners[0])
        assert {before for done, before in answers if not done} == {str(winners[0])}
        await client.delete(key)


async def swaps_add_up(client: AtomicTiKVClient) -> None:
    """Twenty tasks that count by swapping lose no count."""
    key = _fresh()
    await client.put(key, "0")

    async def count() -> None:
        current = await client.get(key)
        while True:
            assert current is not None
            done, current = await client.compare_and_swap(key, current, str(int(current) + 1))
            if done:
                return

    await asyncio.gather(*[count() for _ in range(20)])
    assert await client.get(key) == "20"
    await client.delete(key)


TIKV_CLIENT: tuple[Callable[[TiKVClient], Awaitable[None]], ...] = (
    values_are_kept,
    scans_are_ordered,
    calls_may_overlap,
)
"""Cases for the four methods of TiKVClient."""

ATOMIC_TIKV_CLIENT: tuple[Callable[[AtomicTiKVClient], Awaitable[None]], ...] = (
    swaps_compare,
    one_swap_wins,
    swaps_add_up,
)
"""Additional cases for a client that can compare and swap."""


# --- KVStore ---------------------------------------------------------------------------------------------------------


async def copies_are_found(store: KVStore) -> None:
    """Eventually a stored value can be read, and a deleted one is gone."""
    prefix = _fresh()
    for number, text in enumerate(ODD_TEXTS):
        key = prefix + text
        assert await store.get(key) is None
        for value in (f"first {number}", f'{{"n": {number}}}'):
            await store.put(key, value, 3600 if number % 2 else None)
            await _eventually(store.get, key, value)
    for text in ODD_TEXTS:
        await store.delete(prefix + text)
        await _eventually(store.get, prefix + text, None)
        await store.delete(prefix + text)


async def copies_end(store: KVStore) -> None:
    """Eventually a copy with a time to live expires."""
    key = _fresh()
    await store.put(key, "short", 1)
    await _eventually(store.get, key, None)
    await store.put(key, "long")
    await _eventually(store.get, key, "long")
    await store.delete(key)


async def _eventually(get: Callable[[str], Awaitable[str | None]], key: str, expected: str | None) -> None:
    # It polls for as long as the caller waits: nothing announces the change.
    while await get(key) != expected:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


KV_STORE: tuple[Callable[[KVStore], Awaitable[None]], ...] = (copies_are_found, copies_end)


# --- DOStub ----------------------------------------------------------------------------------------------------------


def _value(answer: SharedAnswer) -> Any:
    assert isinstance(answer, SharedValue), answer
    return msgspec.json.decode(answer.value)


def _put(key: str, value: Any, ttl_ms: int | None = None) -> SharedSet:
    return SharedSet(key, Raw(msgspec.json.encode(value)), ttl_ms)


async def shared_values_are_kept(nodes: Nodes) -> None:
    """Every node returns any JSON value unchanged as soon as ``set`` has answered."""
    owner = _fresh()
    values = ["text", "", 0, -1, 2**53, 1.5, True, False, [], {}, {"a": [1, {"b": None}]}, "ä\n\x00😀", "x" * 65_000]
    for number, value in enumerate(values):
        writer = nodes[number % len(nodes)](owner)
        assert _value(await writer.shared(_put("k", value))) == value
        for node in nodes:
            answer = await node(owner).shared(SharedGet("k"))
            assert _value(answer) == value
            assert isinstance(answer, SharedValue)
            assert answer.ttl_ms is None


async def shared_values_are_deleted(nodes: Nodes) -> None:
    """``delete`` reports once, to one caller, that a value was there."""
    owner = _fresh()
    first, last = nodes[0](owner), nodes[-1](owner)
    assert _value(await first.shared(SharedDelete("k"))) is None
    await first.shared(_put("k", 1))
    assert _value(await last.shared(SharedDelete("k"))) == 1
    assert _value(await first.shared(SharedGet("k"))) is None
    assert _value(await first.shared(SharedDelete("k"))) is None
    await last.shared(_put("k", 2))
    told = await asyncio.gather(*[nodes[n % len(nodes)](owner).shared(SharedDelete("k")) for n in range(10)])
    assert sorted(map(_value, told), key=str) == [2, *[None] * 9]
    assert _value(await first.shared(SharedIncr("k"))) == 1, "what was deleted counts from nothing"


async def shared_keys_are_apart(nodes: Nodes) -> None:
    """Keys and owners are separate, whatever their names."""
    base = _fresh()
    owners = [base + text for text in ("a", "a/b", "1:a", "a/1:b/", "ä", "")]
    keys = [text for text in ODD_TEXTS if text] + ["b", "b/c"]
    for number, (owner, key) in enumerate((owner, key) for owner in owners for key in keys):
        await nodes[number % len(nodes)](owner).shared(_put(key, [owner, key]))
    for owner in owners:
        for key in keys:
            assert _value(await nodes[0](owner).shared(SharedGet(key))) == [owner, key]


async def shared_counts(nodes: Nodes) -> None:
    """``incr`` starts at nothing, keeps the first time to live, and refuses what it cannot count exactly."""
    owner, other = nodes[0](at := _fresh()), nodes[-1](at)
    steps = [await stub.shared(SharedIncr("n", by)) for stub, by in ((owner, 1), (other, 5), (owner, -10), (other, 0))]
    assert [_value(step) for step in steps] == [1, 6, -4, -4]
    first = await owner.shared(SharedIncr("m", 1, HOUR_MS))
    again = await other.shared(SharedIncr("m", 1, 10 * HOUR_MS))
    assert isinstance(first, SharedValue)
    assert isinstance(again, SharedValue)
    assert (_value(first), first.ttl_ms, _value(again)) == (1, HOUR_MS, 2)
    assert again.ttl_ms is not None
    assert again.ttl_ms <= HOUR_MS + 1000, "the time to live is that of the first"  # clocks may differ by a little
    for value in ("1", 1.0, True, [1], {"n": 1}):
        await owner.shared(_put("k", value))
        refused = await other.shared(SharedIncr("k"))
        assert isinstance(refused, SharedRefused), f"{value!r} has been counted"
        assert "is not a whole number" in refused.reason
        assert _value(await owner.shared(SharedGet("k"))) == value
    top = limits.SHARED_INTEGER - 1
    await owner.shared(SharedDelete("n"))
    assert _value(await owner.shared(SharedIncr("n", top))) == top
    assert isinstance(await other.shared(SharedIncr("n", 1)), SharedRefused)
    assert [_value(await other.shared(SharedIncr("n", -top))) for _ in range(2)] == [0, -top]
    assert isinstance(await owner.shared(SharedIncr("n", -1)), SharedRefused)
    assert _value(await other.shared(SharedGet("n"))) == -top


async def shared_counts_at_once(nodes: Nodes) -> None:
    """Sixty concurrent counts on all nodes return sixty different numbers."""
    owner = _fresh()
    answers = await asyncio.gather(*[nodes[n % len(nodes)](owner).shared(SharedIncr("n")) for n in range(60)])
    assert sorted(map(_value, answers)) == list(range(1, 61))


async def shared_values_end(nodes: Nodes) -> None:
    """A value with a time to live expires; then there is nothing to delete, and counting starts again."""
    owner = _fresh()
    first, last = nodes[0](owner), nodes[-1](owner)
    answer = await first.shared(_put("k", 1, HOUR_MS))
    assert isinstance(answer, SharedValue)
    assert answer.ttl_ms == HOUR_MS
    for key in ("deleted", "counted", "set"):
        await first.shared(_put(key, "no number", 50))
        while _value(await last.shared(SharedGet(key))) is not None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    assert _value(await last.shared(SharedDelete("deleted"))) is None
    anew = await last.shared(SharedIncr("counted", 1, HOUR_MS))
    assert isinstance(anew, SharedValue)
    assert (_value(anew), anew.ttl_ms) == (1, HOUR_MS)
    await last.shared(_put("set", 8))
    assert _value(await last.shared(SharedGet("set"))) == 8
    await last.shared(_put("k", 2))
    forever = await last.shared(SharedGet("k"))
    assert isinstance(forever, SharedValue)
    assert forever.ttl_ms is None, "a value that is set again without a time to live has none"


async def shared_means_the_same_everywhere(nodes: Nodes) -> None:
    """Three hundred random requests to random nodes get the same answers as from a single process."""
    owner, dice, model = _fresh(), random.Random(7), SharedState(DictRows())  # noqa: S311 - a schedule, not a secret
    for _ in range(300):
        key = f"k{dice.randrange(6)}"
        requests: list[SharedRequest] = [
            SharedGet(key),
            SharedDelete(key),
            _put(key, dice.choice([1, -5, "x", [1], 2**53 - 2])),
            SharedIncr(key, dice.choice([1, 2, -3])),
        ]
        request = dice.choice(requests)
        assert await dice.choice(nodes)(owner).shared(request) == model.handle(request, 0), request


async def shared_counters_count(nodes: Nodes) -> None:
    """Sixty events on all nodes get sixty different numbers; the first one sets the window."""
    owner = _fresh()
    first = await nodes[0](owner).shared(SharedCount("k", HOUR_MS))
    assert isinstance(first, SharedValue)
    assert (_value(first), first.ttl_ms) == (1, HOUR_MS)
    answers = await asyncio.gather(*[nodes[n % len(nodes)](owner).shared(SharedCount("k", 50)) for n in range(60)])
    assert sorted(map(_value, answers)) == list(range(2, 62))
    assert all(isinstance(answer, SharedValue) and 50 < (answer.ttl_ms or 0) <= HOUR_MS for answer in answers)


async def shared_counters_end(nodes: Nodes) -> None:
    """After the end of a window, the next event begins a new one."""
    owner = _fresh()
    assert _value(await nodes[0](owner).shared(SharedCount("k", 50))) == 1
    await asyncio.sleep(0.15)
    again = await nodes[-1](owner).shared(SharedCount("k", HOUR_MS))
    assert isinstance(again, SharedValue)
    assert (_value(again), again.ttl_ms) == (1, HOUR_MS)


async def shared_counters_are_apart(nodes: Nodes) -> None:
    """Counters are separate from values of the same key, and from other owners and keys."""
    owner, other = _fresh(), _fresh()
    stub = nodes[0](owner)
    await stub.shared(_put("k", "a value"))
    for counted in (stub, stub, nodes[-1](other)):
        await counted.shared(SharedCount("k", HOUR_MS))
    assert _value(await nodes[-1](owner).shared(SharedGet("k"))) == "a value"
    await stub.shared(SharedDelete("k"))
    assert _value(await stub.shared(SharedCount("k", HOUR_MS))) == 3
    assert _value(await stub.shared(SharedCount("k/", HOUR_MS))) == 1
    assert _value(await nodes[-1](other).shared(SharedCount("k", HOUR_MS))) == 2


DO_STUB: tuple[Callable[[Nodes], Awaitable[None]], ...] = (
    shared_values_are_kept,
    shared_values_are_deleted,
    shared_keys_are_apart,
    shared_counts,
    shared_counts_at_once,
    shared_values_end,
    shared_means_the_same_everywhere,
    shared_counters_count,
    shared_counters_end,
    shared_counters_are_apart,
)
