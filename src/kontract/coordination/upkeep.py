"""A node's background work for an owner: it reports in the log what is due, collects, and writes checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from kontract.coordination.custody import Custody
from kontract.coordination.questions import Questions
from kontract.coordination.remover import Jobs, Removed, remove
from kontract.core.protocol.collection import Job
from kontract.core.protocol.commands import Claim, Collected, Command, Tick
from kontract.core.protocol.machine import Machine
from kontract.core.protocol.phases import CoordinatorStage
from kontract.ports import Log
from kontract.ports.shared_log import Checkpoint, LogUnavailableError, SharedLog

OTHERS_FIRST_MS = 200
"""How long a node lets others report that something is due, if none of its own callers waits for it."""


class Upkeep:
    """One owner's, on one node."""

    def __init__(
        self,
        owner: str,
        log: SharedLog,
        questions: Questions,
        custody: Custody,
        log_line: Log,
        machine: Callable[[], Machine],
        tell: Callable[[Command], Awaitable[None]],
    ) -> None:
        """``machine``: as this node has it now. ``tell``: append a command to the log."""
        self._owner = owner
        self._log = log
        self._questions = questions
        self._custody = custody
        self._log_line = log_line
        self._machine = machine
        self._tell = tell
        self.is_saying = False  # a command that is on its way

    def due(self, now: int, *, waits: bool) -> Command | None:
        """Return what is to be said in the log by now; ``waits``: whether a caller of this node waits for it."""
        machine = self._machine()
        coordinator = machine.coordinator
        if coordinator is None:
            return None
        due = coordinator.next_tick()
        if due is not None and due + (0 if waits else OTHERS_FIRST_MS) <= now:
            return Tick()
        due = machine.collection_due()
        if due is not None and due <= now and coordinator.stage is CoordinatorStage.SERVING:
            return Claim()
        return None

    def say(self, command: Command) -> Coroutine[Any, Any, None]:
        """Say it; nothing else is due until that is done."""

        async def say() -> None:
            try:
                await self._tell(command)
            finally:
                self.is_saying = False

        self.is_saying = True
        return say()

    async def collect(self) -> None:
        """Remove what may go, one job after the other: this node has the claim."""
        machine = self._machine()
        coordinator = machine.coordinator
        if coordinator is None:
            return
        epoch = coordinator.epoch

        def goes_on() -> bool:
            return self._machine() is machine and machine.coordinator is coordinator and coordinator.epoch == epoch

        async def done(job: Job) -> None:
            await self._tell(Collected(job.stage, job.up_to, rest=False))

        jobs = Jobs(epoch, goes_on, lambda: coordinator.witnesses.highest, machine.job, done)
        if await remove(self._owner, self._questions, self._log_line, jobs) is Removed.NOTHING:
            await self._custody.look()
        await self._tell(Collected(0, 0, rest=True))

    async def write_checkpoint(self) -> None:
        """Store the state, and remove from the log what is no longer needed."""
        machine = self._machine()
        checkpoint = Checkpoint(machine.position, machine.dump(), machine.at)
        floor, keep = machine.needed()
        try:
            await self._log.write_checkpoint(self._owner, checkpoint)
            # The last entry that the state covers stays: by it a node that is there tells this log from another one.
            await self._log.trim(self._owner, min(floor, checkpoint.position), keep)
        except LogUnavailableError as error:
            self._log_line("warning", "checkpoint", owner=self._owner, error=str(error))
