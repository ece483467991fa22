"""Takes over an owner whose log has no valid coordinator: one node does it, all find it in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kontract.coordination import recovery
from kontract.coordination.custody import Custody
from kontract.coordination.questions import Questions
from kontract.core.messages import EndSession
from kontract.core.protocol.commands import Ask, Command, Start
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.protocol.replicated import ReplicatedCoordinator
from kontract.ports import Clock, CoordinatorUnavailableError, DatabaseUnavailableError, Log

START_TRIES = 5
START_PAUSE_MS = 40
"""Nodes that start an owner at the same moment get into each other's way: all but one try again, or find it done."""


class Takeover:
    """One owner's, on one node."""

    def __init__(
        self,
        owner: str,
        questions: Questions,
        custody: Custody,
        clock: Clock,
        log_line: Log,
        coordinator: Callable[[], ReplicatedCoordinator | None],
        catch_up: Callable[[], Awaitable[None]],
        send: Callable[[Command], Awaitable[None]],
    ) -> None:
        """``coordinator``: as this node has it now. ``catch_up``: with the log. ``send``: append a command to it."""
        self._owner = owner
        self._questions = questions
        self._custody = custody
        self._clock = clock
        self._log_line = log_line
        self._coordinator = coordinator
        self._catch_up = catch_up
        self._send = send

    async def if_needed(self) -> None:
        """Check whether the coordinator may continue, on a node that has caught up; if not, begin a new epoch.

        There is no log, or it belongs to other rules; or somebody without it has raised the epoch meanwhile, and this
        process starts; or a node of a release that does not number rows has written the checkpoint. Then this node
        takes the owner over, as a coordinator without a journal does.
        """
        coordinator = self._coordinator()
        if coordinator is not None and coordinator.knows_row_order and not await self._is_superseded(coordinator):
            return
        coordinator = self._coordinator()
        found = await self._raise_epoch(coordinator.epoch + 1 if coordinator else 1)
        if found is None:
            return
        epoch, highest, order = found
        ended = await self._questions.ended_sessions() if coordinator is None else {}
        # All at once, so that they stand in one entry: no node serves before it knows what was ended.
        said: list[Command] = [Start(epoch, recovery.above(epoch, highest), f"g{self._clock.now():x}", order)]
        said += [Ask(0, EndSession(session, until)) for session, until in ended.items()]
        sending = [asyncio.ensure_future(self._send(command)) for command in said]
        await asyncio.wait(sending)
        for sent in sending:
            await sent
        now = self._coordinator()
        if now is None:
            message = "the log has not begun with this node's start"
            raise CoordinatorUnavailableError(message)
        self._log_line("info", "coordinator_started", owner=self._owner, epoch=now.epoch, fresh=True)

    async def _is_superseded(self, coordinator: ReplicatedCoordinator) -> bool:
        """Return whether a coordinator outside our log has raised the epoch, whether the log has noticed it or not."""
        if coordinator.stage is CoordinatorStage.FENCED:
            return True
        current = await self._custody.look_first()
        if current is None or current <= coordinator.epoch:
            return False
        await self._catch_up()  # a node of ours may have raised it
        now = self._coordinator()
        return now is not None and now.epoch < current

    async def _raise_epoch(self, at_least: int) -> tuple[int, int, dict[str, int]] | None:
        """Raise the epoch; None when another node did it at the same moment, and the log says so."""
        for trial in range(START_TRIES):
            try:
                return await self._questions.take_over(at_least)
            except DatabaseUnavailableError:
                if trial + 1 == START_TRIES:
                    raise
            await self._clock.sleep(START_PAUSE_MS << trial)
            await self._catch_up()
            coordinator = self._coordinator()
            if coordinator is not None and coordinator.epoch >= at_least:
                return None
        raise AssertionError
