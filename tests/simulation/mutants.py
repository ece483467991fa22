"""Broken variants of the protocol, each with one rule left out. The simulation must notice every one."""

from __future__ import annotations

from msgspec.structs import replace

from kontract.coordination.shell import CoordinatorShell
from kontract.core.messages import Began, Committed, Finish, Key
from kontract.core.protocol.collection import Collection, Job
from kontract.core.protocol.collection import CollectionStage as Collected
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.phases import CoordinatorStage, PhaseEvent
from kontract.core.protocol.records import FINISHED, PutOrder, PutRecord
from kontract.core.transaction.transaction import RetryError, Transaction
from kontract.core.types import Snapshot, Txid
from kontract.ports import ApplyOutcome
from simulation.cluster import Journal
from simulation.database import Database
from simulation.world import Variant, simulate


class NumbersRowsWhileApplying(Coordinator):
    """New rows take their numbers from the table's sequence, in whatever order the statements run."""

    def set_row_order(self, last, **more):
        pass


class NumbersRowsFromOne(Coordinator):
    """It does not ask which numbers there are."""

    def set_row_order(self, last, **more):
        super().set_row_order({}, **more)


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

    def __init__(self, epoch, last_txid, journal=(), ended=None, **more):
        super().__init__(epoch, min((record.txid for record in journal), default=last_txid + 1) - 1, (), ended, **more)


class BeginsDuringRecovery(Coordinator):
    """It hands out a snapshot above transactions whose fences it has not read."""

    def _try_begin(self, held, now):
        if self.stage is CoordinatorStage.RECOVERING:
            self._answer(held.ticket, Began(Snapshot(self._next_txid - 1), self.epoch))
            return True
        return super()._try_begin(held, now)


class AcceptsOldSnapshots(Coordinator):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self._log.floor = 0


class ShowsWhatItHas(Coordinator):
    """It gives snapshots without knowing whether it is still in charge."""

    def _may_show(self, _now):
        return True


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
        self._move(live, PhaseEvent.FAILED)
        self._settle(live, PhaseEvent.FENCE_VOID, now)


class ForgetsAnsweredCalls(Coordinator):
    """And says that it would know."""

    def _replay(self, _ticket, _call, _known):
        return False

    def _began(self, _message, snapshot, _now):
        return Began(Snapshot(snapshot), self.epoch)


class IsAlwaysSure(Coordinator):
    """What it does not know, it says, was never done."""

    def _began(self, _message, snapshot, _now):
        return Began(Snapshot(snapshot), self.epoch)


class RemembersRowsOnly(Transaction):
    """A call that writes nothing leaves nothing."""

    async def commit(self, result=None):
        return await super().commit(result) if self._writes else None


class PassesForeignFences(IsAlwaysSure):
    """A repeated call that met its own earlier commit tries again under the next fence.

    It would not come that far if its fence were asked before it runs, so that is missing, too.
    """

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

    async def _finish(self, prepared, outcome, refused):
        if outcome is not ApplyOutcome.APPLIED:
            raise RetryError("failed", after=prepared.txid)
        return await super()._finish(prepared, outcome, refused)


class BelievesRefusals(Transaction):
    """What the database has refused for good is told to the caller without a look at the fence."""

    async def _finish(self, prepared, outcome, refused):
        if refused is not None and refused.answer is not None:
            raise refused.answer
        return await super()._finish(prepared, outcome, refused)


class AcknowledgesWithoutReply(Transaction):
    async def _finish(self, prepared, _outcome, refused):
        return await super()._finish(prepared, ApplyOutcome.APPLIED, refused)


class SequenceStaysBehind(Database):
    """Nobody tells the table's sequence of the numbers that the coordinator gave."""

    sequence_follows = False


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


class RaisesBlindly(Database):
    """The epoch is raised whatever it has become meanwhile."""

    compares_epochs = False


class OverwritesUnseen(Database):
    """A read of a plain table shows nothing where a newer row has overwritten what it should show."""

    refuses_old_snapshots = False


