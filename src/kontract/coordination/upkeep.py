"""What a node does for an owner besides answering: it removes what the collection has due, and writes checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kontract.coordination.custody import Custody
from kontract.coordination.questions import Questions
from kontract.coordination.remover import Remover, SupersededError
from kontract.core.protocol.commands import Collected, Command
from kontract.core.protocol.machine import Machine
from kontract.ports import DatabaseError, DatabaseUnavailableError, Log
from kontract.ports.shared_log import Checkpoint, LogUnavailableError, SharedLog


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

    async def collect(self) -> None:
        """Remove what may go, one job after the other: this node has the claim."""
        machine = self._machine()
        coordinator = machine.coordinator
        if coordinator is None:
            return
        epoch = coordinator.epoch

        def going() -> bool:
            return self._machine() is machine and machine.coordinator is coordinator and coordinator.epoch == epoch

        try:
            async with self._questions.store() as store:
                remover = Remover(
                    self._owner, epoch, store, self._log_line, going, lambda: coordinator.witnesses.highest
                )
                while remover.goes_on:
                    job = machine.job()
                    if job is None:
                        break
                    if await remover.run(job):
                        await self._tell(Collected(job.stage, job.up_to, rest=False))
        except SupersededError:
            await self._custody.look()
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log_line("warning", "collection", owner=self._owner, error=str(error))
        await self._tell(Collected(0, 0, rest=True))

    async def write_checkpoint(self) -> None:
        """Write the state down, and have the log forget what nobody needs any more."""
        machine = self._machine()
        checkpoint = Checkpoint(machine.position, machine.dump(), machine.at)
        floor, keep = machine.needed()
        try:
            await self._log.write_checkpoint(self._owner, checkpoint)
            # The last entry that the state covers stays: by it a node that is there tells this log from another one.
            await self._log.trim(self._owner, min(floor, checkpoint.position), keep)
        except LogUnavailableError as error:
            self._log_line("warning", "checkpoint", owner=self._owner, error=str(error))
