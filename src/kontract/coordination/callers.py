"""Callers that wait for an answer of the coordinator, by ticket.

Most messages are answered in the step that takes them. Then the answer is there before anybody waits for it, and costs
no future and no turn of the event loop.
"""

from __future__ import annotations

import asyncio

from kontract.core.messages import Answer


class Caller:
    """One who has sent a message."""

    __slots__ = ("_answer", "_error", "_waiting", "ticket")

    def __init__(self, ticket: int) -> None:
        """Take the ticket."""
        self.ticket = ticket
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is an answer, or an error in its place."""
        return self._answer is not None or self._error is not None

    def decide(self, answer: Answer) -> None:
        """Take the answer; only the first counts."""
        if self.is_done:
            return
        self._answer = answer
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Take an error in place of an answer; only the first counts."""
        if self.is_done:
            return
        self._error = error
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    async def answer(self) -> Answer:
        """Return the answer when it is there; raises the error that came in its place."""
        if self._error is not None:
            raise self._error
        if self._answer is not None:
            return self._answer
        self._waiting = asyncio.get_running_loop().create_future()
        return await self._waiting


class Callers:
    """Those of one shell."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._all: dict[int, Caller] = {}
        self._held: set[int] = set()
        self._last = 0

    def __len__(self) -> int:
        """Count them."""
        return len(self._all)

    @property
    def held(self) -> bool:
        """Whether somebody waits whose message has been taken."""
        return bool(self._held)

    def add(self) -> Caller:
        """Take one in, under a new ticket."""
        self._last += 1
        caller = self._all[self._last] = Caller(self._last)
        return caller

    def hold(self, caller: Caller) -> None:
        """Note that the caller's message has been taken, and that it is not answered yet."""
        self._held.add(caller.ticket)

    def remove(self, caller: Caller) -> None:
        """Forget one."""
        del self._all[caller.ticket]
        self._held.discard(caller.ticket)

    def find(self, ticket: int) -> Caller | None:
        """Return who has a ticket; None when it has gone."""
        return self._all.get(ticket)

    def decide_all(self, answer: Answer) -> None:
        """Give everybody the same answer."""
        for caller in list(self._all.values()):
            caller.decide(answer)

    def fail_all(self, error: type[Exception], reason: str) -> None:
        """Give everybody an error of its own."""
        for caller in list(self._all.values()):
            caller.fail(error(reason))
