"""The shared log in TiKV. Every position is a key that is written once, by compare-and-swap with "nothing there".

Below the prefix of an owner:

- ``e`` + position: an entry, or where its batch is if that is large;
- ``b`` + base + tag: a large batch, written before its entry;
- ``c`` + position + tag + number: a part of a checkpoint;
- ``h``: the *head*, which says which checkpoint is in force and where the log begins (its floor).

Why it is right:

- The tag of each append is its own. After an answer that did not come the key is read: the own tag means appended,
  another's means that it never will be there, nothing means that the same bytes may be sent again.
- What is trimmed is deleted, so a node that was away for long can write to a position that was taken once. Nobody
  takes that for an entry: a reader of entries reads the head *afterwards*, and what is below the floor does not
  count. The floor is raised before anything is deleted. An append looks at the head, too, before it is answered.
- A batch of many keys is no snapshot. Positions are filled in order, so the entries up to the first hole are a state
  of the log that was there at some time during the read.
- The head is changed by compare-and-swap, floor and position only grow, and so a change that comes late fails.

The time of an entry is that of the node that wrote it.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from kontract.ports.shared_log import (
    MAX_BATCH_BYTES,
    NOTHING,
    READ_BYTES,
    READ_ENTRIES,
    Checkpoint,
    Entry,
    LogUnavailableError,
    TrimmedError,
)
from kontract.server.tikv import RawTiKV, TiKVUnavailableError

T = TypeVar("T")

INLINE_BYTES = 16 * 1024
"""The largest batch in its entry. A request takes 512 keys, an answer has 10 MiB at most."""

BODY_SPAN = 1_000
"""How many positions a large batch may lie behind its entry; what is farther below the floor can go."""

PART_BYTES = 1024 * 1024
"""Of a part of a checkpoint."""

PARTS_AT_ONCE = 4
"""Parts under way at a time: an answer has 10 MiB at most."""

FIRST_KEYS = 16
"""Keys that a read asks for at first; then four times as many each."""

MOST_KEYS = 512
"""Keys of one request; tikv-python splits at the same number."""

ATTEMPTS = 8
"""How often a request without an answer is repeated, each time after reading what is there."""

APPEND_SECONDS = 10.0
"""For all attempts of one append together: no caller waits longer (TRANSACTION_MS), and the next waits for it."""

TAG_BYTES = 12

_INLINE = struct.Struct(f">Bq{TAG_BYTES}s")
_SPILLED = struct.Struct(f">Bq{TAG_BYTES}sQI")
_KIND_INLINE, _KIND_SPILLED = 1, 2


class Head(Struct, frozen=True, array_like=True):
    """``floor``: the first position that counts; the checkpoint at ``position`` has ``parts`` parts under ``tag``."""

    floor: int = 1
    position: int = 0
    tag: str = ""
    parts: int = 0


class _Found(Struct, frozen=True):
    """An entry as it is kept. ``base``: where its batch is, if that is elsewhere; ``size``: of the batch."""

    at: int
    tag: bytes
    batch: bytes
    base: int
    size: int


class _Keys:
    """The keys of one owner."""

    def __init__(self, owner: str) -> None:
        name = owner.encode()
        # With the length of the name before it, no owner's keys begin like another's.
        self._prefix = b"log/%d:%b/" % (len(name), name)
        self.head = self._prefix + b"h"

    def entry(self, position: int) -> bytes:
        return self._prefix + b"e" + position.to_bytes(8, "big")

    def position(self, entry: bytes) -> int:
        return int.from_bytes(entry[-8:], "big")

    def body(self, base: int, tag: bytes = b"") -> bytes:
        return self._prefix + b"b" + base.to_bytes(8, "big") + tag

    def base_and_tag(self, body: bytes) -> tuple[int, bytes]:
        return int.from_bytes(body[-8 - TAG_BYTES : -TAG_BYTES], "big"), body[-TAG_BYTES:]

    def parts(self, position: int, tag: str = "") -> bytes:
        return self._prefix + b"c" + position.to_bytes(8, "big") + bytes.fromhex(tag)

    def part(self, position: int, tag: str, number: int) -> bytes:
        return self.parts(position, tag) + number.to_bytes(4, "big")


class _Owner:
    """What this process knows of a log: its keys, a position that is taken for sure, and whose turn to append it is."""

    def __init__(self, owner: str) -> None:
        self.keys = _Keys(owner)
        self.taken = 0
        self.turn = asyncio.Lock()


class TiKVLog:
    """Implements :class:`~kontract.ports.shared_log.SharedLog`."""

    def __init__(self, raw: RawTiKV, now: Callable[[], int]) -> None:
        """Keep logs in ``raw``, which is closed with this; ``now`` is the time in milliseconds since the Unix epoch."""
        self._raw = raw
        self._now = now
        self._owners: dict[str, _Owner] = {}

    # --- appending ---------------------------------------------------------------------------------------------------

    async def append(self, owner: str, after: int, batch: bytes, _at: int | None = None) -> list[Entry]:
        """Append: one swap at the position behind the last one known, and a look at the head."""
        if len(batch) > MAX_BATCH_BYTES:
            raise ValueError(f"a batch has at most {MAX_BATCH_BYTES} bytes, not {len(batch)}")
        try:
            async with asyncio.timeout(APPEND_SECONDS):
                return await self._append(self._owner(owner), after, batch)
        except TimeoutError as error:
            raise LogUnavailableError("TiKV is too slow; it is unknown whether the batch was appended") from error

    async def _append(self, mine: _Owner, after: int, batch: bytes) -> list[Entry]:
        # One at a time: those of one process would only take each other's positions.
        async with mine.turn:
            mine.taken = max(mine.taken, after)
            entry = await self._take_position(mine, batch)
            mine.taken = entry.position
        between: list[Entry | None] = []
        if entry.position > after + 1:
            between = await self._window(mine, after, up_to=entry.position)
        head = await self._check(mine, entry.position)
        if head.floor > after + 1:
            raise TrimmedError
        return _whole(between or [entry])

    async def _take_position(self, mine: _Owner, batch: bytes) -> Entry:
        """Write the batch to the first position that is free."""
        tag, base, failed = secrets.token_bytes(TAG_BYTES), 0, 0
        spilled = len(batch) > INLINE_BYTES
        position = mine.taken + 1
        while True:
            at = self._now()
            if spilled and (not base or position - base > BODY_SPAN):
                base = position
                await _asked(self._raw.put(mine.keys.body(base, tag), batch))
            if spilled:
                value = _SPILLED.pack(_KIND_SPILLED, at, tag, base, len(batch))
            else:
                value = _INLINE.pack(_KIND_INLINE, at, tag) + batch
            if await self._write_once(mine.keys.entry(position), value):
                return Entry(position, at, batch)
            mine.taken = position
            failed += 1
            if failed > 1:  # others are well ahead
                mine.taken += len(await self._window(mine, position, bodies=False))
            position = mine.taken + 1

    async def _write_once(self, key: bytes, value: bytes) -> bool:
        """Write where nothing is; false when something else is there."""
        for _ in range(ATTEMPTS):
            try:
                done, current = await self._raw.compare_and_swap(key, None, value)
            except TiKVUnavailableError:
                done, current = False, await _asked(self._raw.get(key))
            if done or current is not None:
                return done or current == value
            # Neither this nor anything else is there: if the lost one still comes, it is the same bytes.
        raise LogUnavailableError("whether the batch has been appended is not known")

    async def _check(self, mine: _Owner, position: int) -> Head:
        """Look at the head and at what should be before a new entry; raises TrimmedError when it does not count."""
        before = mine.keys.entry(position - 1)
        found = await _asked(self._raw.get_many([mine.keys.head, before]))
        head = _decode_head(found.get(mine.keys.head))
        if position > 1 and before not in found and head.floor < position:
            # Trimmed since the head was read, or never there.
            head = await self._head(mine)
            if head.floor < position:
                raise LogUnavailableError(
                    f"the log has nothing before position {position}: was TiKV emptied while nodes were running?"
                )
        if head.floor > position:
            mine.taken = max(mine.taken, head.position)
            await _asked(self._raw.delete_many([mine.keys.entry(position)]))
            raise TrimmedError
        return head

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self, owner: str, after: int, _at: int | None = None) -> list[Entry]:
        """Read on: entries, then the head."""
        mine = self._owner(owner)
        found = await self._window(mine, after)
        if (await self._head(mine)).floor > after + 1:
            raise TrimmedError
        return _whole(found)

    async def news(self, after: Mapping[str, int], _at: Mapping[str, int | None] = NOTHING) -> dict[str, list[Entry]]:
        """Ask for the next two entries of all owners, then for their heads; read on where there are both entries."""
        owners = {owner: self._owner(owner) for owner in after}
        keys = [owners[owner].keys.entry(position + n) for owner, position in after.items() for n in (1, 2)]
        found = await _asked(self._raw.get_many(keys))
        heads = await _asked(self._raw.get_many([mine.keys.head for mine in owners.values()]))
        news: dict[str, list[Entry]] = {}
        more: list[str] = []
        for owner, mine in owners.items():
            position = after[owner] + 1
            value = found.get(mine.keys.entry(position))
            if _decode_head(heads.get(mine.keys.head)).floor > position:
                news[owner] = []
            elif value is not None:
                mine.taken = max(mine.taken, position)
                entry = _decode(value)
                if entry.base or mine.keys.entry(position + 1) in found:
                    more.append(owner)
                else:
                    news[owner] = [Entry(position, entry.at, entry.batch)]

        async def read(owner: str) -> None:
            try:
                news[owner] = await self.read(owner, after[owner])
            except TrimmedError:
                news[owner] = []

        for start in range(0, len(more), MOST_KEYS):
            await asyncio.gather(*[read(owner) for owner in more[start : start + MOST_KEYS]])
        return news

    async def entries(self, owner: str, positions: Sequence[int]) -> list[Entry]:
        """Read single entries."""
        mine = self._owner(owner)
        wanted = sorted(set(positions))
        found = await _asked(self._raw.get_many([mine.keys.entry(position) for position in wanted]))
        there = [
            (position, _decode(value))
            for position in wanted
            if (value := found.get(mine.keys.entry(position))) is not None
        ]
        return [entry for entry in await self._with_batches(mine, there) if entry is not None]

    async def _window(
        self, mine: _Owner, after: int, *, up_to: int | None = None, bodies: bool = True
    ) -> list[Entry | None]:
        """Read the next entries, up to the first hole; None where a batch is not to be found.

        ``up_to``: the last position of interest. Without ``bodies`` large batches are left where they are.
        """
        end = after + READ_ENTRIES if up_to is None else min(up_to, after + READ_ENTRIES)
        window: list[tuple[int, _Found]] = []
        size, count, hole = 0, FIRST_KEYS, False
        while not hole and size < READ_BYTES and after + len(window) < end:
            first = after + 1 + len(window)
            positions = range(first, min(first + count, end + 1))
            keys = [mine.keys.entry(position) for position in positions]
            found = await _asked(self._raw.get_many(keys))
            for position, key in zip(positions, keys, strict=True):
                value = found.get(key)
                if value is None or size >= READ_BYTES:
                    hole = True
                    break
                window.append((position, _decode(value)))
                size += window[-1][1].size
            count = min(4 * count, MOST_KEYS)
        if window:
            mine.taken = max(mine.taken, window[-1][0])
        if bodies:
            return await self._with_batches(mine, window)
        return [None] * len(window)

    async def _with_batches(self, mine: _Owner, found: Iterable[tuple[int, _Found]]) -> list[Entry | None]:
        """Fetch large batches, one after the other: each may have 4 MiB."""
        entries: list[Entry | None] = []
        for position, entry in found:
            batch: bytes | None = entry.batch
            if entry.base:
                batch = await _asked(self._raw.get(mine.keys.body(entry.base, entry.tag)))
            entries.append(None if batch is None else Entry(position, entry.at, batch))
        return entries

    # --- checkpoints and trimming ------------------------------------------------------------------------------------

    async def checkpoint(self, owner: str) -> Checkpoint | None:
        """Read the parts of the checkpoint that the head names; another one may come in its place meanwhile."""
        mine = self._owner(owner)
        head = await self._head(mine)
        while head.position:
            parts: list[bytes] = []
            for start in range(0, head.parts, PARTS_AT_ONCE):
                numbers = range(start, min(start + PARTS_AT_ONCE, head.parts))
                keys = [mine.keys.part(head.position, head.tag, number) for number in numbers]
                found = await _asked(self._raw.get_many(keys))
                parts += [found[key] for key in keys if key in found]
            if len(parts) == head.parts:
                return Checkpoint(head.position, b"".join(parts))
            before, head = head, await self._head(mine)
            if head.tag == before.tag:
                raise LogUnavailableError("the checkpoint is incomplete: were keys deleted in TiKV?")
        return None

    async def write_checkpoint(self, owner: str, checkpoint: Checkpoint) -> None:
        """Write the parts, then let the head name them; then remove those of older ones."""
        mine = self._owner(owner)
        if (await self._head(mine)).position >= checkpoint.position:
            return
        tag = secrets.token_hex(TAG_BYTES)
        state, position = checkpoint.state, checkpoint.position
        parts = [state[start : start + PART_BYTES] for start in range(0, len(state), PART_BYTES)]
        for start in range(0, len(parts), PARTS_AT_ONCE):
            await asyncio.gather(
                *[
                    _asked(self._raw.put(mine.keys.part(position, tag, number), parts[number]))
                    for number in range(start, min(start + PARTS_AT_ONCE, len(parts)))
                ]
            )

        def newer(head: Head) -> Head | None:
            return None if head.position >= position else Head(head.floor, position, tag, len(parts))

        head = await self._change_head(mine, newer)
        if head.tag == tag:
            # Whoever still writes one that is not newer will find that it is not; parts of newer ones are left alone.
            current = mine.keys.parts(position, tag)

            def others(keys: list[bytes]) -> list[bytes]:
                return [key for key in keys if not key.startswith(current)]

            await self._sweep(mine.keys.parts(0), mine.keys.parts(position + 1), others)

    async def trim(self, owner: str, below: int, keep: Sequence[int] = ()) -> None:
        """Raise the floor, then delete what is below it: also what an earlier call has kept or left over."""
        mine = self._owner(owner)

        def higher(head: Head) -> Head | None:
            floor = min(below, head.position + 1)
            return Head(floor, head.position, head.tag, head.parts) if floor > head.floor else None

        floor = min(below, (await self._change_head(mine, higher)).floor)
        kept = sorted(keep)
        names = set(kept)
        await self._sweep(
            mine.keys.entry(0),
            mine.keys.entry(floor),
            lambda keys: [key for key in keys if mine.keys.position(key) not in names],
        )
        if floor > BODY_SPAN:
            await self._sweep_bodies(mine, floor - BODY_SPAN, kept)

    async def _sweep_bodies(self, mine: _Owner, below: int, kept: Sequence[int]) -> None:
        """Delete large batches that no entry names any more: an entry is BODY_SPAN above its batch at most."""
        start, end = mine.keys.body(0), mine.keys.body(below)
        while bodies := await _asked(self._raw.scan_keys(start, end, MOST_KEYS)):
            bases = [mine.keys.base_and_tag(body)[0] for body in bodies]
            used: set[bytes] = set()
            near = kept[bisect_left(kept, bases[0]) : bisect_right(kept, bases[-1] + BODY_SPAN)]
            for first in range(0, len(near), MOST_KEYS):
                found = await _asked(self._raw.get_many([mine.keys.entry(p) for p in near[first : first + MOST_KEYS]]))
                used.update(_decode(value).tag for value in found.values())
            doomed = [body for body in bodies if mine.keys.base_and_tag(body)[1] not in used]
            if doomed:
                await _asked(self._raw.delete_many(doomed))
            start = bodies[-1] + b"\0"

    async def _sweep(self, start: bytes, end: bytes, doomed: Callable[[list[bytes]], list[bytes]]) -> None:
        """Delete in [start, end) those of the keys that are ``doomed``."""
        while keys := await _asked(self._raw.scan_keys(start, end, MOST_KEYS)):
            if gone := doomed(keys):
                await _asked(self._raw.delete_many(gone))
            start = keys[-1] + b"\0"

    async def aclose(self) -> None:
        """Close the client."""
        await self._raw.aclose()

    # --- the head ----------------------------------------------------------------------------------------------------

    async def _head(self, mine: _Owner) -> Head:
        return _decode_head(await _asked(self._raw.get(mine.keys.head)))

    async def _change_head(self, mine: _Owner, change: Callable[[Head], Head | None]) -> Head:
        """Change the head, unless ``change`` says that there is nothing to do; return what it is then."""
        before = await _asked(self._raw.get(mine.keys.head))
        for _ in range(ATTEMPTS):
            head = change(_decode_head(before))
            if head is None:
                return _decode_head(before)
            after = msgspec.json.encode(head)
            try:
                done, current = await self._raw.compare_and_swap(mine.keys.head, before, after)
            except TiKVUnavailableError:
                done, current = False, await _asked(self._raw.get(mine.keys.head))
            if done:
                return head
            before = current  # if it was done after all, there is nothing to do any more
        raise LogUnavailableError("it is unknown whether the log's head was changed")

    def _owner(self, owner: str) -> _Owner:
        mine = self._owners.get(owner)
        if mine is None:
            mine = self._owners[owner] = _Owner(owner)
        return mine


_decode_json = msgspec.json.Decoder(Head).decode


def _decode_head(value: bytes | None) -> Head:
    return Head() if value is None else _decode_json(value)


def _decode(value: bytes) -> _Found:
    if value[0] == _KIND_SPILLED:
        _, at, tag, base, size = _SPILLED.unpack(value)
        return _Found(at, tag, b"", base, size)
    _, at, tag = _INLINE.unpack_from(value)
    return _Found(at, tag, value[_INLINE.size :], 0, len(value) - _INLINE.size)


def _whole(entries: Iterable[Entry | None]) -> list[Entry]:
    found = list(entries)
    if None in found:
        raise LogUnavailableError("a batch is missing: were keys deleted in TiKV?")
    return [entry for entry in found if entry is not None]


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except TiKVUnavailableError as error:
        raise LogUnavailableError(f"TiKV does not answer: {error}") from error
