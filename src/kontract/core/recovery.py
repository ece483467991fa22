"""How a coordinator comes to life, and how its effects on the database are carried out: the same for every shell."""

from __future__ import annotations

from msgspec import Struct

from kontract.core.coordinator import Coordinator
from kontract.core.records import Record
from kontract.core.store import SqlStore

TAKEOVER_GAP = 1 << 20
"""Txids left out per lost journal: more than an earlier coordinator can have given without a trace in the database."""


class Saved(Struct, frozen=True):
    """What a journal holds: nothing of it may be newer than what its coordinator answered."""

    epoch: int
    last_txid: int
    records: list[Record]
    ended: dict[str, int] = {}


async def start(owner: str, saved: Saved | None, store: SqlStore) -> Coordinator:
    """Return a coordinator for ``owner``.

    With a journal it goes on in the journal's epoch; PostgreSQL is not asked before somebody wants a snapshot: for
    those who write, the apply statement checks the epoch. Without one it takes the owner over: it raises the epoch, so
    that nothing of an earlier coordinator can commit any more, and only then reads which txids are in use, and which
    sessions were ended. Raises what the database raises.
    """
    if saved is not None:
        return Coordinator(saved.epoch, saved.last_txid, saved.records, saved.ended, in_charge=False)
    epoch, highest = await store.take_over(owner, at_least=1)
    return Coordinator(epoch, above(epoch, highest), ended=await store.ended_sessions(owner))


def above(epoch: int, highest: int) -> int:
    """Return the txid that a coordinator without a journal begins above, for the highest one in the database.

    Snapshots and unapplied transactions of earlier epochs may still be in use, at numbers nothing in the database
    tells: above these, no old snapshot can see a new commit change, and no old finish can name a new transaction.
    """
    return highest + (epoch - 1) * TAKEOVER_GAP


async def start_anew(owner: str, old: Coordinator, store: SqlStore) -> Coordinator:
    """Take ``owner`` over for a database that does not know the epoch of ``old`` (it was reset or replaced).

    Sessions that were ended stay so, whatever that database knows of them.
    """
    ended = await store.ended_sessions(owner)
    raised, highest = await store.take_over(owner, at_least=old.epoch + 1)
    return Coordinator(raised, max(highest, old.highest_txid), ended=ended | old.ended_sessions)
