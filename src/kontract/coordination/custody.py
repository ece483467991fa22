"""Whether the owner's database is still the one that the log is about: asked by one node, decided by all.

A node that is asked to look up the epoch, or has lost a connection, compares (:mod:`kontract.core.protocol.witnesses`).
What it finds goes into the log. When the database has gone back in time it raises the epoch and says so there: then
every node goes on in the new epoch and generation, and forgets what calls had as results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kontract.coordination.questions import Questions
from kontract.core import limits
from kontract.core.protocol.commands import Command, EpochRead, Start
from kontract.core.protocol.replicated import ReplicatedCoordinator
from kontract.core.protocol.witnesses import Verdict, verdict
from kontract.ports import CoordinatorUnavailableError, DatabaseUnavailableError, Log

TAKE_OVER_PAUSES_MS = (50, 100, 200, 400, 800)
"""Pauses between reads of the log before a higher epoch counts as another deployment's: callers would then be refused
for good, while a node of this one that takes over the owner records it within two statements."""


class Custody:
    """One owner's, on one node."""

    def __init__(
        self,
        owner: str,
        questions: Questions,
        now: Callable[[], int],
        log_line: Log,
        coordinator: Callable[[], ReplicatedCoordinator | None],
        catch_up: Callable[[], Awaitable[None]],
        tell: Callable[[Command], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Look for ``owner``.

        ``now``: the time as the log tells it. ``coordinator``: as this node has it now. ``catch_up``: with the log.
        ``tell``: append a command to it. ``sleep``: for so many milliseconds.
        """
        self._owner = owner
        self._questions = questions
        self._now = now
        self._log_line = log_line
        self._coordinator = coordinator
        self._catch_up = catch_up
        self._tell = tell
        self._sleep = sleep
        self._doubted: asyncio.Future[None] | None = None
        self._doubts = 0
        self._unsure = False  # there was a doubt, and the database has not answered a question that was asked since
        self._skipped: ReplicatedCoordinator | None = None  # of before entries that this node has not read
        self._lost: ReplicatedCoordinator | None = None  # the log is older than this one, and no epoch is above it yet
        self._confirmed: tuple[int, int] | None = None  # in which epoch the database was ours, and when

    def doubt(self) -> None:
        """Look, because a connection was lost; until the answer is there nobody is shown anything."""
        self._confirmed = None
        self._unsure = True
        self._doubts += 1
        if self._coordinator() is not None:
            self._look_soon()

    def reloaded(self, old: ReplicatedCoordinator) -> None:
        """Look for what ``old`` knew, of before entries that this node has skipped.

        The log may have gone back there, and nodes that knew nothing of what was lost have gone on with it.
        """
        now = self._coordinator()
        if now is not None and now.epoch == old.epoch:
            self._skipped = old
            self.doubt()
        elif now is not None and now.epoch < old.epoch:
            self.fall_back(old)

    def fall_back(self, old: ReplicatedCoordinator) -> None:
        """Go on above what ``old`` had given: the log is older than that, and so is the database."""
        self._confirmed = None
        if self._lost is None or self._lost.highest_txid < old.highest_txid:
            self._lost = old
        self._doubted = asyncio.ensure_future(self._look_after(self._doubted))
        self._doubted.add_done_callback(self._sure)

    def tick(self) -> None:
        """Try again what did not succeed."""
        if self._lost is not None:
            self._look_soon()

    async def _look_after(self, before: asyncio.Future[None] | None) -> None:
        await self._look_now()
        if before is not None:
            await asyncio.wait([before])

    async def _look_now(self) -> None:
        lost = self._lost
        await (self.look() if lost is None else self._go_on(lost))

    async def _go_on(self, old: ReplicatedCoordinator) -> None:
        """Begin an epoch above what ``old`` had given; what it knew is not forgotten before."""
        await self._questions.announce(old, self._now())
        await self._catch_up()
        now = self._coordinator()
        if (
            now is None or now.epoch <= old.epoch or now.highest_txid < old.highest_txid
        ):  # else another node has done it
            epoch = max(old.epoch, now.epoch if now is not None else 0)
            order = dict(old.row_order)
            for ptr, last in (now.row_order if now is not None else {}).items():
                order[ptr] = max(last, order.get(ptr, 0))
            await self._start_above(epoch, max(old.highest_txid, now.highest_txid if now is not None else 0), order)
            now = self._coordinator()
        if now is not None and now.epoch > old.epoch and self._lost is old:
            self._lost = None

    async def be_sure(self) -> None:
        """Wait until there is no doubt; raises DatabaseUnavailableError when that cannot be found out now."""
        while self._doubted is not None:
            await asyncio.wait([self._doubted])
        if not self._in_doubt():
            return
        await asyncio.wait([self._look_soon()])
        if self._in_doubt():  # or there is another doubt already
            raise DatabaseUnavailableError("the database does not answer")

    def _in_doubt(self) -> bool:
        return self._lost is not None or (self._unsure and self._coordinator() is not None)

    def _look_soon(self) -> asyncio.Future[None]:
        if self._doubted is None:
            self._doubted = asyncio.ensure_future(self._look_now())
            self._doubted.add_done_callback(self._sure)
        return self._doubted

    async def confirm(self) -> None:
        """Look before an answer of before is repeated, unless that was done lately: its commit may be gone.

        Raises CoordinatorUnavailableError when it is to be asked again.
        """
        coordinator = self._coordinator()
        if coordinator is None or coordinator.was_in_charge(self._now()) or self._is_confirmed(coordinator):
            return
        epoch = coordinator.epoch
        await self.look()
        after = self._coordinator()
        if after is None or after.epoch != epoch or not self._is_confirmed(after):
            raise CoordinatorUnavailableError("the coordinator is restarting, or the database does not answer")

    def _is_confirmed(self, coordinator: ReplicatedCoordinator) -> bool:
        if self._confirmed is None:
            return False
        epoch, at = self._confirmed
        return epoch == coordinator.epoch and self._now() - at < limits.EPOCH_TRUST_MS

    def _sure(self, doubted: asyncio.Future[None]) -> None:
        if self._doubted is doubted:
            self._doubted = None
        if not doubted.cancelled() and doubted.exception() is not None:
            self._log_line("error", "custody", owner=self._owner, error=repr(doubted.exception()))

    async def look_first(self) -> int | None:
        """Look when this node starts; return the epoch in the database, None when it did not say.

        A successor's epoch is the caller's to deal with.
        """
        coordinator = self._coordinator()
        if coordinator is None:
            return None
        witnesses = coordinator.witnesses.sids(self._now())
        standing = await self._questions.standing(witnesses)
        if standing is None:
            return None
        current, missing = standing
        if verdict(coordinator.epoch, len(witnesses), current, missing) in (Verdict.LEFT_BEHIND, Verdict.AWAITED):
            await self.look()
        return current

    async def look(self) -> None:
        """Ask the database, and say in the log what it is."""
        doubts, skipped, coordinator = self._doubts, self._skipped, self._coordinator()
        if coordinator is None or not await self._look(coordinator, skipped):
            return
        if doubts == self._doubts:
            self._unsure, self._skipped = False, None

    async def _look(self, coordinator: ReplicatedCoordinator, skipped: ReplicatedCoordinator | None) -> bool:
        """Say whether the database has answered. ``skipped``: the coordinator of before entries that were not read."""
        epoch, asked_at = coordinator.epoch, self._now()
        witnesses = coordinator.witnesses.sids(asked_at)
        if skipped is not None and skipped.epoch == epoch:
            witnesses += [sid for sid in skipped.witnesses.recent(asked_at) if sid not in witnesses]
        standing = await self._questions.standing(witnesses)
        if standing is not None and standing[0] != epoch:
            await self._catch_up()
            if standing[0] > epoch:
                await self._await_start(coordinator, epoch)
        if coordinator is not self._coordinator() or coordinator.epoch != epoch:
            return standing is not None  # another node was faster
        if standing is None:
            await self._tell(EpochRead(None))
            return False
        current, missing = standing
        match verdict(epoch, len(witnesses), current, missing):
            case Verdict.LEFT_BEHIND:
                if skipped is not None and skipped.epoch == epoch:
                    self.fall_back(skipped)
                    return True
                await self._questions.announce(coordinator, self._now())
                await self._leave_behind(coordinator, epoch, 0)
                return True
            case Verdict.AWAITED:
                await self._claim(coordinator, epoch)
                return True
            case Verdict.SUPERSEDED:
                self._log_line("error", "fenced", owner=self._owner, epoch=epoch, current=current)
            case Verdict.IN_CHARGE:
                self._confirmed = epoch, asked_at
        await self._tell(EpochRead(current))
        return True

    async def _await_start(self, coordinator: ReplicatedCoordinator, epoch: int) -> None:
        """Wait a little for the entry of a node of ours: one that takes the owner over raises the epoch first."""
        for pause in TAKE_OVER_PAUSES_MS:
            if coordinator is not self._coordinator() or coordinator.epoch != epoch:
                return
            await self._sleep(pause)
            await self._catch_up()

    async def _leave_behind(self, coordinator: ReplicatedCoordinator, epoch: int, found: int) -> None:
        await self._start_above(epoch, max(found, coordinator.highest_txid), coordinator.row_order)

    async def _start_above(self, epoch: int, last_txid: int, order: dict[str, int]) -> None:
        """Have all nodes go on in the next epoch; only then raise the database's, so that none is fenced by it."""
        await self._tell(Start(epoch + 1, last_txid, f"g{self._now():x}", order, left_behind=True))
        coordinator = self._coordinator()
        if coordinator is not None and coordinator.epoch == epoch + 1:
            await self._claim(coordinator, epoch + 1)

    async def _claim(self, coordinator: ReplicatedCoordinator, epoch: int) -> None:
        highest = await self._questions.claim(epoch)
        if highest is None:
            await self._tell(EpochRead(None))
        elif highest > coordinator.highest_txid:
            await self._leave_behind(coordinator, epoch, highest)  # another database, with numbers of its own
        else:
            await self._tell(EpochRead(epoch))
