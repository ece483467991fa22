"""The common part of all shells around a coordinator: callers, streams, the start, and questions to the database.

:class:`~kontract.coordination.shell.CoordinatorShell` and :class:`~kontract.coordination.replica.Replica` say what is
different: how a message reaches the coordinator, and how what follows from it becomes durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kontract.coordination.callers import Callers
from kontract.coordination.questions import Questions, unready
from kontract.coordination.states import STOPPED, ShellEvent, ShellState, StoppedError, next_state
from kontract.core.events import End, Page
from kontract.core.messages import Answer, Request, Unready
from kontract.core.protocol.audience import Subscriber
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.hub import EventLog, Hub
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.protocol.records import Record, Resolve
from kontract.ports import (
    Clock,
    CoordinatorUnavailableError,
    Database,
    DatabaseError,
    DatabaseUnavailableError,
    Log,
)
from kontract.ports.shared_log import LogUnavailableError

STARTS_AGAIN = "the coordinator is restarting"


class Host:
    """One owner's coordinator in this process. Implements CoordinatorStub."""

    def __init__(
        self, owner: str, events: EventLog, open_database: Callable[[], Database], clock: Clock, log_line: Log
    ) -> None:
        """Wait for the first message. ``events``: what was committed, for streams that catch up."""
        self.owner = owner
        self.hub = Hub(events)
        self.state = ShellState.ASLEEP
        self._questions = Questions(owner, open_database, log_line)
        self._clock = clock
        self._log_line = log_line
        self._callers = Callers()
        self._starting: asyncio.Future[None] | None = None
        self._until_serving: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Future[None]] = set()

    # --- what shells differ in ---------------------------------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator | None:
        """The state machine as this shell has it now; None before there is one."""
        raise NotImplementedError

    def doubt(self) -> None:
        """Look whether the database is still the same: a connection to it was lost."""
        raise NotImplementedError

    async def _begin(self) -> None:
        """Have a coordinator, and turn to STARTED when there is one."""
        raise NotImplementedError

    async def _answer(self, request: Request) -> Answer:
        """Answer a message; there is a coordinator, unless it was lost a moment ago."""
        raise NotImplementedError

    async def _prepare_page(self, since: str | None, watermark: int) -> bool:
        """Whether the next page after a position is in memory; False: it may be now, look again."""
        raise NotImplementedError

    async def _take_fence(self, coordinator: Coordinator | None, question: Resolve, fence: int | None) -> None:
        """Pass on what a fence holds; ``coordinator``: whose question it was."""
        raise NotImplementedError

    # --- for callers -------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer:
        """Answer one message of a worker; raises CoordinatorUnavailableError when it has to be asked again."""
        try:
            if not self._is_awake:
                await self._wake_up()
            return self._questions.explained(await self._answer(request))
        except (DatabaseError, DatabaseUnavailableError) as error:
            self._log_line("error", "coordinator_start", owner=self.owner, error=str(error))
            return self._questions.explained(unready(error))
        except StoppedError as stopped:
            return Unready(str(stopped))
        except LogUnavailableError as error:
            raise CoordinatorUnavailableError(str(error)) from error

    # --- for streams -------------------------------------------------------------------------------------------------

    async def resume(self, subscriber: Subscriber, since: str | None) -> Page | End:
        """Return the next page for somebody who listens, or why there is none; waits until this coordinator serves.

        Raises CoordinatorUnavailableError when it cannot, or has to be asked again.
        """
        try:
            if not self._is_awake:
                await self._wake_up()
            await self._be_current()
            return await self._page(subscriber, since)
        except (LogUnavailableError, DatabaseError, DatabaseUnavailableError, StoppedError) as error:
            raise CoordinatorUnavailableError(str(error)) from error

    async def _be_current(self) -> None:
        """Know what was committed before this was called, on whichever node."""

    async def _page(self, subscriber: Subscriber, since: str | None) -> Page | End:
        while True:
            coordinator = self.coordinator
            if coordinator is None or coordinator.stage is CoordinatorStage.FENCED or self.state in STOPPED:
                raise CoordinatorUnavailableError(STARTS_AGAIN)
            if coordinator.stage is CoordinatorStage.SERVING:
                if coordinator.has_ended(subscriber.subscription.session):
                    return End("session")
                if await self._prepare_page(since, coordinator.watermark):
                    return self.hub.page(subscriber, since, coordinator.watermark)
            else:
                await self._look_again()

    async def _look_again(self) -> None:
        """Wait until the coordinator has come to another stage, or has gone."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._until_serving.append(waiting)
        await waiting

    def _let_look_again(self) -> None:
        waiting, self._until_serving = self._until_serving, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _publish(self, records: list[Record], coordinator: Coordinator) -> bool:
        """Tell those who listen of what has become visible; False when the coordinator does not serve."""
        serves = coordinator.stage is CoordinatorStage.SERVING
        if serves:
            self.hub.publish(records, coordinator.watermark)
        elif coordinator.stage is CoordinatorStage.FENCED:
            self.hub.end_all("fenced")
        if coordinator.stage is not CoordinatorStage.RECOVERING:
            self._let_look_again()
        return serves

    # --- starting ----------------------------------------------------------------------------------------------------

    @property
    def _is_awake(self) -> bool:
        return self.state is ShellState.AWAKE

    async def _wake_up(self) -> None:
        """Start. Everybody who arrives meanwhile waits for the same start."""
        if self._starting is None:
            self._check_stopped()
            self._turn(ShellEvent.CALLED)
            self._starting = asyncio.ensure_future(self._begin())
            self._starting.add_done_callback(self._began)
        await asyncio.shield(self._starting)

    def _began(self, future: asyncio.Future[None]) -> None:
        self._starting = None
        failed = future.cancelled() or future.exception() is not None  # everybody who waited has it
        if failed and self.state is ShellState.STARTING:
            self._turn(ShellEvent.FAILED)

    def _turn(self, event: ShellEvent) -> None:
        self.state = next_state(self.state, event)

    def _check_stopped(self) -> None:
        if self.state in STOPPED:
            raise StoppedError(STOPPED[self.state])

    # --- working -----------------------------------------------------------------------------------------------------

    async def _resolve(self, coordinator: Coordinator | None, question: Resolve) -> None:
        await self._take_fence(coordinator, question, await self._questions.fence(question.sid, question.txid))

    def _log_fence(self, question: Resolve, fence: int | None) -> None:
        self._log_line("info", "resolved", owner=self.owner, txid=question.txid, sid=question.sid, fence=fence)

    def _new_generation(self) -> str:
        return f"g{self._clock.now():x}"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
