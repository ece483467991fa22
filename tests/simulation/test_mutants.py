"""A simulation that finds nothing is worth what it would have found: every broken variant must be caught."""

import pytest

from simulation.mutants import MUTANTS
from simulation.world import Variant, simulate

SEEDS = 1500  # the hardest to catch takes about 260


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_variant_is_caught(name):
    assert any(simulate(seed, MUTANTS[name]).wrong for seed in range(SEEDS)), f"{SEEDS} seeds did not notice: {name}"


def test_the_correct_variant_is_not():
    assert [seed for seed in range(300) if simulate(seed, Variant()).wrong] == []
