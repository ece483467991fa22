"""The streams of an owner and their positions: a pure state machine beside the coordinator.

A subscriber first catches up, page by page and at its own pace (:meth:`Hub.page`), out of the event log, which is the
journal. When a page reaches the present it goes *live*: from then on it is sent each transaction as it becomes visible,
in txid order. The last position is stored with the subscription (on Cloudflare in the attachment of a hibernating
WebSocket), so that a restarted object continues exactly there.

A commit touches only subscribers that listen to what it changed (:class:`Audience`).

Publishing follows the watermark. After a start the coordinator does not know in detail what had finished before, so the
hub waits until it serves and then reads the log from each live subscriber's last transaction on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from kontract.core import limits
from kontract.core.events import (
    Batch,
    End,
    Page,
    Parcel,
    Subscription,
    batch_of,
    parse_position,
    position,
)
from kontract.core.protocol.audience import Audience, Subscriber
from kontract.core.protocol.records import Record


class LogHead(Struct, frozen=True):
    """The event log: its generation, and the highest txid whose events are gone."""

    generation: str
    floor: int


class EventLog(Protocol):
    """The journal, as a log of committed transactions."""

    def log_head(self) -> LogHead:
        """Return where the log begins."""
        ...

    def committed(self, after: int, up_to: int) -> list[Record]:
        """Return the first committed records above ``after`` up to ``up_to``, in txid order; none: there are none.

        At most limits.EVENT_PAGE_TRANSACTIONS, and no further one once they have limits.EVENT_PAGE_BYTES.
        """
        ...

    def published(self) -> int:
        """Return up to which transaction all streams were up to date; 0 if unknown."""
        ...

    def write_published(self, txid: int) -> None:
        """Store that for as long as streams may live; a new journal does not have it."""
        ...


PUBLISHED_EVERY = 64
"""Transactions after which the published position is stored: an object that wakes reads at most this many."""


class Hub:
    """The subscribers of one owner."""

    def __init__(self, log: EventLog) -> None:
        """Nobody listens yet."""
        self._log = log
        self._audience = Audience()
        self._last_number = 0
        self._caught_up = False
        self._noted = 0

    def __len__(self) -> int:
        """Count the subscribers."""
        return len(self._audience)

    def has_room(self, user: str) -> bool:
        """Whether ``user`` may open another stream."""
        return self._audience.of_user(user) < limits.STREAMS_PER_USER and len(self) < limits.STREAMS

    def add(self, subscriber: Subscriber) -> None:
        """Add a new subscriber."""
        self._last_number += 1
        subscriber.subscription.number = self._last_number
        self._audience.add(subscriber)
        subscriber.keep()

    def restore(self, subscribers: Iterable[Subscriber]) -> None:
        """Add subscribers whose connections have outlived an earlier life of this object."""
        for subscriber in subscribers:
            self._audience.add(subscriber)
            self._last_number = max(self._last_number, subscriber.subscription.number)

    def remove(self, number: int) -> None:
        """Forget a subscriber that has gone."""
        self._audience.remove(number)

    def find(self, number: int) -> Subscriber | None:
        """Return a subscriber by its number."""
        return self._audience.find(number)

    def page(self, subscriber: Subscriber, since: str | None, watermark: int) -> Page:
        """Return the transactions after ``since`` (None: only future ones), and go live at the end."""
        subscription, head = subscriber.subscription, self._log.log_head()
        if since is None:
            return self._live(subscriber, Page(position(head.generation, watermark), live=True), watermark)
        parsed = parse_position(since)
        if parsed is None or parsed[0] != head.generation or parsed[1] > watermark:
            return self._reset(subscriber, "this position is not from this log", watermark)
        after = parsed[1]
        if after < head.floor:
            return self._reset(subscriber, "the events after this position are no longer stored", watermark)
        records = self._log.committed(after, watermark)
        if not records:
            return self._live(subscriber, Page(position(head.generation, watermark), live=True), watermark)
        batches = [batch for record in records if (batch := _relevant(record, subscription)) is not None]
        return Page(position(head.generation, records[-1].txid), batches)

    def publish(self, records: list[Record], watermark: int) -> None:
        """Send transactions that have become visible, in txid order. Called with every step while serving."""
        if not self._caught_up:
            self._caught_up = True
            self._catch_up(watermark)
            return
        self._send(records)
        if watermark - self._noted >= PUBLISHED_EVERY:
            self.note(watermark)

    def interrupt(self) -> None:
        """Prepare for a new coordinator, which starts from the journal: publish nothing until it serves."""
        self._caught_up = False

    def end_session(self, session: str) -> None:
        """End the streams of a session that was ended."""
        for subscriber in self._audience.of_session(session):
            self._end(subscriber, "session")

    def cut(self) -> None:
        """Close every stream without an end event: clients reconnect and resume where they were."""
        for subscriber in self._audience:
            self._close(subscriber)

    def end_all(self, reason: str) -> None:
        """End every stream: the coordinator has stopped, and another one publishes."""
        for subscriber in self._audience:
            self._end(subscriber, reason)

    def note(self, watermark: int) -> None:
        """Store that all streams are up to date: before the log drops what did not concern them, and regularly.

        It is one mark for all streams. What was sent to a stream after that is stored with its subscription.
        """
        if self._caught_up and watermark > self._noted:
            self._noted = watermark
            self._log.write_published(watermark)

    def _send(self, records: list[Record]) -> None:
        for record in records:
            listeners = self._audience.of(record.writes)
            parcels: dict[object, Parcel | None] = {}  # most of them are sent the same
            for subscriber in listeners:
                subscription = subscriber.subscription
                if not subscription.live or subscription.last >= record.txid:
                    continue
                same = (tuple(subscription.tables), subscription.user if subscription.own else None)
                if same not in parcels:
                    batch = _relevant(record, subscription)
                    parcels[same] = Parcel(batch) if batch is not None else None
                parcel = parcels[same]
                if parcel is not None:
                    subscription.last = record.txid
                    subscriber.keep()
                    subscriber.send(parcel)

    def _end(self, subscriber: Subscriber, reason: str) -> None:
        subscriber.send(Parcel(End(reason)))
        self._close(subscriber)

    def _close(self, subscriber: Subscriber) -> None:
        subscriber.close()
        self.remove(subscriber.subscription.number)

    def _catch_up(self, watermark: int) -> None:
        """Send what was missed between two lives of this object. The log is read once for all streams."""
        floor, published = self._log.log_head().floor, self._log.published()
        after = watermark
        for subscriber in self._audience:
            subscription = subscriber.subscription
            if not subscription.live:
                continue
            last = max(subscription.last, published)
            if last < floor or last > watermark:
                self._end(subscriber, "restart")  # the client reconnects with its own position
            else:
                subscription.last = last
                after = min(after, last)
        while records := self._log.committed(after, watermark):
            self._send(records)
            after = records[-1].txid
        self._noted = published
        self.note(watermark)

    @staticmethod
    def _live(subscriber: Subscriber, page: Page, watermark: int) -> Page:
        subscriber.subscription.live = True
        subscriber.subscription.last = watermark
        subscriber.keep()
        return page

    def _reset(self, subscriber: Subscriber, reason: str, watermark: int) -> Page:
        at = position(self._log.log_head().generation, watermark)
        return self._live(subscriber, Page(at, live=True, reset=reason), watermark)


def _relevant(record: Record, subscription: Subscription) -> Batch | None:
    """Return the changes of a record that concern a subscription; None when there are none."""
    writes = [write for write in record.writes if subscription.hears(write.table, write.owner or "")]
    return batch_of(record.txid, writes) if writes else None
