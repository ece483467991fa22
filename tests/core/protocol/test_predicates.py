"""The coordinator's reading of ``@>`` by hand-made cases; the real database judges it in tests/postgres."""

from __future__ import annotations

import pytest

from kontract.core.protocol.predicates import may_contain

YES = [
    ({"a": 1, "b": 2}, {"a": 1}),
    ({"a": 1}, {}),
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}),
    ({"a": {"b": 1}}, {"a": {}}),
    ({"a": [1, 2]}, {"a": []}),
    ({"a": [2, 1]}, {"a": [1, 1, 2]}),
    ({"a": [[1, 2], 3]}, {"a": [[1]]}),
    ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": 10**30}, {"a": 1e30}),
    ({"a": 2**53 + 1}, {"a": float(2**53)}),
    ({"a": 10**400}, {"a": 10**400}),
    ({"a": None}, {"a": None}),
    ({"a": ""}, {"a": ""}),
    ({"a": -0.0}, {"a": 0}),
]
NO = [
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    ({"a": True}, {"a": 1}),
    ({"a": 1}, {"a": True}),
    ({"a": False}, {"a": 0}),
    ({"a": False}, {"a": None}),
    ({"a": "1"}, {"a": 1}),
    ({"a": None}, {"a": {}}),
    ({}, {"a": None}),
    ({"a": {}}, {"a": []}),
    ({"a": []}, {"a": {}}),
    ({"a": 1}, {"a": [1]}),
    ({"a": []}, {"a": [1]}),
    ({"a": {"b": 1}}, {"a": {"b": 1, "c": 1}}),
    ({"a": [{"b": 1}, {"c": 1}]}, {"a": [{"b": 1, "c": 1}]}),
    ({"a": "x"}, {"a": "X"}),
]


@pytest.mark.parametrize(("document", "wanted"), YES)
def test_contained(document, wanted):
    """What PostgreSQL contains must be found, or a phantom is missed."""
    assert may_contain(document, wanted)


@pytest.mark.parametrize(("document", "wanted"), NO)
def test_not_contained(document, wanted):
    """What plainly differs is told apart, or everybody conflicts with everybody."""
    assert not may_contain(document, wanted)
