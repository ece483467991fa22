"""Seeds in their thousands, on all processors, until all are done or one fails.

They are counted, not timed: what is proven is the same on every machine, however busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from simulation.processes import WORKERS, processes

Failures = Callable[[int, int], list[tuple[int, list[str]]]]
"""Runs seeds (first, how many) and returns those that fail with what is wrong; a function of a module."""


def parts(short: int, long: int) -> list[Any]:
    """Return ranges of seeds, as parameters: the first ``short`` for `make test`, and the rest up to ``long``.

    With SEED or SEEDS in the environment there is one range.
    """
    if "SEED" in os.environ or "SEEDS" in os.environ:
        return [range(int(os.environ.get("SEEDS", "0")))]
    return [range(short), pytest.param(range(short, long), marks=pytest.mark.long)]


def run_seeds(failures: Failures, seeds: range, *, chunk: int, what: str) -> str:
    """Run all ``seeds`` and return what to print. Raises AssertionError with the seeds that fail."""
    started = time.monotonic()
    done = 0
    found: list[tuple[int, list[str]]] = []
    with processes() as pool:
        while done < len(seeds) and not found:
            firsts = range(seeds.start + done, min(seeds.stop, seeds.start + done + chunk * WORKERS), chunk)
            for part in pool.map(failures, firsts, [min(chunk, seeds.stop - first) for first in firsts]):
                found += part
            done = min(len(seeds), done + chunk * WORKERS)
    seconds = time.monotonic() - started
    report = "\n".join(f"SEED={seed}: {wrong[0]}" for seed, wrong in found)
    assert not found, f"{len(found)} of {done} {what} fail; replay one with SEED=...\n{report}"
    return f"\n{done} {what} in {seconds:.0f} s ({done / seconds:.0f} a second)"
