"""Every seed of a range is run, and each that fails is named."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from simulation import seeds
from simulation.seeds import run_seeds


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    """In place of processes, which would not find the functions below."""
    monkeypatch.setattr(seeds, "processes", lambda: ThreadPoolExecutor(2))


def named(first, count):
    """Fail each seed with the part that it came in."""
    return [(seed, [f"in {first}+{count}"]) for seed in range(first, first + count)]


def fails_at_the_end(first, count):
    return [(seed, ["wrong"]) for seed in range(first, first + count) if seed == 44]


def nothing(_first, _count):
    return []


def test_the_parts_are_the_range():
    with pytest.raises(AssertionError) as caught:
        run_seeds(named, range(10, 25), chunk=10, what="seeds")
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("SEED=")] == [
        f"SEED={seed}: in {'10+10' if seed < 20 else '20+5'}" for seed in range(10, 25)
    ]


def test_one_that_fails_at_the_end_is_found():
    with pytest.raises(AssertionError, match="SEED=44: wrong"):
        run_seeds(fails_at_the_end, range(10, 45), chunk=3, what="seeds")
    assert "34 seeds" in run_seeds(fails_at_the_end, range(10, 44), chunk=3, what="seeds")
    assert "35 seeds" in run_seeds(nothing, range(10, 45), chunk=3, what="seeds")
