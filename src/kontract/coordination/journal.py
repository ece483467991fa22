"""The journal of a coordinator in one process: what a runtime must provide for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kontract.coordination.recovery import Saved
from kontract.core.protocol.collection import Mark
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.records import JournalEntry, Record


class Journal(Protocol):
    """Where a coordinator's state survives. Writes are synchronous: durable before any later message leaves.

    A write that raises ends the coordinator's life in memory: what is kept is read again before anything is answered.
    Every prefix of its entries must therefore be a state that a coordinator can start from; all entries are.
    """

    def load(self) -> Saved | None:
        """Return what is there; None when this coordinator has never run."""
        ...

    def start(self, epoch: int, last_txid: int, generation: str, ended: Mapping[str, int]) -> None:
        """Forget everything and begin in ``epoch``; ``generation`` names the event log that begins here.

        ``ended``: the sessions that were ended, each with the time when it may be forgotten.
        """
        ...

    def write(self, entries: list[JournalEntry]) -> None:
        """Make entries durable, in their order."""
        ...

    def newest(self, call: str) -> Record | None:
        """Return the newest record of an idempotent call."""
        ...

    def log_head(self) -> LogHead:
        """Return where the event log begins."""
        ...

    def committed(self, after: int, up_to: int) -> list[Record]:
        """Return the first committed records above ``after`` up to ``up_to``: see EventLog in core."""
        ...

    def published(self) -> int:
        """Return what :meth:`write_published` has kept: see kontract.core.protocol.hub.EventLog."""
        ...

    def write_published(self, txid: int) -> None:
        """Keep up to where all lines were up to date; :meth:`start` forgets it."""
        ...

    def marks(self) -> list[Mark]:
        """Return the collection's marks; :meth:`start` forgets them."""
        ...

    def write_marks(self, marks: list[Mark]) -> None:
        """Keep marks by their watermark; one that is done may go as soon as there is a newer one."""
        ...
