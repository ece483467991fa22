"""Thousands of seeded runs of the real core over a simulated network and database.

``SEED=123 make test`` (or pytest on this file) replays one seed and prints its trace; ``SEEDS=100000`` runs more.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from simulation.world import simulate

SEEDS = int(os.environ.get("SEEDS", "10000"))
# Without SEEDS a slow machine stops early, so that CI stays within two minutes; it says how far it came.
BUDGET_S = 60.0 if "SEEDS" not in os.environ else float("inf")
FEWEST = 500
CHUNK = 100


def failures(first, count):
    """Run ``count`` seeds; return those that fail with what is wrong. Half of the seeds never lose a journal."""
    return [(seed, wrong) for seed in range(first, first + count) if (wrong := run(seed).wrong)]


def run(seed):
    return simulate(seed, lose_journal=seed % 2 == 1)


@pytest.mark.timeout(0)
def test_every_seed_is_serializable_and_nothing_is_lost(capsys):
    if "SEED" in os.environ:
        world = run(int(os.environ["SEED"]))
        with capsys.disabled():
            print("", *world.kernel.trace, *world.wrong, sep="\n")
        assert world.wrong == []
        return
    started = time.monotonic()
    done = 0
    found = []
    workers = min(os.cpu_count() or 1, 8)
    with ProcessPoolExecutor(workers) as pool:
        while done < SEEDS and not found and (done < FEWEST or time.monotonic() - started < BUDGET_S):
            firsts = range(done, min(SEEDS, done + CHUNK * workers), CHUNK)
            for part in pool.map(failures, firsts, [min(CHUNK, SEEDS - first) for first in firsts]):
                found += part
            done = min(SEEDS, done + CHUNK * workers)
    seconds = time.monotonic() - started
    with capsys.disabled():
        print(f"\n{done} seeds in {seconds:.0f} s ({done / seconds:.0f} a second)")
    report = "\n".join(f"SEED={seed}: {wrong[0]}" for seed, wrong in found)
    assert not found, f"{len(found)} of {done} seeds fail; replay one with SEED=...\n{report}"


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_replays_exactly(seed):
    assert run(seed).digest() == run(seed).digest()


def test_seeds_differ():
    assert len({run(seed).digest() for seed in range(20)}) == 20


def test_the_runs_contain_what_they_are_meant_to():
    """Faults that never happen prove nothing: count commits, conflicts, unknown outcomes, crashes, lost journals."""
    worlds = [run(seed) for seed in range(300)]
    attempts = [attempt for world in worlds for attempt in world.attempts]
    committed = sum(attempt.outcome == "ok" and bool(attempt.writes) for attempt in attempts)
    assert committed > 1500
    assert sum(attempt.outcome == "fail" for attempt in attempts) > 500
    assert sum(attempt.outcome == "unknown" for attempt in attempts) > 5
    assert sum(world.shell.restarts for world in worlds) > 100
    assert sum(world.shell.journals_lost for world in worlds) > 20
    assert len({world.opened.__qualname__ for world in worlds}) == 5
    events = {entry[1] for world in worlds for entry in world.kernel.trace}
    assert {"apply", "resolve", "crash", "start", "failed", "done"} <= events


@pytest.mark.parametrize("seed", [0, 125, 351, 722, 955, 1960])
def test_seeds_that_once_found_an_error(seed):
    """All with a lost journal: a false acknowledgement, snapshots that changed, a repeated call applied twice."""
    assert simulate(seed, lose_journal=True).wrong == []
