"""A coordinator on a desk: with a clock that is moved by hand, and everything it ever said kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from kontract.core.messages import Answer, Begin, Finish, Key, Predicate, Prepare, Request, Write
from kontract.core.protocol.coordinator import Coordinator
from kontract.core.protocol.records import Effects, JournalEntry, PutRecord, Record, Resolve

PTR = "tbl"


def write(row_id: str, value: Any = None, *, ptr: str = PTR, seen: int | None = None, old: Any = None) -> Write:
    """A write of ``value``; None deletes."""
    return Write("table", ptr, row_id, seen, Raw(msgspec.json.encode(value)), Raw(msgspec.json.encode(old)))


def key(row_id: str, ptr: str = PTR) -> Key:
    return Key(ptr, row_id)


def predicate(contains: dict | None = None, *, whole: bool = False, ptr: str = PTR, **more: bool) -> Predicate:
    return Predicate(ptr, Raw(msgspec.json.encode(contains or {})), whole=whole, **more)


class Desk:
    """Drives a Coordinator; tickets are numbers in order."""

    def __init__(self, epoch: int = 1, last_txid: int = 0, journal: Iterable[Record] = (), now: int = 1_000) -> None:
        self.coordinator = Coordinator(epoch, last_txid, journal)
        self.now = now
        self.tickets = 0
        self.answers: dict[int, Answer] = {}
        self.journal: list[JournalEntry] = []
        self.resolves: list[Resolve] = []
        self.published: list[Record] = []
        self.epoch_checks = 0
        self.last = Effects()
        self.take(self.coordinator.recover(self.now))

    def take(self, effects: Effects) -> Effects:
        for ticket, answer in effects.answers:
            assert ticket not in self.answers, f"ticket {ticket} was answered twice"
            self.answers[ticket] = answer
        # As a journal does: encoded at once, because the coordinator goes on changing its records.
        self.journal += [
            PutRecord(msgspec.json.decode(msgspec.json.encode(e.record), type=Record))
            if isinstance(e, PutRecord)
            else e
            for e in effects.journal
        ]
        self.resolves += effects.resolve
        self.published += effects.published
        self.epoch_checks += effects.check_epoch
        self.last = effects
        return effects

    def send(self, message: Request, known: Record | None = None) -> int:
        """Send a message and return its ticket."""
        self.tickets += 1
        self.take(self.coordinator.handle(self.tickets, message, self.now, known))
        return self.tickets

    def ask(self, message: Request, known: Record | None = None) -> Answer | None:
        """Send a message and return its answer, None when it is held back."""
        return self.answers.get(self.send(message, known))

    def begin(self, call: str = "reader", after: int = 0) -> Answer | None:
        return self.ask(Begin(call, after=after))

    def prepare(self, call: str, *writes: Write, snapshot: int | None = None, **more: Any) -> Answer | None:
        return self.ask(
            Prepare(call=call, writes=list(writes), snapshot=snapshot, **{"epoch": self.coordinator.epoch, **more})
        )

    def finish(self, txid: int, *, applied: bool = True, checked: bool = True) -> int:
        """Report on an apply and return the ticket. ``checked``: it looked for the witnesses, as all workers do now."""
        return self.send(Finish(txid, self.coordinator.epoch, applied, checked=checked))

    def commit(self, call: str, *writes: Write, **more: Any) -> int:
        """Prepare and finish; returns the txid."""
        txid = self.prepare(call, *writes, **more).txid
        self.finish(txid)
        return txid

    def resolved(self, txid: int, fence: int | None) -> Effects:
        return self.take(self.coordinator.resolved(txid, fence, self.now))

    def wait(self, milliseconds: int) -> None:
        """Let time pass, ticking whenever something is due, as a shell does."""
        end = self.now + milliseconds
        for _ in range(1_000):
            due = self.coordinator.next_tick()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.take(self.coordinator.tick(self.now))
        else:
            raise AssertionError("next_tick stays in the past: a shell would spin")
        self.now = end

    def records(self) -> list[Record]:
        """The newest state of every record in the journal: what a restarted coordinator finds."""
        newest = {entry.record.txid: entry.record for entry in self.journal if isinstance(entry, PutRecord)}
        return list(newest.values())
