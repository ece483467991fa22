"""What carries a call: implement ``Transport`` to send calls in another way, or to test without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Answer(NamedTuple):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Carries calls to the gateway."""

    async def send(self, function: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one call and wait for its answer; raises ClientError.

        Names of headers are in lower case; ``authorization`` is among them when there is a token. ``body``: the JSON
        array of arguments. Whoever raises says with ``maybe_applied`` whether the call may have arrived.
        """
        ...
