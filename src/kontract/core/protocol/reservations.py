"""Reservations of contested keys: a queue in order of arrival, so that hot keys make progress.

Optimistic validation alone starves callers on a hot key. A caller that lost reserves the keys it worked on; while it is
first in line, no other caller may write them. Reservations are totally ordered by their arrival and a caller holds one
at a time, so two callers can never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from kontract.core import limits
from kontract.core.messages import Key

WHOLE_TABLE = ""
"""The id that stands for all rows of a table: reserved when a predicate, not a key, was lost over."""


@dataclass(slots=True)
class Reservation:
    """A caller's place in line. ``granted_at`` is None while an earlier caller wants one of its keys.

    ``keys`` is used as a set that keeps its order: which key a conflict names must not depend on hashes.
    """

    call: str
    arrived_at: int
    keys: dict[Key, None] = field(default_factory=dict)
    granted_at: int | None = None
    seen_at: int = 0


class Place(Struct):
    """A reservation in a checkpoint."""

    call: str
    arrived_at: int
    keys: list[Key]
    granted_at: int | None
    seen_at: int


class Reservations:
    """All reservations of an owner, first come first served."""

    def __init__(self, places: Iterable[Place] = ()) -> None:
        """Start with the dumped line (:meth:`dump`)."""
        self._line: dict[str, Reservation] = {}  # a dict keeps the order of arrival
        for place in places:
            self._line[place.call] = Reservation(
                place.call, place.arrived_at, dict.fromkeys(place.keys), place.granted_at, place.seen_at
            )

    def dump(self) -> list[Place]:
        """Return the line, for a checkpoint."""
        return [Place(r.call, r.arrived_at, list(r.keys), r.granted_at, r.seen_at) for r in self._line.values()]

    def __len__(self) -> int:
        """Count the callers in line."""
        return len(self._line)

    def __contains__(self, call: str) -> bool:
        """Whether a call is in line."""
        return call in self._line

    def reserve(self, call: str, keys: list[Key], now: int) -> None:
        """Put ``call`` in line for ``keys``, or add them to the place it has."""
        mine = self._line.get(call)
        if mine is None:
            mine = self._line[call] = Reservation(call, now)
        mine.seen_at = now
        mine.keys.update(dict.fromkeys(keys[: limits.RESERVED_KEYS - len(mine.keys)]))

    def release(self, call: str) -> None:
        """Leave the line: the caller committed, gave up, or its time is over."""
        self._line.pop(call, None)

    def contested(self, keys: list[Key], call: str) -> Key | None:
        """Return which of ``keys`` a caller ahead of ``call`` wants (any caller, if it is not in line).

        The first one in line decides, and of its keys the one that it reserved first.
        """
        if not self._line:
            return None
        wanted = set(keys) | {Key(key.ptr, WHOLE_TABLE) for key in keys}
        tables = {key.ptr for key in keys if key.id == WHOLE_TABLE}
        for other in self._line.values():
            if other.call == call:
                return None
            for key in other.keys:
                if key in wanted or key.ptr in tables:
                    return key
        return None

    def is_next(self, call: str, now: int) -> bool:
        """Return whether no caller ahead of ``call`` wants one of its keys; starts its time when this is first so."""
        mine = self._line.get(call)
        if mine is None:
            return True
        mine.seen_at = now
        if self.contested(list(mine.keys), call) is not None:
            return False
        if mine.granted_at is None:
            mine.granted_at = now
        return True

    def expire(self, now: int) -> None:
        """Drop expired reservations: granted too long ago, or waiting longer than a call may last."""
        for call, place in list(self._line.items()):
            # Waiting callers keep asking: one that does not has died, or works on something else.
            since = place.seen_at if place.granted_at is None else place.granted_at
            if now - since >= limits.RESERVATION_MS or now - place.arrived_at >= limits.TRANSACTION_MS:
                del self._line[call]

    def next_expiry(self) -> int | None:
        """When :meth:`expire` has something to do, in the coordinator's milliseconds."""
        times = [
            min(
                (place.seen_at if place.granted_at is None else place.granted_at) + limits.RESERVATION_MS,
                place.arrived_at + limits.TRANSACTION_MS,
            )
            for place in self._line.values()
        ]
        return min(times, default=None)
