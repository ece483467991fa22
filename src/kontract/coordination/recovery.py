"""How a coordinator comes to life, and how its effects on the database are carried out: the same for every shell."""

from __future__ import annotations

from msgspec import Struct

from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.records import Record
from kontract.core.protocol.row_order import beyond
from kontract.core.protocol.witnesses import Witness
from kontract.core.transaction.store import SqlStore
from kontract.ports import DatabaseUnavailableError

TAKEOVER_GAP = 1 << 20
"""Txids left out per lost journal: more than an earlier coordinator can have given without a trace in the database."""


class Saved(Struct, frozen=True):
    """What a journal holds: nothing of it may be newer than what its coordinator answered.

    ``order``: the numbers of the tables' rows (PutOrder); None when a release that does not know them has written.
    """

    epoch: int
    last_txid: int
    records: list[Record]
    ended: dict[str, int] = {}
    order: dict[str, int] | None = None
    witnesses: list[Witness] = []


async def start(owner: str, saved: Saved | None, store: SqlStore) -> Coordinator:
    """Return a coordinator for ``owner``.

    With a journal it goes on in the journal's epoch; PostgreSQL is not asked before somebody wants a snapshot: for
    those who write, the apply statement checks the epoch. (A journal of a release that did not number rows is the
    exception: their numbers are read once.) Without one it takes the owner over: it raises the epoch, so that nothing
    of an earlier coordinator can commit any more, and only then reads which txids and numbers are in use, and which
    sessions were ended. Raises what the database raises.
    """
    if saved is not None:
        order, journalled = saved.order, saved.order is not None
        if order is None:
            order = beyond(await store.row_order(owner), [record for record in saved.records if not record.settled_at])
        coordinator = Coordinator(
            saved.epoch, saved.last_txid, saved.records, saved.ended, in_charge=False, witnesses=saved.witnesses
        )
        coordinator.set_row_order(order, journalled=journalled)
        return coordinator
    epoch, highest, order = await take_over(owner, 1, store)
    coordinator = Coordinator(epoch, above(epoch, highest), ended=await store.ended_sessions(owner))
    coordinator.set_row_order(order)
    return coordinator


async def take_over(owner: str, at_least: int, store: SqlStore) -> tuple[int, int, dict[str, int]]:
    """Raise the epoch; return it, the highest txid in use, and a number above which no row of each table is.

    Raises what the database raises, and DatabaseUnavailableError when another coordinator has raised the epoch again
    meanwhile: what was read may then hold txids and numbers of its commits, as if they were from before.
    """
    epoch, highest = await store.take_over(owner, at_least)
    order = await store.row_order(owner)
    if await store.read_epoch(owner) != epoch:
        message = f"another coordinator took over {owner!r} while this one started"
        raise DatabaseUnavailableError(message)
    return epoch, highest, order


def above(epoch: int, highest: int) -> int:
    """Return the txid that a coordinator without a journal begins above, for the highest one in the database.

    Snapshots and unapplied transactions of earlier epochs may still be in use, at numbers nothing in the database
    tells: above these, no old snapshot can see a new commit change, and no old finish can name a new transaction.
    """
    return highest + (epoch - 1) * TAKEOVER_GAP


def anew(old: Coordinator, found: int) -> Coordinator:
    """Return the successor of a coordinator whose database has gone back in time, was reset or replaced.

    In the next epoch, which the database does not know yet; above every number that was given and above ``found``, the
    highest in the database. Sessions that were ended stay ended. All else that the old one knew may be gone; results of
    calls are asked of their fences.
    """
    coordinator = Coordinator(old.epoch + 1, max(found, old.highest_txid), ended=old.ended_sessions, in_charge=False)
    coordinator.set_row_order(old.row_order)  # what else the sequences say, workers bring along
    return coordinator
