"""Shared state in the memory of this process."""

from __future__ import annotations

from kontract.core.shared.state import SharedAnswer, SharedRequest, SharedState
from kontract.ports import Clock


class LocalShared:
    """Shared state in this process, asked with values and answered at once."""

    def __init__(self, state: SharedState, clock: Clock) -> None:
        """Talk to ``state``."""
        self._state = state
        self._clock = clock

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Ask."""
        return self._state.handle(request, self._clock.now())
