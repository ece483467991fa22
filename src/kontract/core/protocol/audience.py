"""The subscribers of one owner, indexed by what they listen to: a commit does not touch the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Protocol

from kontract.core.events import Parcel, Subscription
from kontract.core.messages import Write


class Subscriber(Protocol):
    """The connection of a stream."""

    subscription: Subscription

    def send(self, parcel: Parcel) -> None:
        """Send a frame. It never raises: a lost connection is reported elsewhere."""
        ...

    def keep(self) -> None:
        """Store ``subscription`` where it survives the process, if the connection does."""
        ...

    def close(self) -> None:
        """End the connection; it will be removed."""
        ...


class Audience:
    """Subscribers by number, table, user and session. A subscription's tables do not change while it is here."""

    def __init__(self) -> None:
        """Begin without subscribers."""
        self._all: dict[int, Subscriber] = {}
        self._users: Counter[str] = Counter()
        self._sessions: defaultdict[str, dict[int, Subscriber]] = defaultdict(dict)
        self._listeners: defaultdict[tuple[str, str | None], dict[int, Subscriber]] = defaultdict(dict)

    def __len__(self) -> int:
        """Count them."""
        return len(self._all)

    def __iter__(self) -> Iterator[Subscriber]:
        """Return them all, in the order of their numbers; they may be removed meanwhile."""
        return iter(list(self._all.values()))

    def of_user(self, user: str) -> int:
        """Count those of a user."""
        return self._users[user]

    def of_session(self, session: str) -> list[Subscriber]:
        """Return those of a session."""
        return list(self._sessions.get(session, {}).values())

    def of(self, writes: list[Write]) -> list[Subscriber]:
        """Return the subscribers that listen to one of these changes, each once, in the order of their numbers."""
        found: dict[int, Subscriber] = {}
        for key in {key for write in writes for key in ((write.table, None), (write.table, write.owner or ""))}:
            found.update(self._listeners.get(key, {}))
        return [found[number] for number in sorted(found)]

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber under its number."""
        subscription = subscriber.subscription
        self._all[subscription.number] = subscriber
        self._users[subscription.user] += 1
        self._sessions[subscription.session][subscription.number] = subscriber
        for key in _keys(subscription):
            self._listeners[key][subscription.number] = subscriber

    def find(self, number: int) -> Subscriber | None:
        """Return one by its number."""
        return self._all.get(number)

    def remove(self, number: int) -> None:
        """Remove a subscriber, if it is there."""
        subscriber = self._all.pop(number, None)
        if subscriber is None:
            return
        subscription = subscriber.subscription
        self._users[subscription.user] -= 1
        if not self._users[subscription.user]:
            del self._users[subscription.user]
        _remove(self._sessions, subscription.session, number)
        for key in _keys(subscription):
            _remove(self._listeners, key, number)


def _keys(subscription: Subscription) -> list[tuple[str, str | None]]:
    """Return the index keys of a subscription: a table, or a table and the owner of its rows."""
    return [
        (table, subscription.user if place in subscription.own else None)
        for place, table in enumerate(subscription.tables)
    ]


def _remove(index: defaultdict[Any, dict[int, Subscriber]], key: Any, number: int) -> None:
    del index[key][number]
    if not index[key]:
        del index[key]
