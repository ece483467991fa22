"""Broken variants of the protocol, each with one rule left out. The simulation must notice every one."""

from __future__ import annotations

from msgspec.structs import replace

from kontract.core.coordinator import FINISHED, Coordinator
from kontract.core.messages import Began, Committed, Finish, Key
from kontract.core.phases import Event, Phase, Stage
from kontract.core.transaction import RetryError, Transaction
from kontract.core.types import Snapshot, Txid
from kontract.ports import ApplyOutcome
from simulation.cluster import Shell
from simulation.database import Database
from simulation.world import Variant


class NoPredicateCheck(Coordinator):
    def _predicate_conflict(self, _predicate, _snapshot):
        return None


class PredicatesIgnorePrepared(Coordinator):
    def _predicate_conflict(self, predicate, snapshot):
        touched = self._log.first_touch(predicate, snapshot)
        return touched[0] if touched is not None else None


class KeysIgnorePrepared(Coordinator):
    def _validate(self, message):
        locks, self._locks = self._locks, {}
        try:
            return super()._validate(message)
        finally:
            self._locks = locks


class NoReadCheck(Coordinator):
    def _validate(self, message):
        return super()._validate(replace(message, reads=[]))


class NoWriteCheck(Coordinator):
    def _validate(self, message):
        written = {Key(write.ptr, write.id) for write in message.writes}
        return super()._validate(
            replace(message, writes=[], reads=[key for key in message.reads if key not in written])
        )


class SnapshotOfTheHighestFinished(Coordinator):
    def _try_begin(self, held, now):
        self.beginning = True
        try:
            return super()._try_begin(held, now)
        finally:
            self.beginning = False

    def _watermark(self):
        true = super()._watermark()
        if not getattr(self, "beginning", False):
            return true
        return max([true, *(txid for txid, live in self._live.items() if live.phase in FINISHED)])


class SnapshotOfTheNewest(SnapshotOfTheHighestFinished):
    def _watermark(self):
        return self._next_txid - 1 if getattr(self, "beginning", False) else super()._watermark()


class ReusesTxids(Coordinator):
    """After a restart it goes on above what has finished, not above what has been given."""

    def __init__(self, epoch, last_txid, journal=(), **more):
        finished = [record for record in journal if Phase(record.phase) in FINISHED]
        last = max((record.txid for record in finished), default=last_txid if not journal else 0)
        super().__init__(epoch, last, finished, **more)


class BeginsDuringRecovery(Coordinator):
    """It hands out a snapshot above transactions whose fences it has not read."""

    def _try_begin(self, held, now):
        if self.stage is Stage.RECOVERING:
            self._answer(held.ticket, Began(Snapshot(self._next_txid - 1), self.epoch))
            return True
        return super()._try_begin(held, now)


class AcceptsOldSnapshots(Coordinator):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self._log.floor = 0


class AnswersBeforeVisible(Coordinator):
    def _finish(self, ticket, message, now):
        super()._finish(ticket, message, now)
        if message.applied:
            self._answer(ticket, Committed(Txid(message.txid)))


class FailureIsAbort(Coordinator):
    """A worker's doubt settles the transaction; the fence is not read."""

    def _finish(self, ticket, message, now):
        live = self._live.get(message.txid)
        if live is None or message.applied or live.phase in FINISHED or live.resolving:
            super()._finish(ticket, message, now)
            return
        live.waiters.append((ticket, now))
        self._move(live, Event.FAILED)
        self._settle(live, Event.FENCE_VOID, now)


class ForgetsAnsweredCalls(Coordinator):
    def _replay(self, _ticket, _call, _known):
        return False


class PassesForeignFences(Coordinator):
    """A repeated call that met its own earlier commit tries again under the next fence."""

    def resolved(self, txid, fence, now):
        live = self._live.get(txid)
        effects = super().resolved(txid, fence, now)
        if live is not None and fence is not None and fence > 0 and fence != txid:
            live.record.number += 1
        return effects


class FinishesBeforeApply(Transaction):
    async def commit(self, result=None):
        self._store = _FinishFirst(self._store, self._tell)
        return await super().commit(result)


class _FinishFirst:
    def __init__(self, store, tell):
        self.resolve = store.resolve
        self._apply = store.apply
        self._tell = tell

    async def apply(self, plan):
        await self._tell(Finish(plan.txid, plan.epoch, applied=True))
        return await self._apply(plan)


class BelievesFailures(Transaction):
    """What the database did not confirm is taken as not done, by the worker alone."""

    async def _finish(self, prepared, outcome):
        if outcome is not ApplyOutcome.APPLIED:
            raise RetryError("failed", after=prepared.txid)
        return await super()._finish(prepared, outcome)


class AcknowledgesWithoutReply(Transaction):
    async def _finish(self, prepared, _outcome):
        return await super()._finish(prepared, ApplyOutcome.APPLIED)


class AbortWithoutFence(Database):
    abort_writes_fence = False


class ResolverDoesNotWait(Database):
    resolver_waits = False


class NoFenceCheck(Database):
    checks_fence = False


class NoEpochCheck(Database):
    checks_epoch = False


class NoVersionCheck(Database):
    checks_versions = False


class JournalAfterAnswers(Shell):
    def steps(self, effects):
        steps = super().steps(effects)
        return [*steps[1:], steps[0]] if effects.journal else steps


class JournalForgetsPrepared(Shell):
    """Only outcomes are journalled."""

    def steps(self, effects):
        effects.journal = [
            entry for entry in effects.journal if getattr(getattr(entry, "record", None), "phase", "") != "prepared"
        ]
        return super().steps(effects)


MUTANTS = {
    "no predicate check": Variant(coordinator=NoPredicateCheck),
    "predicates ignore prepared transactions": Variant(coordinator=PredicatesIgnorePrepared),
    "keys ignore prepared transactions": Variant(coordinator=KeysIgnorePrepared),
    "no read check": Variant(coordinator=NoReadCheck),
    "no write check at prepare": Variant(coordinator=NoWriteCheck),
    "no write check at all": Variant(coordinator=NoWriteCheck, database=NoVersionCheck),
    "snapshot of the highest finished": Variant(coordinator=SnapshotOfTheHighestFinished),
    "snapshot of the newest": Variant(coordinator=SnapshotOfTheNewest),
    "txids reused after a restart": Variant(coordinator=ReusesTxids),
    "begin does not wait for recovery": Variant(coordinator=BeginsDuringRecovery),
    "snapshot from before a restart accepted": Variant(coordinator=AcceptsOldSnapshots),
    "commit answered before it is visible": Variant(coordinator=AnswersBeforeVisible),
    "failure taken for an abort by the coordinator": Variant(coordinator=FailureIsAbort),
    "failure taken for an abort by the worker": Variant(transaction=BelievesFailures),
    "commit acknowledged without a reply": Variant(transaction=AcknowledgesWithoutReply),
    "finish before apply": Variant(transaction=FinishesBeforeApply),
    "idempotent calls forgotten": Variant(coordinator=ForgetsAnsweredCalls),
    "repeated calls pass the fence of their first commit": Variant(coordinator=PassesForeignFences),
    "abort without fence": Variant(database=AbortWithoutFence),
    "resolver does not wait for an apply in flight": Variant(database=ResolverDoesNotWait),
    "fence not unique": Variant(database=NoFenceCheck),
    "epoch not checked": Variant(database=NoEpochCheck),
    "journal after the answers": Variant(shell=JournalAfterAnswers),
    "prepare not journalled": Variant(shell=JournalForgetsPrepared),
    "no gap after a lost journal": Variant(takeover_gap=0),
}
