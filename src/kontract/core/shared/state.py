"""``ctx.shared``: small values that all requests of one owner see at once, outside transactions.

The owner's Durable Object (or its counterpart) stores them, beside the coordinator and without its guarantees: a value
exists as soon as ``set`` has answered, ``incr`` is atomic, and nothing is rolled back when a transaction fails.

The counters of throttles and rate limits (:class:`SharedCount`) are kept beside the values, in their own space.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec
from msgspec import Raw, Struct

from kontract.core import limits
from kontract.core.messages import NOTHING
from kontract.core.shared.counters import CounterRows, Counters, DictCounters


class SharedGet(Struct, frozen=True, tag="get"):
    """Ask for the value of ``key``."""

    key: str


class SharedSet(Struct, frozen=True, tag="set", omit_defaults=True):
    """Store ``value`` (JSON), for ``ttl_ms`` if given."""

    key: str
    value: Raw
    ttl_ms: int | None = None


class SharedDelete(Struct, frozen=True, tag="delete"):
    """Forget ``key``."""

    key: str


class SharedIncr(Struct, frozen=True, tag="incr", omit_defaults=True):
    """Add ``by`` to an integer; a missing one counts as 0. ``ttl_ms`` starts with the first increment."""

    key: str
    by: int = 1
    ttl_ms: int | None = None


class SharedCount(Struct, frozen=True, tag="count"):
    """Count an event in a window that begins with the first one; the answer is the count and the remaining time."""

    key: str
    window_ms: int


class SharedValue(Struct, frozen=True, tag="value", omit_defaults=True):
    """The value of ``key``: JSON, null if there is none; ``ttl_ms``: the remaining time, if it expires."""

    value: Raw = NOTHING
    ttl_ms: int | None = None


class SharedRefused(Struct, frozen=True, tag="refused"):
    """The request cannot be done; the message says why."""

    reason: str


SharedRequest: TypeAlias = SharedGet | SharedSet | SharedDelete | SharedIncr | SharedCount
SharedAnswer: TypeAlias = SharedValue | SharedRefused

encode = msgspec.json.encode
_decode_request = msgspec.json.Decoder(SharedRequest).decode
_decode_answer = msgspec.json.Decoder(SharedAnswer).decode


def decode_request(text: str | bytes) -> SharedRequest:
    """Decode a worker's message; raises msgspec.ValidationError on anything else."""
    request: SharedRequest = _decode_request(text)
    return request


def decode_answer(text: str | bytes) -> SharedAnswer:
    """Decode an answer; raises msgspec.ValidationError on anything else."""
    answer: SharedAnswer = _decode_answer(text)
    return answer


class SharedRows(Protocol):
    """Where one owner's values are kept. All synchronous: nothing comes between a read and the write after it."""

    def get(self, key: str) -> tuple[str, int | None] | None:
        """Return (JSON text, expiry in ms since the epoch); None if there is no value."""
        ...

    def put(self, key: str, value: str, until: int | None) -> None:
        """Store a value, replacing the previous one."""
        ...

    def delete(self, key: str) -> None:
        """Forget a value, if there is one."""
        ...

    def expire(self, now: int) -> None:
        """Forget what has ended by ``now``."""
        ...

    def count(self) -> int:
        """Count the values."""
        ...


class SharedState:
    """The values of one owner. Time is given with every request."""

    def __init__(self, rows: SharedRows, counters: CounterRows | None = None) -> None:
        """Keep values in ``rows`` and counters in ``counters``, in memory when they are not given."""
        self._rows = rows
        self._counters = Counters(DictCounters() if counters is None else counters)
        self._next_expiry = 0

    def handle(self, request: SharedRequest, now: int) -> SharedAnswer:
        """Answer one request."""
        if now >= self._next_expiry:
            self._rows.expire(now)
            self._counters.expire(now)
            self._next_expiry = now + limits.SHARED_EXPIRY_MS
        if isinstance(request, SharedCount):
            return counted(*self._counters.count(request.key, request.window_ms, now))
        found = self._rows.get(request.key)
        if found is not None and found[1] is not None and found[1] <= now:
            found = None
        match request:
            case SharedGet():
                return _answer(found, now)
            case SharedDelete():
                self._rows.delete(request.key)
                return _answer(found, now)
            case SharedSet():
                return self._put(request.key, bytes(request.value).decode(), _until(request.ttl_ms, now), now)
            case SharedIncr():
                return self._incr(request, found, now)

    def _incr(self, request: SharedIncr, found: tuple[str, int | None] | None, now: int) -> SharedAnswer:
        value: object = 0 if found is None else msgspec.json.decode(found[0])
        if not isinstance(value, int) or isinstance(value, bool):
            return SharedRefused(f"incr: the value of {request.key!r} is not a whole number")
        until = _until(request.ttl_ms, now) if found is None else found[1]
        total = value + request.by
        if abs(total) >= limits.SHARED_INTEGER:
            return SharedRefused(f"incr: {request.key!r} would leave the range of exact integers, 2**53")
        return self._put(request.key, str(total), until, now)

    def _put(self, key: str, value: str, until: int | None, now: int) -> SharedAnswer:
        if self._rows.get(key) is None and self._rows.count() >= limits.SHARED_KEYS:
            self._rows.expire(now)
            if self._rows.count() >= limits.SHARED_KEYS:
                return SharedRefused(f"there are already {limits.SHARED_KEYS} shared values; delete some, or set a ttl")
        self._rows.put(key, value, until)
        return _answer((value, until), now)


class DictRows:
    """Values that end with the process."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._values: dict[str, tuple[str, int | None]] = {}

    def get(self, key: str) -> tuple[str, int | None] | None:
        """Return a value and its end."""
        return self._values.get(key)

    def put(self, key: str, value: str, until: int | None) -> None:
        """Keep a value."""
        self._values[key] = (value, until)

    def delete(self, key: str) -> None:
        """Forget a value."""
        self._values.pop(key, None)

    def expire(self, now: int) -> None:
        """Forget what has ended."""
        self._values = {key: kept for key, kept in self._values.items() if kept[1] is None or kept[1] > now}

    def count(self) -> int:
        """Count the values."""
        return len(self._values)


def counted(count: int, ttl_ms: int) -> SharedValue:
    """Return the answer to a SharedCount."""
    return SharedValue(Raw(str(count).encode()), ttl_ms)


def _until(ttl_ms: int | None, now: int) -> int | None:
    return None if ttl_ms is None else now + ttl_ms


def _answer(found: tuple[str, int | None] | None, now: int) -> SharedValue:
    if found is None:
        return SharedValue()
    return SharedValue(Raw(found[0].encode()), None if found[1] is None else found[1] - now)
