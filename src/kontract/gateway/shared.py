"""``ctx.shared`` as the application sees it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from kontract.core import documents, limits
from kontract.core.errors import InvalidRequestError, PayloadTooLargeError, UnavailableError
from kontract.core.messages import NOTHING
from kontract.core.shared import (
    SharedDelete,
    SharedGet,
    SharedIncr,
    SharedRefused,
    SharedRequest,
    SharedSet,
    SharedValue,
)
from kontract.gateway.http import encode_json
from kontract.ports import CoordinatorUnavailableError, DOStub

APP = "app/"
"""Before every key of the application, so that it cannot meet those of the gateway (rate limits, throttles)."""


class Shared:
    """Small values that all requests of the owner see at once. Not part of the transaction: nothing is undone.

    Keys are text of at most 512 bytes, values JSON of at most 64 KiB; ``ttl`` is in seconds. Errors of all methods:
    InvalidRequestError for what cannot be kept, UnavailableError when the owner's object does not answer.
    """

    def __init__(self, stub: DOStub, prefix: str = APP) -> None:
        """Use the values of ``stub``'s owner below ``prefix``."""
        self._stub = stub
        self._prefix = prefix

    async def get(self, key: str) -> Any | None:
        """Return a value, or None."""
        return _decode(await self._ask(SharedGet(self._key(key))))

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, for ``ttl`` seconds if given. None is no value: delete the key instead."""
        document = msgspec.to_builtins(value)
        if document is None:
            message = "shared: None cannot be kept; use delete"
            raise InvalidRequestError(message)
        documents.check(document, f"shared value {key!r:.100}")
        text = encode_json(document)
        if len(text) > limits.SHARED_VALUE_BYTES:
            message = f"shared value {key!r:.100} is larger than {limits.SHARED_VALUE_BYTES} bytes"
            raise PayloadTooLargeError(message)
        await self._ask(SharedSet(self._key(key), Raw(text), _milliseconds(ttl)))

    async def delete(self, key: str) -> bool:
        """Forget a value; false when there is none."""
        return _decode(await self._ask(SharedDelete(self._key(key)))) is not None

    async def incr(self, key: str, by: int = 1, ttl: float | None = None) -> int:
        """Add to a whole number and return the sum; what is not there counts as 0. ``ttl`` is that of a new key."""
        if not isinstance(by, int) or isinstance(by, bool) or abs(by) >= limits.SHARED_INTEGER:
            message = f"incr takes a whole number between -2**53 and 2**53, not this {type(by).__name__}"
            raise InvalidRequestError(message)
        return int(_decode(await self._ask(SharedIncr(self._key(key), by, _milliseconds(ttl)))))

    async def count_within(self, key: str, seconds: float) -> tuple[int, float]:
        """Count an event in a window that begins with its first one: (how many so far, seconds until it ends)."""
        answer = await self._ask(SharedIncr(self._key(key), 1, _milliseconds(seconds)))
        return int(_decode(answer)), (answer.ttl_ms or 0) / 1000

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
            message = "the shared state does not answer now"
            raise UnavailableError(message, headers={"Retry-After": "1"}) from error
        if isinstance(answer, SharedRefused):
            raise InvalidRequestError(answer.reason)
        return answer


def _decode(answer: SharedValue) -> Any:
    return None if answer.value is NOTHING else msgspec.json.decode(answer.value)


def _milliseconds(ttl: float | None) -> int | None:
    if ttl is None:
        return None
    if not isinstance(ttl, (int, float)) or not 0 < ttl <= limits.SHARED_TTL_SECONDS:
        message = f"ttl must be above 0 and at most {limits.SHARED_TTL_SECONDS} seconds, not {ttl!r:.50}"
        raise InvalidRequestError(message)
    return max(1, round(ttl * 1000))