class JournalAfterAnswers(Journal):
    """A write is on disk a little later than the answer leaves."""

    def write(self, entries):
        entries = [PutRecord(replace(entry.record)) if isinstance(entry, PutRecord) else entry for entry in entries]
        self.kernel.after(3, lambda: super(JournalAfterAnswers, self).write(entries) if self.written_by.alive else None)


class JournalForgetsPrepared(Journal):
    """Only outcomes are journalled."""

    def write(self, entries):
        super().write(
            [entry for entry in entries if getattr(getattr(entry, "record", None), "phase", "") != "prepared"]
        )


class JournalForgetsNumbers(Journal):
    """Which numbers rows have is not journalled after the start."""

    def write(self, entries):
        super().write([entry for entry in entries if not (isinstance(entry, PutOrder) and self.order_known)])


class OutlivesJournal(CoordinatorShell):
    """It goes on with what it could not write down."""

    def _abandon(self, event, error):
        self._log_line("error", event, owner=self.owner, error=repr(error))


class CommitsWithoutWitnesses(Database):
    """The apply statement does not look for witnesses."""

    looks_for_witnesses = False


class LooksForNoWitnesses(CoordinatorShell):
    """The coordinator compares the epoch only."""

    async def _check_epoch(self):
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.witnesses.sids = lambda _now: []
        await super()._check_epoch()


class RaisesFirst(CoordinatorShell):
    """The epoch of the database is raised before that is written down."""

    def _leave_behind(self, old, found):
        return old

    async def _claim(self, coordinator):
        highest = await self._questions.claim(coordinator.epoch + 1)
        if highest is None or coordinator is not self._coordinator:
            return None
        fresh = super()._leave_behind(coordinator, highest)
        return fresh.epoch


class ForgetsWitnesses(Journal):
    """They do not survive a restart."""

    def load(self):
        saved = super().load()
        return saved and replace(saved, witnesses=[])


class NeverChecksEpoch(CoordinatorShell):
    async def _check_epoch(self):
        pass


class CollectsInUse(Collection):
    """Everything that has ended goes at once."""

    def job(self, oldest_snapshot, now):
        if now < self._not_before:
            return None
        marks = self._open(Collected.VERSIONS)
        return Job(Collected.VERSIONS, marks[-1].watermark) if marks else super().job(oldest_snapshot, now)

    def due(self, watermark):
        return self._not_before if self._open(Collected.VERSIONS) else super().due(watermark)

    def _next_mark(self, watermark):
        return 0 if not self.marks or watermark > self.marks[-1].watermark else None


class CollectsUnfinished(CollectsInUse):
    """Fences of transactions that have not finished go, too."""

    def job(self, oldest_snapshot, now):
        if now < self._not_before or not self._open(Collected.FENCES):
            return None
        return Job(Collected.FENCES, Txid(2**53 - 1))

    def due(self, watermark):
        return self._not_before if self._open(Collected.FENCES) else super().due(watermark)


LIVENESS = ("alive", "stuck")
"""How lines begin that complain of too little, not of something wrong."""

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
    "refusal taken for an abort by the worker": Variant(transaction=BelievesRefusals),
    "commit acknowledged without a reply": Variant(transaction=AcknowledgesWithoutReply),
    "finish before apply": Variant(transaction=FinishesBeforeApply),
    "idempotent calls forgotten": Variant(coordinator=ForgetsAnsweredCalls),
    "calls of before the journal taken for new": Variant(coordinator=IsAlwaysSure),
    "calls that write nothing forgotten": Variant(transaction=RemembersRowsOnly),
    "repeated calls pass the fence of their first commit": Variant(coordinator=PassesForeignFences),
    "abort without fence": Variant(database=AbortWithoutFence),
    "resolver does not wait for an apply in flight": Variant(database=ResolverDoesNotWait),
    "fence not unique": Variant(database=NoFenceCheck),
    "epoch not checked": Variant(database=NoEpochCheck),
    "epoch raised blindly": Variant(database=RaisesBlindly),
    "snapshots of a superseded coordinator": Variant(coordinator=ShowsWhatItHas),
    "journal after the answers": Variant(journal=JournalAfterAnswers),
    "prepare not journalled": Variant(journal=JournalForgetsPrepared),
    "journal that fails ignored": Variant(shell=OutlivesJournal),
    "epoch never looked up": Variant(shell=NeverChecksEpoch),
    "plain rows overwritten unseen": Variant(database=OverwritesUnseen),
    "versions collected in use": Variant(collection=CollectsInUse),
    "fences of unfinished transactions collected": Variant(collection=CollectsUnfinished),
    "no gap after a lost journal": Variant(takeover_gap=0),
    "rows numbered while applying": Variant(coordinator=NumbersRowsWhileApplying),
    "rows numbered from one after a restart": Variant(coordinator=NumbersRowsFromOne),
    "numbers of rows not journalled": Variant(journal=JournalForgetsNumbers),
    "sequence left behind the numbers of rows": Variant(database=SequenceStaysBehind),
}

