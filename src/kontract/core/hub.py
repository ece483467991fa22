"""Who listens to an owner's changes, and what each has been sent: a pure state machine beside the coordinator.

A subscriber first catches up, page by page and at its own pace (:meth:`Hub.page`), out of the event log, which is the
journal. When a page reaches the present it goes *live*: from then on it is sent each transaction as it becomes visible,
in txid order. What was sent last is kept with the subscription (on Cloudflare in the attachment of a hibernating
WebSocket), so that an object which starts again goes on exactly there.

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
    Subscription,
    batch_of,
    encode_frame,
    parse_position,
    position,
)
from kontract.core.records import Record


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


class Subscriber(Protocol):
    """A connection to somebody who listens."""

    subscription: Subscription

    def send(self, text: str) -> None:
        """Send a frame; never raises, a connection that is gone says so elsewhere."""
        ...

    def keep(self) -> None:
        """Keep ``subscription`` where it survives the process, if the connection does."""
        ...

    def close(self) -> None:
        """End the connection; it will be removed."""
        ...


class Hub:
    """The subscribers of one owner."""

    def __init__(self, log: EventLog) -> None:
        """Nobody listens yet."""
        self._log = log
        self._subscribers: dict[int, Subscriber] = {}
        self._last_number = 0
        self._caught_up = False

    def __len__(self) -> int:
        """Count the subscribers."""
        return len(self._subscribers)

    def has_room(self, user: str) -> bool:
        """Whether ``user`` may open another stream."""
        mine = sum(other.subscription.user == user for other in self._subscribers.values())
        return mine < limits.STREAMS_PER_USER and len(self._subscribers) < limits.STREAMS

    def add(self, subscriber: Subscriber) -> None:
        """Take a new subscriber."""
        self._last_number += 1
        subscriber.subscription.number = self._last_number
        self._subscribers[self._last_number] = subscriber
        subscriber.keep()

    def restore(self, subscribers: Iterable[Subscriber]) -> None:
        """Take subscribers whose connections have outlived an earlier life of this object."""
        for subscriber in subscribers:
            number = subscriber.subscription.number
            self._subscribers[number] = subscriber
            self._last_number = max(self._last_number, number)

    def remove(self, number: int) -> None:
        """Forget a subscriber that has gone."""
        self._subscribers.pop(number, None)

    def find(self, number: int) -> Subscriber | None:
        """Return a subscriber by its number."""
        return self._subscribers.get(number)

    def page(self, subscriber: Subscriber, since: str | None, watermark: int) -> Page:
        """Return what comes after ``since`` (None: nothing, only what comes later), and go live at its end."""
        subscription, head = subscriber.subscription, self._log.log_head()
        if since is None:
            return self._live(subscriber, Page(position(head.generation, watermark), live=True), watermark)
        parsed = parse_position(since)
        if parsed is None or parsed[0] != head.generation or parsed[1] > watermark:
            return self._reset(subscriber, "this position is not of this log", watermark)
        after = parsed[1]
        if after < head.floor:
            return self._reset(subscriber, "what came after this position is not kept any more", watermark)
        records = self._log.committed(after, watermark)
        if not records:
            return self._live(subscriber, Page(position(head.generation, watermark), live=True), watermark)
        batches = [batch for record in records if (batch := _relevant(record, subscription.tables)) is not None]
        return Page(position(head.generation, records[-1].txid), batches)

    def publish(self, records: list[Record], watermark: int) -> None:
        """Send transactions that have become visible, in txid order. Called with every step while serving."""
        if not self._caught_up:
            self._caught_up = True
            self._catch_up(watermark)
            return
        if not records or not self._subscribers:
            return
        texts: dict[frozenset[str], str | None] = {}
        for record in records:
            texts.clear()
            for subscriber in list(self._subscribers.values()):
                subscription = subscriber.subscription
                if not subscription.live or subscription.last >= record.txid:
                    continue
                tables = frozenset(subscription.tables)
                if tables not in texts:
                    texts[tables] = _text(_relevant(record, subscription.tables))
                text = texts[tables]
                if text is not None:
                    subscription.last = record.txid
                    subscriber.keep()
                    subscriber.send(text)

    def interrupt(self) -> None:
        """Prepare for another coordinator, which starts from the journal: publish nothing until it serves."""
        self._caught_up = False

    def end_session(self, session: str) -> None:
        """End the streams of a session that was ended."""
        self._end(lambda subscription: subscription.session == session, "session")

    def cut(self) -> None:
        """Close every stream without a word: whoever listens comes back, and resumes where it was."""
        for number, subscriber in list(self._subscribers.items()):
            subscriber.close()
            self.remove(number)

    def end_all(self, reason: str) -> None:
        """End every stream: the coordinator has stopped, and another one publishes."""
        self._end(lambda _: True, reason)

    def trim(self, watermark: int) -> None:
        """Note for all who are up to date that they are, before the log forgets what did not concern them."""
        if not self._caught_up:
            return
        for subscriber in self._subscribers.values():
            subscription = subscriber.subscription
            if subscription.live and subscription.last < watermark:
                subscription.last = watermark
                subscriber.keep()

    def _end(self, chosen: object, reason: str) -> None:
        assert callable(chosen)
        for number, subscriber in list(self._subscribers.items()):
            if chosen(subscriber.subscription):
                subscriber.send(encode_frame(End(reason)).decode())
                subscriber.close()
                self.remove(number)

    def _catch_up(self, watermark: int) -> None:
        """Send live subscribers what they have missed between two lives of this object."""
        head = self._log.log_head()
        for number, subscriber in list(self._subscribers.items()):
            subscription = subscriber.subscription
            if not subscription.live:
                continue
            if subscription.last < head.floor or subscription.last > watermark:
                subscriber.send(encode_frame(End("restart")).decode())  # it comes back with its own position
                subscriber.close()
                self.remove(number)
                continue
            after = subscription.last
            while records := self._log.committed(after, watermark):
                for record in records:
                    text = _text(_relevant(record, subscription.tables))
                    if text is not None:
                        subscriber.send(text)
                after = records[-1].txid
            subscription.last = watermark
            subscriber.keep()

    @staticmethod
    def _live(subscriber: Subscriber, page: Page, watermark: int) -> Page:
        subscriber.subscription.live = True
        subscriber.subscription.last = watermark
        subscriber.keep()
        return page

    def _reset(self, subscriber: Subscriber, reason: str, watermark: int) -> Page:
        at = position(self._log.log_head().generation, watermark)
        return self._live(subscriber, Page(at, live=True, reset=reason), watermark)


def _relevant(record: Record, tables: list[str]) -> Batch | None:
    """Return the changes of a record to these tables; None when there are none."""
    writes = [write for write in record.writes if write.table in tables]
    return batch_of(record.txid, writes) if writes else None


def _text(batch: Batch | None) -> str | None:
    return encode_frame(batch).decode() if batch is not None else None
