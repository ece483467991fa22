"""The transport of calls: implement ``Transport`` to send calls in another way, or to test without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Answer(NamedTuple):
    """The answer to a call. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Sends calls to the gateway."""

    async def send(self, function: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one call and wait for its answer; raises ClientError.

        Header names are in lower case; ``authorization`` is among them if there is a token. ``body``: the JSON array of
        arguments. Errors say with ``maybe_applied`` whether the call may have arrived.
        """
        ...
