"""Conditions of filters, before they meet a table."""

import pytest

from kontract.core.model.conditions import after_prefix, between, ge, le, lt


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", None),
        ("a", "b"),
        ("Yoga", "Yogb"),
        ("a\ud7ff", "a\ue000"),  # no surrogates: they are no text
        ("a\U0010ffff", "b"),
        ("\U0010ffff\U0010ffff", None),
    ],
)
def test_the_first_text_after_all_with_a_prefix(text, after):
    assert after_prefix(text) == after
    if after is not None:
        assert text < text + "\U0010ffff" * 3 < after


def test_two_are_joined_with_an_ampersand_alone():
    """`and` would drop the first of them without a word."""
    assert (ge(1) & le(2)) == between(1, 2)
    with pytest.raises(TypeError, match="join two with &"):
        ge(1) and lt(2)
    with pytest.raises(TypeError, match="unsupported operand"):
        ge(1) & 2
