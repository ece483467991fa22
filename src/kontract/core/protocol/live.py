"""What a coordinator keeps in memory of running transactions and waiting callers."""

from __future__ import annotations

from msgspec import Struct

from kontract.core.messages import Begin
from kontract.core.protocol.phases import Phase
from kontract.core.protocol.records import Record, Ticket


class Live(Struct):
    """A transaction that has not finished, or finished above an unfinished one."""

    record: Record
    phase: Phase
    waiters: list[tuple[Ticket, int]] = []
    resolving: bool = False
    asked_at: int = 0
    resolve_not_before: int = 0
    witnesses: list[str] = []


class HeldBegin(Struct):
    """A begin whose answer waits."""

    ticket: Ticket
    message: Begin
    since: int
