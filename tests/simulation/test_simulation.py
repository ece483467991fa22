"""Thousands of seeded runs of the real core and shell over a simulated network and database.

``SEED=123 make test`` (or pytest on this file) replays one seed and prints its trace; ``SEEDS=100000`` runs more.
"""

import os
from collections import Counter

import pytest

from kontract.core.errors import Code
from simulation.faults import Fault
from simulation.seeds import parts, run_seeds
from simulation.world import failures, run_seed

CHUNK = 100


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seeds", parts(500, 4000))
def test_every_seed_is_serializable_and_nothing_is_lost(seeds, capsys):
    if "SEED" in os.environ:
        world = run_seed(int(os.environ["SEED"]))
        with capsys.disabled():
            print("", *world.kernel.trace, *world.wrong, sep="\n")
        assert world.wrong == []
        return
    said = run_seeds(failures, seeds, chunk=CHUNK, what="seeds")
    with capsys.disabled():
        print(said)


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_replays_exactly(seed):
    assert run_seed(seed).digest() == run_seed(seed).digest()


def test_seeds_differ():
    assert len({run_seed(seed).digest() for seed in range(20)}) == 20


@pytest.fixture(scope="module")
def worlds():
    return [run_seed(seed) for seed in range(300)]


def test_the_runs_contain_what_they_are_meant_to(worlds):
    """Faults that never happen prove nothing: count commits, conflicts, unknown outcomes, crashes, lost journals."""
    attempts = [attempt for world in worlds for attempt in world.attempts]
    assert sum(attempt.outcome == "ok" and bool(attempt.writes) for attempt in attempts) > 1500
    assert sum(attempt.outcome == "fail" for attempt in attempts) > 500
    assert sum(attempt.outcome == "unknown" for attempt in attempts) > 5
    nodes = [node for world in worlds for node in world.nodes]
    assert sum(node.restarts for node in nodes) > 100
    assert sum(node.journals_lost for node in nodes) > 20
    assert len({world.opened.__qualname__ for world in worlds}) == 6
    events = Counter(entry[1] for world in worlds for entry in world.kernel.trace)
    assert {"apply", "resolve", "crash", "journal lost", "epoch", "failed", "done"} <= events.keys()
    logged = Counter(entry[2] for world in worlds for entry in world.kernel.trace if entry[1] == "log")
    assert logged["coordinator_failed"] > 50  # a journal that cannot be written
    assert logged["coordinator_start"] > 5  # a database that does not answer when a coordinator starts


def test_second_coordinators_take_over_and_both_are_spoken_to(worlds):
    """The old one stays alive: it must meet the epoch, say FENCED, and be asked after that, too."""
    rivals = [world for world in worlds if len(world.nodes) > 1]
    assert len(rivals) > 50
    assert sum(attempt.superseded for world in rivals for attempt in world.attempts) > 40
    told = [entry for world in rivals for entry in world.kernel.trace if entry[1] == "failed"]
    assert sum(entry[-1] is Code.FENCED for entry in told) > 100
    epochs = [{commit.epoch for commit in world.database.commits} for world in rivals]
    assert sum(len(each) > 1 for each in epochs) > 20  # commits before and after


def test_plain_tables_make_readers_begin_again(worlds):
    plain = [world for world in worlds if world.database.plain]
    assert 50 < len(plain) < 150
    assert sum(attempt.overtaken for world in plain for attempt in world.attempts) > 20
    assert not any(attempt.overtaken for world in worlds if world not in plain for attempt in world.attempts)


def test_versions_and_fences_are_collected_while_transactions_run(worlds):
    short = [world for world in worlds if world.short]
    assert sum(world.database.collected["rows"] for world in short) > 100
    assert sum(world.database.collected["fences"] for world in short) > 50
    readers = [world.kernel.trace for world in short if world.pauses_were > 0]
    assert any(entry[1] == "collect" and entry[-1] for trace in readers for entry in trace)


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
def test_no_fault_is_left_to_the_exhaustive_runs_alone(worlds, fault):
    assert any(fault in world.odds.happened for world in worlds)
