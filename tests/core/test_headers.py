"""Header fields that several parts of the gateway and a function have something to say in."""

from __future__ import annotations

import pytest

from kontract.core import headers


@pytest.mark.parametrize(
    ("before", "added", "after"),
    [
        ({}, "Origin", {"Vary": "Origin"}),
        ({"Vary": "Authorization"}, "Origin", {"Vary": "Authorization, Origin"}),
        ({"vary": "Accept, origin"}, "Origin", {"vary": "Accept, origin"}),
        ({"VARY": "*"}, "Origin", {"VARY": "*"}),
        ({"Vary": "a"}, "b, A, c", {"Vary": "a, b, c"}),
        ({"Other": "x"}, "Origin", {"Other": "x", "Vary": "Origin"}),
    ],
)
def test_a_list_keeps_what_is_in_it(before, added, after):
    """Each member once, under the name that is there."""
    headers.add(before, "Vary", added)
    assert before == after


def test_a_name_is_the_same_in_every_case():
    """Two fields that differ in it would both be sent."""
    found = {"cache-control": "max-age=60", "X-REQUEST-ID": "mine"}
    headers.put_default(found, "Cache-Control", "no-store")
    headers.put(found, "X-Request-Id", "theirs")
    assert found == {"cache-control": "max-age=60", "X-Request-Id": "theirs"}
