"""How a coordinator notices that its database has gone back in time.

A failover to a lagging standby, or an older dump in place of the database, loses acknowledged commits without a trace:
the data is consistent, only older. So a coordinator remembers the fences of
some commits, its *witnesses*, and compares.

Which ones are enough? A database goes back to one moment, so commits are lost from the end: a commit that began after
another one was answered never exists without it. Witnesses are therefore the newest commits, those that no
later one vouches for. Each prepare hands them out; the apply statement commits nothing unless it finds their fences;
when it has committed, its own fence stands for theirs. There are never more than were under way at the same time. So no
commit goes to a database that has lost an earlier one: by induction over all commits, at one look-up each.

Reads go by the regular check of the epoch (EPOCH_TRUST_MS), which asks for the witnesses, too, and so does a caller
that has lost a connection. An epoch below the coordinator's says the same: epochs only rise.

System identifier and timeline of the server are not compared. They change in a failover that has lost nothing, and stay
when a dump is restored.

Fences go after FENCE_RETENTION_MS, except the highest that committed. So a witness that is half as old is not asked for
any more, unless it is the highest.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct

from kontract.core import limits
from kontract.core.protocol.phases import Phase
from kontract.core.protocol.records import Record


class Witness(Struct, frozen=True):
    """A commit whose fence must exist."""

    sid: str
    txid: int
    settled_at: int


class Verdict(Enum):
    """The relation of a coordinator to a database."""

    IN_CHARGE = "in charge"
    SUPERSEDED = "superseded"
    LEFT_BEHIND = "left behind"  # the database has gone back, or is another one: go on in a new epoch
    AWAITED = "awaited"  # the coordinator has gone on, and the database does not know of it yet: raise its epoch


def verdict(epoch: int, witnesses: int, current: int, missing: int) -> Verdict:
    """Judge the database's answer to a coordinator of ``epoch`` with so many ``witnesses``.

    ``current``: the epoch row (0: there is none). ``missing``: how many witnesses are missing.

    Continuing in a new epoch takes two steps, in this order: store it durably, then raise the epoch in the database. If
    something fails in between, the second step is done at the next check of the database; in the other order a
    coordinator could find itself superseded by its own epoch.
    """
    if current > epoch:
        return Verdict.SUPERSEDED
    if missing or (current < epoch and witnesses):
        return Verdict.LEFT_BEHIND
    return Verdict.AWAITED if current < epoch else Verdict.IN_CHARGE


class Witnesses:
    """The newest commits of one owner, those that no later one vouches for."""

    def __init__(self, found: Iterable[Witness] = ()) -> None:
        """Continue with those of an earlier life."""
        self._by_sid = {witness.sid: witness for witness in found}

    @property
    def highest(self) -> int:
        """The highest txid among them; 0 when there are none."""
        return max((witness.txid for witness in self._by_sid.values()), default=0)

    @property
    def all(self) -> list[Witness]:
        """All of them, in the order in which they were settled."""
        return list(self._by_sid.values())

    def sids(self, now: int) -> list[str]:
        """Return what must be in the database now."""
        oldest, highest = now - limits.FENCE_RETENTION_MS // 2, self.highest
        return [one.sid for one in self._by_sid.values() if one.settled_at > oldest or one.txid == highest]

    def recent(self, now: int) -> list[str]:
        """Return what must be in the database now, regardless of later commits."""
        oldest = now - limits.FENCE_RETENTION_MS // 2
        return [one.sid for one in self._by_sid.values() if one.settled_at > oldest]

    def add(self, record: Record, found: Iterable[str]) -> None:
        """Take a commit as a witness; its apply statement has ``found`` these, so it stands for them.

        The highest stays: its fence alone is never collected.
        """
        self._by_sid[record.sid] = Witness(record.sid, record.txid, record.settled_at)
        highest = self.highest
        for sid in found:
            witness = self._by_sid.get(sid)
            if witness is not None and witness.txid < highest and sid != record.sid:
                del self._by_sid[sid]
        while len(self._by_sid) > limits.PREPARED:  # workers that look at nothing: nodes of an earlier release
            del self._by_sid[next(sid for sid, one in self._by_sid.items() if one.txid < highest)]


def of_records(records: Iterable[Record]) -> list[Witness]:
    """Return the witnesses among the records of a journal."""
    committed = (record for record in records if record.phase == Phase.COMMITTED.value)
    return of_settled((record.txid, record.sid, record.prepared_at, record.settled_at) for record in committed)


def of_settled(commits: Iterable[tuple[int, str, int, int]]) -> list[Witness]:
    """Return the witnesses after a restart: all that settled since the highest was prepared.

    ``commits``: of each txid, sid, prepared_at and settled_at.
    """
    found = sorted(commits, key=lambda commit: (commit[3], commit[0]))
    if not found:
        return []
    _, _, since, _ = max(found)
    return [Witness(sid, txid, settled_at) for txid, sid, _, settled_at in found if settled_at >= since]
