"""``ctx.shared`` as the application sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw

from kontract.core import limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError, UnavailableError
from kontract.core.messages import NOTHING
from kontract.core.model import documents, values
from kontract.core.shared.state import (
    SharedDelete,
    SharedGet,
    SharedIncr,
    SharedRefused,
    SharedRequest,
    SharedSet,
    SharedValue,
)
from kontract.gateway.http import encode_json
from kontract.ports import CoordinatorUnavailableError, DOStub, KVStore

APP = "app/"
"""Prefix of the application's keys, so that they cannot meet those of the gateway (rate limits, throttles)."""


class SharedStorage:
    """Small values that all requests of the owner see at once. Not part of the transaction: nothing is rolled back.

    It has two tiers. The owner's coordinator is the hot one and decides: reads and writes go to it, and ``incr`` is
    atomic. A key-value store, if there is one, is the warm one: ``set`` copies values there, and ``get`` reads the copy
    (which may be older) only when the coordinator does not answer.

    Keys are text of at most 512 bytes, values JSON of at most 64 KiB; ``ttl`` is in seconds. Errors of all methods:
    InvalidRequestError for what cannot be stored, UnavailableError when the owner's coordinator does not answer.
    """

    def __init__(
        self,
        do_stub: DOStub,
        kv: KVStore | None = None,
        *,
        prefix: str = APP,
        owner: str = "",
        spawn: Callable[[Awaitable[Any]], None] | None = None,
    ) -> None:
        """Use the values of ``owner`` below ``prefix``; ``do_stub`` leads to the owner's coordinator.

        ``spawn``: copies after the response; without it, ``set`` and ``delete`` wait for the copy.
        """
        self._stub = do_stub
        self._kv = kv
        self._prefix = prefix
        self._owner = owner
        self._spawn = spawn

    async def get(self, key: str) -> Any | None:
        """Return a value; None if there is none."""
        name = self._key(key)
        try:
            return _decode(await self._ask(SharedGet(name)))
        except UnavailableError:
            if self._kv is None:
                raise
            copy = await self._kv.get(self._copy_of(name))
            return None if copy is None else values.decode(copy)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a value, for ``ttl`` seconds if given. To store None, delete the key."""
        document = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
        if document is None:
            message = "shared: None cannot be stored; use delete"
            raise InvalidRequestError(message)
        documents.check(document, f"shared value {key!r:.100}")
        text = encode_json(value)
        if len(text) > limits.SHARED_VALUE_BYTES:
            message = f"shared value {key!r:.100} is larger than {limits.SHARED_VALUE_BYTES} bytes"
            raise PayloadTooLargeError(message)
        name = self._key(key)
        await self._ask(SharedSet(name, Raw(text), _milliseconds(ttl)))
        if self._kv is not None:
            await self._later(self._kv.put(self._copy_of(name), text.decode(), ttl))

    async def delete(self, key: str) -> bool:
        """Delete a value; return False if there was none."""
        name = self._key(key)
        found = _decode(await self._ask(SharedDelete(name))) is not None
        if self._kv is not None:
            await self._later(self._kv.delete(self._copy_of(name)))
        return found

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add ``by`` to an integer and return the sum; a missing key counts as 0. ``ttl`` applies to a new key."""
        if not isinstance(by, int) or isinstance(by, bool) or abs(by) >= limits.SHARED_INTEGER:
            message = f"incr takes a whole number between -2**53 and 2**53, not this {type(by).__name__}"
            raise InvalidRequestError(message)
        return int(_decode(await self._ask(SharedIncr(self._key(key), by, _milliseconds(ttl)))))

    async def _later(self, work: Awaitable[None]) -> None:
        if self._spawn is not None:
            self._spawn(work)
        else:
            await work

    def _copy_of(self, name: str) -> str:
        return f"shared/{self._owner}/{name}"

    def _key(self, key: str) -> str:
        if not isinstance(key, str) or not key or len(key.encode(errors="replace")) > limits.SHARED_KEY_BYTES:
            message = f"a shared key must be a text of 1 to {limits.SHARED_KEY_BYTES} bytes, not {key!r:.100}"
            raise InvalidRequestError(message)
        documents.check_text(key, "a shared key")
        return self._prefix + key

    async def _ask(self, request: SharedRequest) -> SharedValue:
        try:
            answer = await self._stub.shared(request)
        except CoordinatorUnavailableError as error:
            message = "the shared state does not answer at the moment"
            raise UnavailableError(message, headers={"Retry-After": "1"}) from error
        if isinstance(answer, SharedRefused):
            raise InvalidRequestError(answer.reason)
        return answer


def _decode(answer: SharedValue) -> Any:
    return None if answer.value is NOTHING else values.decode(answer.value)


def _milliseconds(ttl: float | None) -> int | None:
    if ttl is None:
        return None
    if not isinstance(ttl, (int, float)) or not 0 < ttl <= limits.SHARED_TTL_SECONDS:
        message = f"ttl must be above 0 and at most {limits.SHARED_TTL_SECONDS} seconds, not {ttl!r:.50}"
        raise InvalidRequestError(message)
    return max(1, round(ttl * 1000))
