"""Seeds in their thousands, on all processors: until all are done, one fails, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from simulation.processes import WORKERS, processes

Failures = Callable[[int, int], list[tuple[int, list[str]]]]
"""Runs seeds (first, how many) and returns those that fail with what is wrong; a function of a module."""


def run_seeds(failures: Failures, seeds: int, *, chunk: int, fewest: int, budget_s: float, what: str) -> str:
    """Run ``seeds``, but no longer than ``budget_s`` once ``fewest`` are done; returns what to print.

    Raises AssertionError with the seeds that fail.
    """
    started = time.monotonic()
    done = 0
    found: list[tuple[int, list[str]]] = []
    with processes() as pool:
        while done < seeds and not found and (done < fewest or time.monotonic() - started < budget_s):
            firsts = range(done, min(seeds, done + chunk * WORKERS), chunk)
            for part in pool.map(failures, firsts, [min(chunk, seeds - first) for first in firsts]):
                found += part
            done = min(seeds, done + chunk * WORKERS)
    seconds = time.monotonic() - started
    report = "\n".join(f"SEED={seed}: {wrong[0]}" for seed, wrong in found)
    assert not found, f"{len(found)} of {done} {what} fail; replay one with SEED=...\n{report}"
    return f"\n{done} {what} in {seconds:.0f} s ({done / seconds:.0f} a second)"
