"""The room for bodies that are being received: for one address, for all, and given back."""

from __future__ import annotations

import pytest

from kontract.core import limits
from kontract.core.errors import RateLimitedError, UnavailableError
from kontract.server.body import BodyRoom

EACH = limits.BODIES_PER_ADDRESS_BYTES


def test_an_address_has_its_part_and_no_more():
    room = BodyRoom()
    room.take("203.0.113.7", EACH)
    with pytest.raises(RateLimitedError):
        room.take("203.0.113.7", 1)
    room.take("203.0.113.8", 1)
    room.give_back("203.0.113.7", EACH)
    room.take("203.0.113.7", EACH)


def test_all_addresses_together_have_theirs(monkeypatch):
    """Also those that are not known, which have no part of their own."""
    monkeypatch.setattr(limits, "BODIES_BYTES", 2 * EACH)
    room = BodyRoom()
    room.take("203.0.113.7", EACH - 1)
    room.take("", EACH + 1)
    with pytest.raises(UnavailableError):
        room.take("203.0.113.8", 1)
    room.give_back("", EACH + 1)
    room.take("203.0.113.8", 1)


def test_what_was_refused_takes_nothing():
    room = BodyRoom()
    for _ in range(3):
        with pytest.raises(RateLimitedError):
            room.take("203.0.113.7", EACH + 1)
    room.take("203.0.113.7", EACH)
