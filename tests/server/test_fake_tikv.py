"""The fake cluster, through the real client: it corrects routing, fails as told, and keeps its one promise."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import tikv

from support.tikv import FakeCluster, Kind


@pytest.fixture
async def cluster():
    async with FakeCluster.started(stores=3, pds=2) as one:
        yield one


@pytest.fixture
async def client(cluster):
    async with tikv.AsyncRawClient(cluster.endpoints, timeout=5, atomic=True) as one:
        yield one


async def test_the_raw_api(cluster, client):
    """What the client offers, over regions on three stores."""
    cluster.topology.split(b"b", b"c")
    items = {key: key * 2 for key in (b"a", b"b", b"bb", b"c", b"d")}
    await client.put_many(items)
    assert await client.get_many([*items, b"none"]) == items
    assert (await client.get(b"bb"), await client.get(b"x")) == (b"bbbb", None)
    assert [pair async for pair in client.scan(b"b", b"d")] == [(b"b", b"bb"), (b"bb", b"bbbb"), (b"c", b"cc")]
    assert [key async for key in client.scan_keys(reverse=True, limit=4)] == [b"d", b"c", b"bb", b"b"]
    await client.delete(b"a")
    await client.delete_many([b"b"])
    async with tikv.AsyncRawClient(cluster.endpoints) as plain:
        await plain.delete_range(b"bb", b"d")
    assert [key async for key in client.scan_keys()] == [b"d"]
    assert cluster.data.mixed == set()


async def test_compare_and_swap(client):
    """From nothing, from a value, and not from another."""
    assert await client.compare_and_swap(b"k", None, b"1") == (True, None)
    assert await client.compare_and_swap(b"k", None, b"2") == (False, b"1")
    assert await client.compare_and_swap(b"k", b"1", b"2") == (True, b"1")
    assert await client.get(b"k") == b"2"


async def test_values_end(cluster, client):
    """When the test moves the clock; then there is nothing to compare with, either."""
    await client.put(b"k", b"v", ttl=10)
    assert await client.ttl(b"k") == 10
    cluster.advance(9.5)
    assert await client.get(b"k") == b"v"
    cluster.advance(0.5)
    assert await client.get(b"k") is None
    assert (await client.compare_and_swap(b"k", None, b"new")).swapped


async def test_without_ttl_it_says_so():
    """In TiKV's words."""
    async with FakeCluster.started(ttl=False) as cluster, tikv.AsyncRawClient(cluster.endpoints, atomic=True) as client:
        await client.put(b"k", b"v")
        with pytest.raises(tikv.ServerError, match="ttl is not enabled"):
            await client.put(b"k", b"v", ttl=1)
        with pytest.raises(tikv.ServerError, match="ttl is not enabled"):
            await client.compare_and_swap(b"k", b"v", b"w", ttl=1)


async def test_a_client_finds_its_way(cluster, client):
    """Through splits, merges, new leaders, elections, another leader of PD, and errors that mean nothing was done."""
    await client.put(b"k", b"0")
    changes = [
        lambda: cluster.topology.split(b"j"),
        lambda: cluster.topology.lead(b"k", 3),
        cluster.move_pd_leader,
        lambda: cluster.topology.split(b"k"),
    ]
    for number, change in enumerate(changes, 1):
        change()
        assert (await client.compare_and_swap(b"k", b"%d" % (number - 1), b"%d" % number)).swapped
    cluster.topology.merge(b"j")  # the region of k is gone; for a swap that would be an unknown outcome
    assert await client.get(b"k") == b"4"
    for kind in (Kind.NO_LEADER, Kind.EPOCH):
        fault = cluster.faults.add(kind, "RawCompareAndSwap")
        current = await client.get(b"k")
        assert (await client.compare_and_swap(b"k", current, kind.name.encode())).swapped
        assert fault.met == 1
    cluster.topology.lead(b"k", None)
    asked = cluster.calls["RawPut"]
    write = asyncio.create_task(client.put(b"k", b"elected"))
    while cluster.calls["RawPut"] == asked:
        await asyncio.sleep(0)
    cluster.topology.lead(b"k", 2)
    await write
    assert await client.get(b"k") == b"elected"


@pytest.mark.parametrize(
    ("kind", "done"),
    [(Kind.REFUSED, False), (Kind.LOST, True), (Kind.STALE, False), (Kind.STALE_DONE, True), (Kind.UNDETERMINED, True),
     (Kind.NOT_FOUND, False)],
)  # fmt: skip
async def test_swaps_of_unknown_outcome(cluster, client, kind, done):
    """The client is told the same, whether it was done or not."""
    cluster.faults.add(kind, "RawCompareAndSwap")
    with pytest.raises(tikv.UndeterminedError):
        await client.compare_and_swap(b"k", None, b"v")
    assert await client.get(b"k") == (b"v" if done else None)


async def test_what_comes_late_takes_effect_late(cluster, client):
    """A request that the client has given up may still be done."""
    fault = cluster.faults.add(Kind.LATE, "RawCompareAndSwap")
    with pytest.raises(tikv.UndeterminedError):
        await client.compare_and_swap(b"k", None, b"v")
    assert await client.get(b"k") is None
    fault.released.set()
    await asyncio.gather(*cluster.faults.late)
    assert await client.get(b"k") == b"v"


async def test_a_store_that_is_down_and_connections_that_are_cut(cluster, client):
    """Reads find the new leader; what was under way on a connection that is cut has an unknown outcome."""
    await client.put(b"k", b"v")
    await cluster.stop_store(1)
    assert await client.get(b"k") == b"v"
    leader = cluster.topology.find(b"k").leader
    pause = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap")
    swap = asyncio.create_task(client.compare_and_swap(b"k", b"v", b"w"))
    await pause.reached.wait()
    await cluster.cut(leader)
    with pytest.raises(tikv.UndeterminedError):
        await swap
    assert await client.get(b"k") == b"v"


async def test_limits_of_tikv(cluster, client):
    """Keys of 8 KiB, entries of 8 MiB, answers of 10 MiB."""
    with pytest.raises(tikv.ServerError, match="too large"):
        await client.put(b"k" * 8193, b"v")
    with pytest.raises(tikv.RegionError, match="too large"):
        await client.put(b"k", b"v" * (8 << 20))
    await client.put_many({b"%d" % n: bytes(4 << 20) for n in range(3)})
    async with tikv.AsyncRawClient(cluster.endpoints, timeout=0.5) as hasty:
        with pytest.raises(tikv.TimeoutError):
            await hasty.get_many([b"0", b"1", b"2"])


async def test_writes_of_both_modes_are_noticed(cluster, client):
    """Such keys have lost the promise of compare-and-swap; a test of ours asserts that there are none."""
    await client.put(b"k", b"v")
    async with tikv.AsyncRawClient(cluster.endpoints) as plain:
        await plain.put(b"k", b"w")
    assert cluster.data.mixed == {b"k"}


async def test_a_storm_is_the_same_each_time(cluster, client):
    """From one seed, the same requests meet the same fate."""

    async def weather() -> list[bool]:
        cluster.faults.storm(5, 0.4)
        fates = []
        for n in range(12):
            key = b"%d" % n
            before = cluster.faults.storm_hits
            with contextlib.suppress(tikv.UndeterminedError):
                await client.compare_and_swap(key, None, b"v")
            fates.append(cluster.faults.storm_hits > before)
        cluster.faults.calm()
        return fates

    first = await weather()
    assert first == await weather()
    assert {True, False} == set(first)
