"""Shared state in the memory of this process."""

from __future__ import annotations

from kontract.core.shared import state as shared
from kontract.core.shared.state import SharedAnswer, SharedRequest, SharedState
from kontract.ports import Clock


class LocalShared:
    """Shared state in this process, reached through the same text messages as a remote one."""

    def __init__(self, state: SharedState, clock: Clock) -> None:
        """Talk to ``state``."""
        self._state = state
        self._clock = clock

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Ask."""
        answer = self._state.handle(shared.decode_request(shared.encode(request)), self._clock.now())
        return shared.decode_answer(shared.encode(answer))
