"""Processes for the simulation, as many as there are processors."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor

SPAWN = multiprocessing.get_context("spawn")
"""Processes that inherit nothing: forked ones drag the heap of a whole test run through every garbage collection."""

WORKERS = min(os.cpu_count() or 1, 8)


def processes() -> ProcessPoolExecutor:
    """A pool whose processes end with this one, however it ends."""
    return ProcessPoolExecutor(WORKERS, SPAWN, initializer=_end_with, initargs=(os.getpid(),))


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
