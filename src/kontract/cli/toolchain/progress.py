"""Progress in the terminal: one line per step, and a sign of life during long ones."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]

_TICK_SECONDS = 10.0  # long enough to keep a log short, short enough that nobody thinks it hangs


def say(text: str) -> None:
    """Print one line and flush it: stdout may be a pipe."""
    print(text, flush=True)


@contextmanager
def step(text: str, tell: Say = say) -> Iterator[None]:
    """Announce a step, give a sign of life every ten seconds, and say how long it took if it was long."""
    started = time.monotonic()
    done = threading.Event()
    tell(f"  {text} ...")

    def tick() -> None:
        while not done.wait(_TICK_SECONDS):
            tell(f"    still running: {text} ({time.monotonic() - started:.0f} s)")

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
    if time.monotonic() - started > _TICK_SECONDS:
        tell(f"    done after {time.monotonic() - started:.0f} s")


def warn(text: str) -> None:
    """Print one line to stderr, visible even when stdout is redirected."""
    print(text, file=sys.stderr, flush=True)
