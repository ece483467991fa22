"""When dead versions and old fences may be removed, as a pure state machine.

Rows carry no time. So while an owner is active, the coordinator's watermark is recorded together with the time: a
*mark*. Everything at or below the watermark of a mark had finished when the mark was made; once the mark is
:data:`~kontract.core.limits.RETENTION_MS` old, versions that were dead by then have been dead for at least that long.
Only snapshots below ``D`` see a version that ended at ``D``, so it may be removed when ``D`` is not above the mark's
watermark and not above the oldest snapshot in use.

A mark is used twice, for versions and, a day later, for fences, and then dropped. The newest one is kept even then: it
says up to where everything is done, so that an idle owner has nothing due and is not woken.

The statements (:func:`kontract.core.transaction.fences.collect_versions`,
:func:`~kontract.core.transaction.fences.collect_fences`) delete nothing unless the epoch is theirs: a superseded
coordinator does not know the oldest snapshot in use.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from msgspec import Struct

from kontract.core import limits


class CollectionStage(IntEnum):
    """What has been removed up to a mark."""

    NOTHING = 0
    VERSIONS = 1
    FENCES = 2


AGE = {CollectionStage.VERSIONS: limits.RETENTION_MS, CollectionStage.FENCES: limits.FENCE_RETENTION_MS}
"""How old a mark must be, in milliseconds, before this is removed up to it."""


class Mark(Struct, frozen=True):
    """At ``time`` (milliseconds) everything at or below ``watermark`` had finished."""

    watermark: int
    time: int
    stage: int = CollectionStage.NOTHING


class Job(Struct, frozen=True):
    """Remove versions or fences up to and including the txid ``up_to``, then tell :meth:`Collection.done`."""

    stage: CollectionStage
    up_to: int


class Collection:
    """The marks of one owner."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        """Continue with the marks of a journal."""
        self.marks = sorted(marks, key=lambda mark: mark.watermark)
        self.not_before = 0

    def observe(self, watermark: int, now: int) -> Mark | None:
        """Return a new mark, to be kept in the journal, if there was work and the newest mark is old enough."""
        due = self._next_mark(watermark)
        if due is None or now < due:
            return None
        mark = Mark(watermark, now)
        self.marks.append(mark)
        return mark

    def due(self, watermark: int) -> int | None:
        """Return when there is something to do, in milliseconds; None for an idle owner."""
        times = [mark.time + AGE[stage] for stage in AGE for mark in self._open(stage)[:1]]
        next_mark = self._next_mark(watermark)
        if next_mark is not None:
            times.append(next_mark)
        return max(min(times), self.not_before) if times else None

    def job(self, oldest_snapshot: int, now: int) -> Job | None:
        """Return what may be removed now, if anything."""
        if now < self.not_before:
            return None
        for stage, age in AGE.items():
            ripe = [mark.watermark for mark in self._open(stage) if mark.time + age <= now]
            if ripe and ripe[-1] > oldest_snapshot:
                # A snapshot older than the mark means that the clock jumped: wait for its lease to end.
                ripe = [watermark for watermark in ripe if watermark <= oldest_snapshot]
                if not ripe:
                    self.postpone(now + limits.LEASE_MS)
            if ripe:
                return Job(stage, ripe[-1])
        return None

    def done(self, job: Job) -> list[Mark]:
        """Note that a job is finished; return the marks that changed, to be kept in the journal."""
        changed = []
        for index, mark in enumerate(self.marks):
            if mark.watermark <= job.up_to and mark.stage < job.stage:
                self.marks[index] = Mark(mark.watermark, mark.time, job.stage)
                changed.append(self.marks[index])
        self.marks = [mark for mark in self.marks[:-1] if mark.stage < CollectionStage.FENCES] + self.marks[-1:]
        return changed

    def postpone(self, until: int) -> None:
        """Do nothing until then."""
        self.not_before = until

    def _open(self, stage: CollectionStage) -> list[Mark]:
        return [mark for mark in self.marks if mark.stage < stage]

    def _next_mark(self, watermark: int) -> int | None:
        if not self.marks:
            return 0 if watermark > 0 else None
        newest = self.marks[-1]
        return newest.time + limits.RETENTION_MS if watermark > newest.watermark else None