IN_ITS_SCENARIO = {"calls of before the journal taken for new"}
"""No workload fails because of what its own first run did, which is what shows this one: its scenario does."""

BACK_MUTANTS = {
    "commits do not look for witnesses": Variant(database=CommitsWithoutWitnesses),
    "the coordinator looks for no witnesses": Variant(shell=LooksForNoWitnesses),
    "the epoch is raised before that is written down": Variant(shell=RaisesFirst),
    "witnesses forgotten at a restart": Variant(journal=ForgetsWitnesses),
}
"""Caught when the database goes back in time."""

SHAPES = {
    "no predicate check": "write skew by predicate",
    "predicates ignore prepared transactions": "write skew by predicate",
    "keys ignore prepared transactions": "two blind writes",
    "no read check": "write skew by key",
    "no write check at prepare": "two blind writes",
    "no write check at all": "two blind writes",
    "snapshot of the highest finished": "slow writer, quick writer, reader",
    "snapshot of the newest": "blind write beside read-only",
    "txids reused after a restart": "blind write",
    "begin does not wait for recovery": "coordinator dead during apply",
    "snapshot from before a restart accepted": "two increments, one later",
    "commit answered before it is visible": "slow writer, quick writer, reader",
    "failure taken for an abort by the coordinator": "blind write",
    "failure taken for an abort by the worker": "blind write",
    "commit acknowledged without a reply": "blind write",
    "finish before apply": "idempotent",
    "idempotent calls forgotten": "idempotent",
    "calls of before the journal taken for new": "journal lost before a repetition",
    "calls that write nothing forgotten": "idempotent read, repeated",
    "repeated calls pass the fence of their first commit": "journal lost before two repetitions",
    "abort without fence": "blind write",
    "resolver does not wait for an apply in flight": "two blind writes",
    "fence not unique": "blind write",
    "epoch not checked": "superseded before apply",
    "epoch raised blindly": "journal lost after apply",
    "snapshots of a superseded coordinator": "superseded reader",
    "journal after the answers": "blind write",
    "prepare not journalled": "blind write",
    "journal that fails ignored": "blind write",
    "epoch never looked up": "superseded reader",
    "plain rows overwritten unseen": "plain: two increments",
    "versions collected in use": "versions collected",
    "fences of unfinished transactions collected": "fences collected",
    "no gap after a lost journal": "superseded before apply",
    "rows numbered while applying": "two that push",
    "rows numbered from one after a restart": "push, restart, push",
    "numbers of rows not journalled": "push, restart, push",
    "sequence left behind the numbers of rows": "push, journal lost, push",
}
"""A scenario in which one fault shows that a rule is missing. One variant needs two: a refusal taken for an abort."""

SEEDS = 3000
"""Seeds a variant gets before it counts as unnoticed; the hardest to catch takes about 900."""


LIKELY = (10, 62, 71, 105, 134, 139, 207, 255, 307, 620, 735, 869, 1696, 5149)
"""Seeds that noticed variants which others hardly notice; they are tried before the others, to save time."""


def first_caught(name: str) -> int | None:
    """Return a seed that notices a broken variant."""
    seeds = (*range(30), *LIKELY, *range(30, SEEDS))
    return next((seed for seed in seeds if simulate(seed, MUTANTS[name]).wrong), None)
