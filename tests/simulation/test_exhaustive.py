"""Every fault at every boundary of small scenarios, and pairs of faults: the real core and shell, the same judges.

``CASE='two increments/12:lost'`` replays one case and prints its trace. ``PAIRS='idempotent'`` runs all pairs of that
scenario, ``PAIRS=all`` those of every scenario (hours). A boundary's number and kind are in the trace.
"""

import os
import time
from collections import Counter

import pytest

from simulation.faults import FAULTS, Fault
from simulation.mutants import MUTANTS, SHAPES
from simulation.processes import processes
from simulation.scenarios import SCENARIOS, further, pairs, play, read, singles, write

PAIRED = ("blind write", "read-modify-write")
"""Scenarios small enough for all pairs of faults in CI."""


def report(wrong):
    return "\n".join(f"CASE={case!r}: {what}" for case, what in wrong[:20])


@pytest.fixture(scope="module")
def pool():
    with processes() as executor:
        yield executor


@pytest.mark.long
@pytest.mark.timeout(0)
def test_every_fault_at_every_boundary(pool, capsys):
    if "CASE" in os.environ:
        world = play(*read(os.environ["CASE"]))
        with capsys.disabled():
            print("", *world.kernel.trace, *world.wrong, sep="\n")
        assert world.wrong == []
        return
    started = time.monotonic()
    results = list(pool.map(singles, SCENARIOS))
    boundaries = sum(result[0] for result in results)
    happened = sum((result[1] for result in results), Counter())
    wrong = [each for result in results for each in result[2]]
    with capsys.disabled():
        print(f"\n{happened.total()} faults at {boundaries} boundaries in {time.monotonic() - started:.0f} s")
    assert not wrong, f"{len(wrong)} cases fail; replay one with CASE=...\n{report(wrong)}"
    assert set(happened) == {(kind, fault) for kind, faults in FAULTS.items() for fault in faults}
    assert {fault for _, fault in happened} == set(Fault)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_every_pair_of_faults(pool, capsys):
    if "CASE" in os.environ:
        return
    chosen = os.environ.get("PAIRS", ",".join(PAIRED))
    names = list(SCENARIOS) if chosen == "all" else chosen.split(",")
    started = time.monotonic()
    firsts = [(name, first) for name in names for first in further(play(name))]
    results = list(pool.map(pairs, *zip(*firsts, strict=True), chunksize=4))
    wrong = [each for result in results for each in result[1]]
    with capsys.disabled():
        seconds = time.monotonic() - started
        print(f"\n{sum(result[0] for result in results)} pairs of faults in {seconds:.0f} s ({', '.join(names)})")
    assert not wrong, f"{len(wrong)} cases fail; replay one with CASE=...\n{report(wrong)}"


def test_a_case_is_its_name():
    """What a failure prints is all that is needed to see it again."""
    plan = ((3, Fault.LATE), (17, Fault.COORDINATOR_AFTER))
    assert read(write("two increments", plan)) == ("two increments", plan)
    assert play("two increments", plan).digest() == play(*read(write("two increments", plan))).digest()


@pytest.mark.parametrize("name", SHAPES)
def test_one_fault_is_enough_to_notice_a_broken_variant(name):
    """What enumeration would have found: each variant is caught in the scenario that is made for it."""
    scenario, variant = SHAPES[name], MUTANTS[name]
    dry = play(scenario, (), variant)
    assert dry.wrong or any(play(scenario, (step,), variant).wrong for step in further(dry))


def test_two_faults_are_enough_for_the_one_that_needs_two():
    """Sent twice and refused once: what is refused is applied."""
    (name,) = MUTANTS.keys() - SHAPES.keys()
    scenario, variant = "blind write", MUTANTS[name]
    firsts = [step for step in further(play(scenario, (), variant)) if step[1] is Fault.TWICE]
    assert any(
        play(scenario, (first, second), variant).wrong
        for first in firsts
        for second in further(play(scenario, (first,), variant), first[0])
        if second[1] is Fault.REFUSED
    )
