"""``ctx.shared`` in TiKV: each value is a key, changed by compare-and-swap, so that all nodes see one state.

A value is kept with the time of its end and with a *tag* that no other write has. After an answer that did not come,
the key is read: the own tag says that the change was made. The request that got lost may still be done later; but it
swaps the value before, with its tag, and that value never comes back.

What ends or is deleted is not removed, because TiKV has no "delete if it is still this": it is kept as a value that has
ended, with a time to live in TiKV, which forgets it without anybody's help. Times are those of the nodes: a value ends
for one of them earlier than for another by as much as their clocks differ.

Counters stand in buckets: a fixed number of keys, each with a few counters, so that nobody has to count or to look for
what may go. A counter that finds its bucket full takes the place of the lowest in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import zlib
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from kontract.core import limits
from kontract.core.shared.counters import Counters, DictCounters
from kontract.core.shared.state import (
    SharedAnswer,
    SharedCount,
    SharedGet,
    SharedRefused,
    SharedRequest,
    SharedState,
    counted,
)
from kontract.ports import Clock, CoordinatorUnavailableError
from kontract.server.system import SystemClock
from kontract.server.tikv import AtomicTiKVClient, KeyValue, TiKVClient

T = TypeVar("T")

GRACE_SECONDS = 60
"""How long a value stays in TiKV after its expiry: for clocks that differ, and for late requests."""

STRIPES = 256
"""Locks of one process. Changes of one key take turns here, rather than meet in the cluster and repeat each other."""

ANSWER_SECONDS = 10.0
"""For one request with all that is repeated: no caller waits longer (TRANSACTION_MS)."""

SWAPS = 4
"""How often a change without an answer is repeated, each time after reading what is there."""

BUCKET = 8
"""Counters in one bucket: enough that one with a high count rarely meets seven others with high counts."""

COPY = "kv/"
COUNTERS = "counters/"
VALUES = "shared/"


class Kept(Struct, frozen=True, array_like=True):
    """What is at a key. ``until``: when it ends, ms since the epoch, 0 for what is deleted; ``tag``: whose write."""

    value: Raw
    until: int | None
    tag: str


class _OneRow:
    """A single value, as :class:`~kontract.core.shared.state.SharedState` wants to see it: the rules are there."""

    def __init__(self, found: tuple[str, int | None] | None, count: int) -> None:
        self.found = found
        self._count = count

    def get(self, _key: str) -> tuple[str, int | None] | None:
        return self.found

    def put(self, _key: str, value: str, until: int | None) -> None:
        self.found = (value, until)

    def delete(self, _key: str) -> None:
        self.found = None

    def expire(self, now: int) -> None:
        """Nothing: what has ended is not given to it."""

    def count(self) -> int:
        return self._count


class _Census:
    """How many values an owner has, as far as this process knows."""

    def __init__(self) -> None:
        self.count = 0
        self.taken: float | None = None
        self.first_end: int | None = None


class _Cluster:
    """What the stubs of all owners have in common."""

    def __init__(self, client: TiKVClient | AtomicTiKVClient, clock: Clock) -> None:
        self.client: Any = client
        self.clock = clock
        self.atomic = hasattr(client, "compare_and_swap")
        self.census: dict[str, _Census] = {}
        self._turns = [asyncio.Lock() for _ in range(STRIPES)]

    def turn(self, name: str) -> asyncio.Lock:
        return self._turns[zlib.crc32(name.encode()) % STRIPES]


class TiKVShared:
    """The shared state of one owner. Implements :class:`kontract.ports.DOStub`."""

    def __init__(self, cluster: _Cluster, owner: str) -> None:
        """Keep the values of ``owner``."""
        self._cluster = cluster
        self._owner = owner
        # With the length of the name before it, no owner's keys begin like another's.
        self._prefix = f"{VALUES}{len(owner)}:{owner}/"

    def for_owner(self, owner: str) -> TiKVShared:
        """Return the shared state of another owner."""
        return TiKVShared(self._cluster, owner)

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Answer one request."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._answer(self._prefix + request.key, request)
        except TimeoutError as error:
            raise CoordinatorUnavailableError("TiKV is too slow; it is unknown whether this was done") from error

    async def _answer(self, name: str, request: SharedRequest) -> SharedAnswer:
        if isinstance(request, SharedGet):
            found, now = await self._read(name), self._cluster.clock.now()
            return SharedState(_OneRow(_live(_decode(found), now), 0)).handle(request, now)
        if isinstance(request, SharedCount):
            return await self._count_event(request)
        async with self._cluster.turn(name):
            return await self._change(name, request)

    async def _count_event(self, request: SharedCount) -> SharedAnswer:
        digest = hashlib.sha256(request.key.encode()).digest()
        bucket = int.from_bytes(digest[:8], "big") % max(1, limits.SHARED_COUNTERS // BUCKET)
        name = f"{COUNTERS}{len(self._owner)}:{self._owner}/{bucket}"
        async with self._cluster.turn(name):
            before = await self._read(name)
            while True:
                now = self._cluster.clock.now()
                kept = _live(_decode(before), now)
                rows = DictCounters({} if kept is None else _decode_bucket(kept[0]))
                count, ttl_ms = Counters(rows, BUCKET).count(digest[8:24].hex(), request.window_ms, now)
                until = max(end for _, end in rows.counters.values())
                done, before = await self._swap(name, before, (msgspec.json.encode(rows.counters).decode(), until), now)
                if done:
                    return counted(count, ttl_ms)

    async def _change(self, name: str, request: SharedRequest) -> SharedAnswer:
        before = await self._read(name)
        while True:
            now = self._cluster.clock.now()
            kept = _live(_decode(before), now)
            row = _OneRow(kept, 0)
            answer = SharedState(row).handle(request, now)
            if row.found == kept and (kept is None or isinstance(answer, SharedRefused)):
                return answer  # there is nothing to delete, or it is refused
            if kept is None and not await self._has_room(now):
                return SharedState(_OneRow(None, limits.SHARED_KEYS)).handle(request, now)
            more = (row.found is not None) - (kept is not None)
            self._counted(more, row.found)
            done = False
            try:
                done, before = await self._swap(name, before, row.found, now)
            finally:
                if not done:
                    self._counted(-more, None)
            if done:
                return answer

    async def _swap(
        self, name: str, before: str | None, found: tuple[str, int | None] | None, now: int
    ) -> tuple[bool, str | None]:
        """Swap, and find out whether it was done: (done, what is there otherwise)."""
        if not self._cluster.atomic:  # its turn keeps the rest of the process away
            client = self._cluster.client
            await _asked(client.delete(name) if found is None else client.put(name, _encode(found, "")))
            return True, None
        after, unknown = _encode(found, secrets.token_hex(8)), False
        for _ in range(SWAPS):
            try:
                done, current = await self._cluster.client.compare_and_swap(name, before, after, _ttl(found, now))
            except Exception:  # noqa: BLE001 - users bring clients, and with them errors, of their own
                unknown, done, current = True, False, await self._read(name)
            if done or current == after:
                return True, None
            if current != before:
                if unknown:
                    break  # somebody has changed it since; whether ours came before that, nobody can tell
                return False, current
            # Not done yet. If the lost one is still done later, the next one is not: what they expect is there once.
        raise CoordinatorUnavailableError("it is unknown whether a shared value was changed")

    async def _read(self, name: str) -> str | None:
        return await _asked(self._cluster.client.get(name))

    # --- how many there are ----------------------------------------------------------------------------------------

    async def _has_room(self, now: int) -> bool:
        """Whether there is room for one more value.

        Exact for one node. Each of several counts what it adds itself, and everything when it has come to half of the
        limit: together they may exceed it.
        """
        census = self._cluster.census.setdefault(self._owner, _Census())
        age = None if census.taken is None else self._cluster.clock.elapsed() - census.taken
        ended = census.first_end is not None and census.first_end <= now
        if (
            age is None
            or (age >= limits.SHARED_EXPIRY_MS and (census.count * 2 >= limits.SHARED_KEYS or not self._cluster.atomic))
            or (ended and census.count >= limits.SHARED_KEYS)
        ):
            await self._count(census, now)
        return census.count < limits.SHARED_KEYS

    async def _count(self, census: _Census, now: int) -> None:
        found: Sequence[KeyValue] = await _asked(self._cluster.client.scan(self._prefix, 2 * limits.SHARED_KEYS))
        ends: list[int] = []
        census.count = 0
        for pair in found:
            kept = _decode(pair.value)
            if _live(kept, now) is None:
                await self._remove(pair.key, now)
                continue
            assert kept is not None
            census.count += 1
            if kept.until is not None:
                ends.append(kept.until)
        census.first_end = min(ends, default=None)
        census.taken = self._cluster.clock.elapsed()

    async def _remove(self, name: str, now: int) -> None:
        """Remove what has expired, where only this process could set it again; otherwise TiKV does it."""
        lock = self._cluster.turn(name)
        if not self._cluster.atomic and not lock.locked():
            async with lock:
                if _live(_decode(await self._read(name)), now) is None:
                    await _asked(self._cluster.client.delete(name))

    def _counted(self, more: int, found: tuple[str, int | None] | None) -> None:
        census = self._cluster.census.get(self._owner)
        if census is not None and census.taken is not None:
            census.count += more
            if found is not None and found[1] is not None:
                census.first_end = min(found[1], census.first_end or found[1])


class TiKVStore:
    """Copies of shared values, for when their owner's state does not answer. Implements ports.KVStore."""

    def __init__(self, cluster: _Cluster) -> None:
        """Keep copies in ``cluster``."""
        self._cluster = cluster

    async def get(self, key: str) -> str | None:
        """Return a value."""
        try:
            found = _live(_decode(await _asked(self._cluster.client.get(COPY + key))), self._cluster.clock.now())
        except CoordinatorUnavailableError:
            return None
        return None if found is None else msgspec.json.decode(found[0], type=str)

    async def put(self, key: str, value: str, ttl: float | None = None) -> None:
        """Keep a value."""
        now = self._cluster.clock.now()
        until = None if ttl is None else now + max(1, round(ttl * 1000))
        text = _encode((msgspec.json.encode(value).decode(), until), "")
        more = () if until is None or not self._cluster.atomic else (_ttl(("", until), now),)
        await self._quietly(self._cluster.client.put(COPY + key, text, *more))

    async def delete(self, key: str) -> None:
        """Forget a value."""
        await self._quietly(self._cluster.client.delete(COPY + key))

    @staticmethod
    async def _quietly(work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - it is a copy; users bring clients, and with them errors, of their own
            return


def create_tikv_adapter(
    client: TiKVClient | AtomicTiKVClient, *, clock: Clock | None = None
) -> tuple[TiKVShared, TiKVStore]:
    """Return (do_stub, kv) over a client: the two halves of a :class:`~kontract.gateway.shared_storage.SharedStorage`.

    ``do_stub.for_owner(owner)`` is the state of one owner; ``do_stub`` itself that of the owner without a name.

    With a client that can compare and swap, any number of nodes share the state, and ``incr`` counts each call once.
    One that has the four methods of :class:`~kontract.server.tikv.TiKVClient` alone cannot be made atomic from outside:
    its changes take turns within this process. That is right for one process; two of them lose each other's counts.
    """
    cluster = _Cluster(client, clock or SystemClock())
    return TiKVShared(cluster, ""), TiKVStore(cluster)


_GONE = Kept(Raw(b"null"), 0, "")

_decode_bucket = msgspec.json.Decoder(dict[str, tuple[int, int]]).decode

_decode_kept = msgspec.json.Decoder(Kept).decode


def _decode(text: str | None) -> Kept | None:
    return None if text is None else _decode_kept(text)


def _encode(found: tuple[str, int | None] | None, tag: str) -> str:
    kept = Kept(_GONE.value, 0, tag) if found is None else Kept(Raw(found[0].encode()), found[1], tag)
    return msgspec.json.encode(kept).decode()


def _live(kept: Kept | None, now: int) -> tuple[str, int | None] | None:
    if kept is None or (kept.until is not None and kept.until <= now):
        return None
    return bytes(kept.value).decode(), kept.until


def _ttl(found: tuple[str, int | None] | None, now: int) -> float | None:
    """How long TiKV has to keep a value, in seconds; None for ever."""
    until = 0 if found is None else found[1]
    return None if until is None else max(0, until - now) / 1000 + GRACE_SECONDS


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Exception as error:
        raise CoordinatorUnavailableError(f"TiKV does not answer: {error}") from error
