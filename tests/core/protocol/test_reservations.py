"""The line before contested keys: first come, first served, and nobody for ever."""

from __future__ import annotations

from core.desk import key
from kontract.core import limits
from kontract.core.protocol.reservations import WHOLE_TABLE, Reservations


def test_the_first_in_line_goes_and_others_wait():
    """A holder is stopped by nobody; those behind and those outside are stopped by it."""
    line = Reservations()
    line.reserve("first", [key("a")], 0)
    line.reserve("second", [key("a"), key("b")], 1)
    assert line.contested([key("a")], "first") is None
    assert line.contested([key("a")], "second") == key("a")
    assert line.contested([key("b")], "outsider") == key("b")
    assert line.contested([key("c")], "outsider") is None
    assert line.is_next("first", 5)
    assert not line.is_next("second", 5)
    assert line.is_next("outsider", 5)
    line.release("first")
    assert line.is_next("second", 6)
    assert line.contested([key("a")], "second") is None


def test_the_key_that_is_named_does_not_depend_on_hashes():
    """A simulation is worth its seed only if the same seed takes the same way in every process."""
    line = Reservations()
    keys = [key(f"row-{n}") for n in range(30)]
    line.reserve("first", keys[:10], 0)
    line.reserve("first", keys[10:], 1)
    assert line.contested(keys[::-1], "other") == keys[0]
    assert line.contested(keys[:4:-1], "other") == keys[5]


def test_a_whole_table_stands_for_its_rows_and_the_other_way_round():
    """Somebody who lost over a predicate needs all rows of the table to keep still."""
    line = Reservations()
    line.reserve("first", [key(WHOLE_TABLE)], 0)
    assert line.contested([key("a")], "other") == key(WHOLE_TABLE)
    assert line.contested([key("a", ptr="elsewhere")], "other") is None
    line = Reservations()
    line.reserve("first", [key("a")], 0)
    assert line.contested([key(WHOLE_TABLE)], "other") == key("a")
    assert line.contested([key(WHOLE_TABLE, ptr="elsewhere")], "other") is None


def test_a_turn_lasts_two_seconds_from_when_it_came():
    """A caller that got its turn late still gets all of it; one that died blocks the others no longer than that."""
    line = Reservations()
    line.reserve("first", [key("a")], 0)
    line.reserve("second", [key("a")], 0)
    assert line.is_next("first", 100)
    assert not line.is_next("second", 100)
    assert line.next_expiry() == 100 + limits.RESERVATION_MS
    line.expire(99 + limits.RESERVATION_MS)
    assert len(line) == 2
    assert not line.is_next("second", 99 + limits.RESERVATION_MS), "it still asks for its turn"
    line.expire(100 + limits.RESERVATION_MS)
    assert len(line) == 1
    assert line.is_next("second", 3_000)
    assert line.next_expiry() == 3_000 + limits.RESERVATION_MS


def test_a_place_in_line_is_lost_by_who_does_not_ask_for_it():
    """A caller that died before its turn came blocks nobody for longer than a turn."""
    line = Reservations()
    line.reserve("dead", [key("a")], 0)
    line.reserve("alive", [key("a")], 500)
    assert not line.is_next("alive", limits.RESERVATION_MS - 1)
    line.expire(limits.RESERVATION_MS)
    assert line.is_next("alive", limits.RESERVATION_MS)


def test_nobody_stays_in_line_longer_than_a_call_may_last():
    """A caller that never comes back is dropped, and expiry is never due for ever."""
    line = Reservations()
    line.reserve("gone", [key("a")], 50)
    due = line.next_expiry()
    assert due is not None
    assert due <= 50 + limits.TRANSACTION_MS
    line.expire(50 + limits.TRANSACTION_MS)
    assert len(line) == 0
    assert line.next_expiry() is None


def test_a_place_keeps_its_time_of_arrival_when_keys_are_added():
    """Losing again must not send a caller to the back of the line."""
    line = Reservations()
    line.reserve("first", [key("a")], 0)
    line.reserve("second", [key("b")], 1)
    line.reserve("first", [key("b")], 2)
    assert line.is_next("first", 3)
    assert not line.is_next("second", 3)


def test_one_caller_cannot_reserve_the_world():
    """The number of keys one caller can hold is bounded."""
    line = Reservations()
    line.reserve("greedy", [key(str(n)) for n in range(limits.RESERVED_KEYS + 10)], 0)
    assert line.contested([key(str(limits.RESERVED_KEYS - 1))], "other") is not None
    assert line.contested([key(str(limits.RESERVED_KEYS))], "other") is None
